"""Print the completion of commands, groups, options and keys for bash, zsh or fish.

    mltrain completion bash             add to ~/.bashrc:  eval "$(mltrain completion bash)"
    mltrain completion zsh              add to ~/.zshrc, after compinit:  eval "$(mltrain completion zsh)"
    mltrain completion fish             add to ~/.config/fish/config.fish:  mltrain completion fish | source

The last column is the line that sets it up for every new shell.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mltrain import console
from mltrain.cli import COMMANDS, Command
from mltrain.config.overrides import EXPERIMENT, Source
from mltrain.config.schema import INJECTED, SECTIONS, Option, RootOptions, section_options
from mltrain.config.timm_models import timm_models
from mltrain.config.types import Choice, OneOf
from mltrain.errors import ConfigError
from mltrain.text import spell

SCRIPTS = {
    # bash takes = and : for ends of a word, so that only what follows them may be offered.
    "bash": """\
_mltrain() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$'\\n'
    local current=${line##*[[:space:]]}
    COMPREPLY=($(mltrain completion line="$line" 2> /dev/null))
    local before=${current%"${current##*[=:]}"}
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
    if [[ ${#COMPREPLY[@]} -gt 0 && -z ${COMPREPLY[*]##*[=.]} ]]; then compopt -o nospace; fi
}
complete -o default -F _mltrain mltrain
""",
    "zsh": """\
_mltrain() {
    local -a found
    found=("${(@f)$(mltrain completion line="$LBUFFER" 2> /dev/null)}")
    if [[ -z $found ]]; then _files; return; fi
    compadd -Q -S '' -- ${(M)found:#*[=.]}
    compadd -Q -- ${found:#*[=.]}
}
compdef _mltrain mltrain
""",
    "fish": """\
complete -c mltrain -a '(mltrain completion line=(commandline -cp | string collect) 2> /dev/null)'
""",
}


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    line: str | None = None
    """what was typed before the cursor; prints what may follow, one per line (used by the shells' scripts)"""


def candidates(line: str, source: Source | None = None) -> list[str]:
    """Return the completions of the last word of a line, sorted; none where a file may be named."""
    source = source or Source()
    *words, current = [*line.split(), ""] if line.endswith((" ", "\t")) or not line else line.split()
    if len(words) < 2:
        return sorted(name for name in COMMANDS if name.startswith(current)) if words else []
    if words[1] not in COMMANDS:
        return []
    command: Command = importlib.import_module(f"mltrain.commands.{words[1]}").COMMAND
    key, equals, value = current.partition("=")
    if words[1] == "list":
        found: Iterable[str] = [group for group in source.groups() if source.options(group) not in ([], ["default"])]
    elif equals:
        done, comma, _ = value.rpartition(",")
        found = [f"{key}={done}{comma}{choice}" for choice in _values(key, value, command, source)]
    else:
        found = _keys(current, words, command, source)
    return sorted(text for text in set(found) if text.startswith(current))


def _values(key: str, value: str, command: Command, source: Source) -> list[str]:
    """Return the values that a key may have, as far as they can be listed."""
    group = key.lstrip("+")
    if group in source.groups():
        models = timm_models() if group == "model" and value else ()
        return [*source.options(group), *models]
    section, _, name = group.rpartition(".")
    options = _options(section, command)
    return _choices(options[name]) if name in options else []


def _choices(option: Option) -> list[str]:
    kinds = option.kind.options if isinstance(option.kind, OneOf) else (option.kind,)
    chosen = [spell(value) for kind in kinds if isinstance(kind, Choice) for value in kind.values]
    return chosen + (["true", "false"] if isinstance(option.default, bool) else [])


def _options(section: str, command: Command) -> dict[str, Option]:
    """Return the options of a built-in section; of the root, together with those of the command, for ""."""
    if section:
        return section_options(SECTIONS[section]) if section in SECTIONS else {}
    own = section_options(command.options) if command.options else {}
    return own | (section_options(RootOptions) if command.takes == "config" else {})


def _keys(current: str, words: Sequence[str], command: Command, source: Source) -> list[str]:
    """Return keys with `=` behind them, and groups with `.` where their options follow."""
    if current.startswith("-"):
        with_config = ["--cfg", "--config-dir"] if command.takes in ("config", "dataset") else []
        return ["--help", *with_config, *(["-m"] if command.after_sweep else [])]
    own = [f"{key}=" for key in _options("", command)]
    if command.takes == "arguments":
        return own
    components = ["dataset"] if command.takes == "dataset" else list(INJECTED)
    sections = ["paths"] if command.takes == "dataset" else list(SECTIONS)
    section = current.partition(".")[0]
    if "." not in current:
        chosen = ["dataset"] if command.takes == "run" else components  # a finished run keeps its other parts
        groups = [*(f"{name}=" for name in chosen), *(f"{name}." for name in (*components, *sections))]
        return [*own, *groups, *([f"+{EXPERIMENT}="] if command.takes == "config" else [])]
    if section in sections:
        return [f"{section}.{key}=" for key in _options(section, command)]
    if section in components:
        return [f"{section}.{key}=" for key in _component_keys(section, words, source)]
    return []


def _component_keys(group: str, words: Sequence[str], source: Source) -> list[str]:
    """Return the keys of the option that the line chooses, or of every option of the group."""
    chosen = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    keys: list[str] = []
    for option in chosen[-1:] or source.options(group):
        file = source.file(f"{group}/{option}.yaml") or source.file("model/timm.yaml")
        tree: Any = yaml.safe_load(file.read_text(encoding="utf-8")) if file is not None else {}
        keys += tree.get(group, tree) if isinstance(tree.get(group, tree), dict) else []
    return [key for key in keys if key not in ("_target_", "defaults")]


def run(arguments: Sequence[str], options: Options) -> None:
    if options.line is not None:
        console.write("".join(f"{text}\n" for text in candidates(options.line)))
        return
    if len(arguments) != 1 or arguments[0] not in SCRIPTS:
        found = " ".join(arguments) or "none"
        raise ConfigError(f"name one shell (found: {found}); allowed: {', '.join(SCRIPTS)}")
    console.write(SCRIPTS[arguments[0]])


COMMAND = Command(run, about=__doc__, takes="arguments", options=Options, needs_arguments=True)
