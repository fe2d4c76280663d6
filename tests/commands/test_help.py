"""--help of every command: complete, from one source, readable, and without torch."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mltrain.cli import COMMANDS, Command
from mltrain.config.option_help import field_meanings
from mltrain.config.schema import section_options
from mltrain.config.types import Choice, OneOf
from mltrain.text import spell
from tests.commands.conftest import Call
from tests.promises.runs import environment


def command_of(name: str) -> Command:
    found = importlib.import_module(f"mltrain.commands.{name}").COMMAND
    assert isinstance(found, Command)
    return found


WITH_OPTIONS = [name for name in COMMANDS if command_of(name).options is not None]


def test_every_module_is_a_command_and_the_reverse() -> None:
    folder = Path(importlib.import_module("mltrain.commands").__path__[0])
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_purpose_examples_and_lines_that_fit(name: str, call: Call) -> None:
    code, out, err = call(name, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 120
    assert f"    mltrain {name}" in out, "an example"
    assert "None" not in out and "tools/" not in out
    assert call(name, "-h").out == out


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_every_option_is_in_the_help_with_default_meaning_and_choices(name: str, call: Call) -> None:
    options = command_of(name).options
    assert options is not None
    meanings, shown = field_meanings(options), call(name, "--help").out
    assert set(meanings) == set(section_options(options)), "each field has a docstring"
    for key, option in section_options(options).items():
        lines = re.findall(rf"^    {key}={re.escape(spell(option.default))} {{3,}}(\S.*)$", shown, re.MULTILINE)
        assert len(lines) == 1, f"{key} once"
        text = " ".join(shown.partition(f"\n    {key}=")[2].split("\n    --")[0].split())
        kinds = option.kind.options if isinstance(option.kind, OneOf) else (option.kind,)
        for choice in [value for kind in kinds if isinstance(kind, Choice) for value in kind.values]:
            assert re.search(rf"\b{choice}\b", text), f"{key}={choice}"
        if option.least is not None:
            assert f"({'at least ' if option.most is None else ''}{option.least}" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_docstring_of_a_command_leaves_options_to_their_fields(name: str) -> None:
    about = command_of(name).about or ""
    assert not re.findall(r"^    \S+=\S+ {3,}", about, re.MULTILINE)
    assert "--cfg" not in about and "--config-dir" not in about


def test_help_of_every_command_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['timm'] = sys.modules['matplotlib'] = None\n"
        "from mltrain import cli\n"
        "for name in cli.COMMANDS:\n"
        "    try: cli.main(name, ['--help'])\n"
        "    except SystemExit as left: assert left.code == 0, name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mltrain ") > len(COMMANDS)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_command_all_commands_are_listed(words: list[str], call: Call) -> None:
    code, out, err = call(*words)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[2:]] == list(COMMANDS)


def test_report_without_arguments_shows_its_help(call: Call) -> None:
    assert call("report") == call("report", "--help")
