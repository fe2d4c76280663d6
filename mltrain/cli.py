"""The one way in: `mltrain COMMAND ARGUMENTS`, or `python tools/COMMAND.py ARGUMENTS`.

    find the command -> parse -> help, or: check config and options -> run

Everything up to `run` answers without torch. A command is a module of `mltrain.commands` with a `COMMAND`.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from mltrain.console import exit_on_error
from mltrain.errors import ConfigError
from mltrain.text import did_you_mean

if TYPE_CHECKING:
    from mltrain.config.compose import Source

COMMANDS = {
    "train": "train a classifier, or sweep over several",
    "evaluate": "evaluate a run again, or on another data set",
    "tune_thresholds": "find the probability above which each class is predicted",
    "predict": "name the labels of images",
    "explain": "show where a model finds its classes in images",
    "report": "write the page of a run, or one that compares several",
    "results": "compare runs in a table",
    "export": "write a model as ONNX or PT2",
    "push": "write a model as a folder to give away, and upload it",
    "convert_checkpoint": "make a run folder of a published checkpoint",
    "prepare_data": "download, verify and shrink a data set",
    "dataset_stats": "count classes, labels and co-occurrence",
    "browse_dataset": "write a page with a data set's images",
    "create_longtail_dataset": "make a long-tailed subset of a data set",
    "import_longtail_split": "import the published split of VOC-MLT or COCO-MLT",
    "build_label_embeddings": "make a vector for each class name",
    "class_prior": "compute a run's mean probability of each class",
    "find_lr": "run a learning-rate range test",
    "inspect_batch": "show a batch as it enters the model",
}
DATASET_SECTIONS = ("dataset", "paths")


@dataclass(frozen=True)
class Command:
    """A command: its help, what it takes, and its work.

    `takes` says what the arguments are and what `run` is given:

    - config: KEY=VALUE of a training; `run(cfg)`.
    - dataset: KEY=VALUE of the sections dataset and paths; `run(cfg)`.
    - run: a run folder, then KEY=VALUE changes of its config; `run(cfg, folder)`.
    - arguments: anything; `run(arguments)`.

    With `options` (a dataclass), its fields are KEY=VALUE arguments too; `run` gets an instance as its next argument.
    """

    run: Callable[..., Any]
    about: str | None
    takes: Literal["config", "dataset", "run", "arguments"]
    options: type | None = None
    files: str = ""
    """what arguments after the run folder name (images); `run` gets them last, as a list"""
    dashes: bool = False
    """options may also be written --KEY VALUE, as they once were"""
    after_sweep: Callable[[Path], None] | None = None
    """-m runs a sweep; this is called with its folder when at least two of its runs are finished"""
    needs_arguments: bool = False
    """without arguments the help is shown"""


def main(name: str | None = None, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command of the command line and exit with its code.

    Args:
        name: of the command; None: the first argument.
        argv: arguments; None: those of the process.
    """
    with exit_on_error():
        arguments = list(sys.argv[1:] if argv is None else argv)
        if name is None:
            if not arguments or arguments[0] in ("-h", "--help"):
                sys.stdout.write(_overview())
                sys.exit(0)
            name = arguments.pop(0)
            if name not in COMMANDS:
                hint = did_you_mean(name.replace("-", "_"), COMMANDS, "mltrain {}")
                raise ConfigError(f"{name}: there is no such command{hint}\nallowed: {', '.join(COMMANDS)}")
        execute(importlib.import_module(f"mltrain.commands.{name}").COMMAND, arguments)
    sys.exit(0)


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = ["mltrain COMMAND ARGUMENTS; mltrain COMMAND --help says more.", ""]
    return "\n".join([*lines, *(f"  {name:<{width}}{about}" for name, about in COMMANDS.items())]) + "\n"


def execute(command: Command, argv: Sequence[str]) -> None:
    """Parse the arguments and run the command, or show its help. Raises MltrainError."""
    given = _parse(command, argv)
    if given.help or (command.needs_arguments and not argv):
        sys.stdout.write(_help(command, given))
    elif command.takes == "arguments":
        own, rest = _own_options(command, given.words)
        command.run(rest, *own)
    elif command.takes == "run":
        _execute_on_run(command, given.words)
    else:
        _execute_on_config(command, given)


def _execute_on_run(command: Command, words: list[str]) -> None:
    from mltrain.config.compose import load_run
    from mltrain.runs.obtain import run_folder

    changes = [word for word in words if _is_change(word, files=bool(command.files))]
    names = [word for word in words if word not in changes]
    if not command.files and len(names) != 1:
        raise ConfigError(f"name one run folder, then KEY=VALUE changes (found {len(names)}); see --help")
    if command.files and len(names) < 2:
        raise ConfigError(f"name a run folder and then {command.files} (found {len(names)} names); see --help")
    folder = run_folder(names[0], words)
    own, changes = _own_options(command, changes)
    command.run(load_run(folder, changes), folder, *own, *([names[1:]] if command.files else []))


def _is_change(word: str, *, files: bool) -> bool:
    """Return whether an argument is KEY=VALUE, not a folder or (with `files`) a file with such a name."""
    key, equals, _ = word.partition("=")
    if not equals or Path(word).is_dir():
        return False
    return not files or not ("/" in key or Path(word).exists())


def _execute_on_config(command: Command, given: argparse.Namespace) -> None:
    source = _source(given)
    if given.multirun:
        if command.after_sweep is None:
            raise ConfigError("-m is for training: this command takes one config at a time")
        if given.cfg:
            raise ConfigError("--cfg shows one config, -m runs several: choose one")
        from mltrain.sweeps.run import run_sweep

        run_sweep(command.run, given.words, source, after=command.after_sweep)
        return
    if command.after_sweep is None:
        # Training saves at a signal; other commands only have to clear half-written files away, as an exception does.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    cfg, *own = read(command, given.words, source)
    if given.cfg:
        from omegaconf import OmegaConf

        sections = cfg if command.takes == "config" else DATASET_SECTIONS
        options = asdict(own[0]) if own else {}
        shown = OmegaConf.create(options | {str(key): cfg[key] for key in sections})
        sys.stdout.write(OmegaConf.to_yaml(shown, resolve=True))
        return
    command.run(cfg, *own)


def read(command: Command, words: Sequence[str], source: Source | None = None) -> list[Any]:
    """Return what `command.run` is given: the checked config and, if it has any, its options. Raises ConfigError."""
    from mltrain.config.check import message
    from mltrain.config.compose import load
    from mltrain.config.schema import section_options

    problems = []
    known = [*(section_options(command.options) if command.options else ()), *DATASET_SECTIONS]
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if word.lstrip("+~").startswith(("hydra.", "hydra/")):
            problems.append(f"{word}: Hydra's own settings are for sweeps (-m); more configs: --config-dir DIR")
        elif command.takes == "dataset" and "=" in word and key.split(".")[0] not in known:
            problems.append(f"{key}: there is no {key}{did_you_mean(key, known)}\nallowed: {', '.join(known)}")
    if problems:
        raise ConfigError(message(problems))
    own, rest = _own_options(command, words)
    return [load(rest, source=source), *own]


def _own_options(command: Command, words: Sequence[str]) -> tuple[list[Any], list[str]]:
    if command.options is None:
        return [], list(words)
    from mltrain.config.check import message
    from mltrain.config.compose import command_options

    try:
        own, rest = command_options(command.options, words, suggest=not command.dashes)
    except ValueError as error:  # options that contradict each other
        raise ConfigError(message([str(error)])) from error
    return [own], rest


def _source(given: argparse.Namespace) -> Source:
    from mltrain.config.compose import Source

    folders = tuple(Path(folder) for folder in given.config_dir)
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: no such folder")
    return Source(extra=folders)


# -- parsing and help ------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def __init__(self, command: Command, argv: Sequence[str]) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.command, self.argv = command, argv

    def error(self, message: str) -> NoReturn:
        if not message.startswith("unrecognized"):
            raise ConfigError(f"{message} (--help)")
        flags = [word.lstrip("-").split("=")[0].replace("-", "_") for word in self.argv if word.startswith("-")]
        keys = _known_keys(self.command)
        near = did_you_mean(flags[-1].split(".")[-1], keys) if flags else ""
        for short, key in keys.items():
            near = near.replace(f"mean {short}?", f"mean {key}=VALUE?")
        example = near.removeprefix("; ") or f"e.g. {next(iter(keys.values()), 'out')}=VALUE"
        raise ConfigError(f"{message}; options are written KEY=VALUE, without dashes: {example} (--help)")


def _known_keys(command: Command) -> dict[str, str]:
    """Return the keys that an argument may set, by their last part."""
    from mltrain.config.schema import SECTIONS, section_options

    keys = {key: key for key in section_options(command.options)} if command.options else {}
    if command.takes == "dataset":
        return keys | {"dataset": "dataset"}
    if command.takes == "arguments":
        return keys
    own = {key: f"{name}.{key}" for name, section in SECTIONS.items() for key in section_options(section)}
    return own | keys


def _parse(command: Command, argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(command, argv)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    if command.takes in ("config", "dataset"):
        parser.add_argument("-m", "--multirun", action="store_true")
        parser.add_argument("-c", "--cfg", choices=["job"])
        parser.add_argument("-cd", "--config-dir", action="append", default=[])
    old: dict[str, Any] = {}
    if command.dashes:
        from mltrain.config.schema import section_options

        old = section_options(command.options) if command.options else {}
        for name, option in old.items():
            action = "store_true" if option.default is False else "append"
            parser.add_argument(f"--{name}", action=action, dest=f"option_{name}")
    given = parser.parse_intermixed_args(list(argv))
    for name in old:
        value = getattr(given, f"option_{name}")
        if value:
            given.words.append(f"{name}=true" if value is True else f"{name}={' '.join(value)}")
    return given


def _help(command: Command, given: argparse.Namespace) -> str:
    about = (command.about or "").strip()
    if command.takes == "config":
        return help_text(about, _source(given))
    if command.takes == "dataset":
        names = ", ".join(_source(given).options("dataset"))
        listed = textwrap.fill(names, 110, initial_indent="    ", subsequent_indent="    ")
        return f"{about}\n\nData sets (dataset=NAME, options: dataset.KEY=VALUE)\n{listed}\n"
    return about + "\n"


def help_text(about: str, source: Source) -> str:
    """Return a command's own text, then the config groups with their options."""
    lines = [about, "", "Groups and their options (GROUP=OPTION):"]
    for group in source.groups():
        options = source.options(group)
        if options and options != ["default"]:
            shown = f"+{group}" if group == "experiment" else group
            text = ", ".join(options)
            lines += textwrap.wrap(text, 110, initial_indent=f"  {shown:<12} ", subsequent_indent=" " * 15)
    return "\n".join(lines) + "\n"


def typed() -> str:
    """Return the command line of this process as a user would type it again."""
    return shlex.join(["mltrain", Path(sys.argv[0]).stem, *sys.argv[1:]])
