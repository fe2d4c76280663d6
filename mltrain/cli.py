"""Command line: `mltrain COMMAND ARGUMENTS`.

    find the command -> parse -> show the help, or check config and options -> run

Nothing before `run` imports torch. A command is a module of `mltrain.commands` with a `COMMAND`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from mltrain.console import ending_as_rank, exit_on_error, prepare_streams
from mltrain.errors import ConfigError
from mltrain.text import counted, did_you_mean
from mltrain.transcript import recording

if TYPE_CHECKING:
    from mltrain.config.overrides import Source
    from mltrain.config.schema import Option

COMMANDS = {
    "train": "train a classifier, or sweep over several",
    "evaluate": "evaluate a run again, or on another data set",
    "tune_thresholds": "find the probability above which each class is predicted",
    "predict": "name the labels of images",
    "explain": "show where a model finds its classes in images",
    "find_label_errors": "list labels that are likely missing or wrong",
    "report": "write the page of a run, or one that compares several",
    "results": "compare runs in a table",
    "average": "average the weights of epochs or runs",
    "export": "write a model as ONNX or PT2",
    "push": "write a model as a folder to publish, and upload it",
    "convert_checkpoint": "make a run folder of a published checkpoint",
    "prepare_data": "download, verify and shrink a data set",
    "convert_labels": "write the labels of any format as one csv file",
    "dataset_stats": "count classes, labels and co-occurrence",
    "find_duplicates": "find near-duplicate images in two splits",
    "browse_dataset": "write a page with images of a data set",
    "create_longtail_dataset": "make a long-tailed subset of a data set",
    "import_longtail_split": "import the published split of VOC-MLT or COCO-MLT",
    "build_label_embeddings": "make a vector for each class name",
    "class_prior": "compute a run's mean probability of each class",
    "find_lr": "run a learning-rate range test",
    "inspect_batch": "show a batch as it enters the model",
    "list": "list losses, heads, models, data sets and recipes",
    "completion": "print the completion of commands and keys for a shell",
}
_NAMES_DATA = re.compile(r"\+*(dataset|experiment)[.=]")
DATASET_SECTIONS = ("dataset", "paths")
CONFIG_FLAGS = {
    "--cfg job": "print every option with its value instead of running, with -m of every job; hydra, all: Hydra's too",
    "--package KEY": "with --cfg, print only this part, e.g. runner",
    "--info TOPIC": "print how the config was put together: defaults, defaults-tree, searchpath, plugins, config, all",
    "--dry-run": "list the run or, with -m, the jobs, what is done and what would run (mltrain train)",
    "--config-dir DIR": "look for configs in DIR too; --config-path DIR --config-name NAME: instead of ours",
    "--help TOPIC": "describe a group (loss), one of its options (loss=db) or a section (runner)",
}
RUN_HELP = """\
RUN is a run folder, or zoo:NAME for a published model. KEY=VALUE also changes the config of the run:
runner.device=cpu, runner.eval_batch_size=16, data.num_workers=4, dataset.root=/elsewhere ..."""


@dataclass(frozen=True)
class Command:
    """A command: its help, its arguments and its work.

    `takes` names the kind of arguments, and thereby how `run` is called:

    - config: KEY=VALUE of a training; `run(cfg)`.
    - dataset: KEY=VALUE of the sections dataset and paths; `run(cfg)`.
    - run: a run folder, then KEY=VALUE changes of its config; `run(cfg, folder)`.
    - arguments: anything; `run(arguments)`.

    With `options` (a dataclass), its fields are KEY=VALUE arguments too; `run` gets an instance as its next argument.
    The help lists them with the docstrings below the fields.
    """

    run: Callable[..., Any]
    about: str | None
    """purpose and examples, shown by --help"""
    takes: Literal["config", "dataset", "run", "arguments"]
    options: type | None = None
    files: str = ""
    """name of the arguments after the run folder (images); `run` gets them last, as a list"""
    several: bool = False
    """the command takes more run folders than one; `run` gets the others as `others=[(cfg, folder), ...]`"""
    dashes: bool = False
    """options may also be written --KEY VALUE, as in older versions"""
    after_sweep: Callable[[Path], None] | None = None
    """the command takes -m; this is called with the sweep's folder when at least two of its runs are finished"""
    before_sweep: Callable[[list[Any]], bool] | None = None
    """with `after_sweep`: called with the configs of the jobs before they start, see `sweeps.run.run_sweep`"""
    needs_arguments: bool = False
    """without arguments the help is shown"""
    unnamed_data: Literal["", "say", "ask"] = ""
    """without an argument that names a data set: "say" that the drawn shapes are taken, or "ask" for one"""


def main(name: str | None = None, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code.

    Args:
        name: name of the command; None takes the first argument.
        argv: arguments; None takes those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    transcript = recording() if "train" in (name, *arguments[:1]) else nullcontext()
    with ending_as_rank(), transcript, exit_on_error():
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
    lines = [f"  {name:<{width}}{about}" for name, about in COMMANDS.items()]
    return "\n".join(["mltrain COMMAND ARGUMENTS; mltrain COMMAND --help describes a command.", "", *lines]) + "\n"


def execute(command: Command, argv: Sequence[str]) -> None:
    """Parse the arguments and run the command, or show its help. Raises MltrainError."""
    given = _parse(command, argv)
    if given.help or (command.needs_arguments and not argv):
        sys.stdout.write(_help(command, given))
    elif given.multirun and command.after_sweep is None:
        raise ConfigError("-m is for mltrain train: this command runs once")
    elif command.takes == "arguments":
        own, rest = _own_options(command, given.arguments)
        command.run(rest, *own)
    elif command.takes == "run":
        _execute_on_run(command, given.arguments)
    else:
        _execute_on_config(command, given)


def _execute_on_run(command: Command, arguments: list[str]) -> None:
    from mltrain.config.compose import load_run
    from mltrain.runs.obtain import leading_runs, run_folder

    changes = [text for text in arguments if _is_change(text, files=bool(command.files))]
    names = [text for text in arguments if text not in changes]
    runs = leading_runs(names) if command.several and command.files else len(names) if command.several else 1
    if not command.files and len(names) != max(1, runs):
        raise ConfigError(f"name one run folder, then KEY=VALUE changes (found {len(names)}); see --help")
    if command.files and len(names) <= runs:
        raise ConfigError(
            f"name a run folder and then {command.files} (found {counted(len(names), 'name')}); see --help"
        )
    own, changes = _own_options(command, changes)
    folders = [run_folder(name, arguments) for name in names[:runs]]
    # The data set is that of the first run.
    rest = [text for text in changes if not text.lstrip("+").startswith("dataset")]
    first, *others = [(load_run(f, changes if f is folders[0] else rest), f) for f in folders]
    more = {"others": others} if others else {}
    command.run(*first, *own, *([names[runs:]] if command.files else []), **more)


def _is_change(text: str, *, files: bool) -> bool:
    """Return whether an argument is KEY=VALUE, not a folder or (with `files`) a file with such a name."""
    key, equals, _ = text.partition("=")
    if not equals or Path(text).is_dir():
        return False
    return not files or not ("/" in key or Path(text).exists())


def _execute_on_config(command: Command, given: argparse.Namespace) -> None:
    source = _source(given)
    if command.unnamed_data and not any(_NAMES_DATA.match(text) for text in given.arguments):
        _unnamed_data(command)
    if given.cfg or given.info or given.dry_run:
        _show(command, given, source)
        return
    if given.multirun:
        from mltrain.sweeps.run import run_sweep

        assert command.after_sweep is not None
        run_sweep(command.run, given.arguments, source, before=command.before_sweep, after=command.after_sweep)
        return
    if command.after_sweep is None:
        # Training handles the signal itself, to save. Other commands exit, so that half-written files are removed.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(signal.SIGHUP, lambda number, frame: sys.exit(128 + number))
    command.run(*read(command, given.arguments, source))


def _show(command: Command, given: argparse.Namespace, source: Source) -> None:
    """Print a config, how it was put together, or what would be run."""
    from mltrain.config.show import configs_text, hydra_settings, print_info

    if given.info:
        print_info(given.info, given.arguments, source)
        return
    jobs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if given.cfg != "hydra":
        if given.multirun:
            from mltrain.sweeps.run import planned_jobs

            jobs = planned_jobs(given.arguments, source)
        else:
            cfg, *own = read(command, given.arguments, source)
            jobs, options = {" ".join(given.arguments): cfg}, asdict(own[0]) if own else {}
    if given.dry_run:
        if command.after_sweep is None:
            raise ConfigError("--dry-run is for mltrain train; --cfg job prints the config of this command")
        from mltrain.runs.plan import plan

        if command.before_sweep is not None:
            command.before_sweep(list(jobs.values()))
        sys.stdout.write(plan(jobs))
        return
    sections = None if command.takes == "config" else DATASET_SECTIONS
    trees = [options | {str(key): cfg[key] for key in sections or cfg} for cfg in jobs.values()]
    hydra = None if given.cfg == "job" else hydra_settings(given.arguments, source)
    heads = list(jobs) if given.multirun else []
    sys.stdout.write(configs_text(trees, hydra, given.package, heads))


def _unnamed_data(command: Command) -> None:
    """Say that the drawn shapes are taken. ConfigError: the command asks for a data set."""
    own = "your own is dataset=auto dataset.path=FOLDER, and mltrain list datasets has all others"
    if command.unnamed_data == "ask":
        raise ConfigError(f"name a data set: {own}")
    logging.getLogger(__name__).info("no data set is named, so these are the drawn shapes; %s", own)


def read(command: Command, arguments: Sequence[str], source: Source | None = None) -> list[Any]:
    """Return the arguments of `command.run`: the checked config and, if it has any, its options. Raises ConfigError."""
    from mltrain.config.check import message
    from mltrain.config.compose import load

    problems = []
    known = [*_options_of(command), *DATASET_SECTIONS]
    for text in arguments:
        key = text.lstrip("+~").partition("=")[0]
        if key.startswith(("hydra.", "hydra/")):
            problems.append(f"{text}: {_instead_of(key)}")
        elif command.takes == "dataset" and "=" in text and key.split(".")[0] not in known:
            problems.append(f"{key}: there is no {key}{did_you_mean(key, known)}\nallowed: {', '.join(known)}")
    if problems:
        raise ConfigError(message(problems))
    own, rest = _own_options(command, arguments)
    return [load(rest, source=source), *own]


def _instead_of(setting: str) -> str:
    """Return what stands for a setting of Hydra outside sweeps."""
    if setting in ("hydra.run.dir", "hydra.output_subdir", "hydra.job.name"):
        return "the run folder is <paths.runs>/<dataset.name>/<name>/<id>; set paths.runs=DIR and name=NAME"
    if setting == "hydra.searchpath":
        return "more folders of configs: --config-dir DIR"
    return "Hydra's own settings are for sweeps (-m); more configs: --config-dir DIR; --cfg hydra shows the settings"


def _own_options(command: Command, arguments: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Return an instance of the command's options, in a list that is empty if it has none, and the other arguments."""
    if command.options is None:
        return [], list(arguments)
    from mltrain.config.check import message
    from mltrain.config.overrides import command_options

    try:
        own, rest = command_options(command.options, arguments, suggest=not command.dashes)
    except ValueError as error:  # options that contradict each other
        raise ConfigError(message([str(error)])) from error
    return [own], rest


def _options_of(command: Command) -> dict[str, Option]:
    from mltrain.config.schema import section_options

    return section_options(command.options) if command.options else {}


def _source(given: argparse.Namespace) -> Source:
    from mltrain.config.overrides import Source

    folders = tuple(Path(folder) for folder in given.config_dir)
    main = {} if given.config_path is None else {"folder": Path(given.config_path)}
    named = [("--config-dir", folder) for folder in folders] + [("--config-path", folder) for folder in main.values()]
    for flag, folder in named:
        if not folder.is_dir():
            raise ConfigError(f"{flag} {folder}: no such folder")
    return Source(extra=folders, name=given.config_name.removesuffix(".yaml"), **main)


# -- parsing and help ------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Parser that raises ConfigError, and answers unknown dashed options with KEY=VALUE."""

    def __init__(self, command: Command, argv: Sequence[str]) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.command, self.argv = command, argv

    def error(self, message: str) -> NoReturn:
        if not message.startswith("unrecognized"):
            raise ConfigError(f"{message} (--help)")
        from mltrain.config.flags import advice
        from mltrain.config.other_code import hints

        if found := hints(self.argv):
            raise ConfigError("\n".join([f"{message} (--help)", *found]))
        training = self.command.takes == "config"
        text = advice(self.argv, self._option_string_actions, _known_keys(self.command), training=training)
        raise ConfigError(f"{message}{f'; {text}' if text else ''} (--help)")


def _known_keys(command: Command) -> dict[str, str]:
    """Return the keys that an argument may set, by their last part."""
    from mltrain.config.flags import config_keys

    own = {key: key for key in _options_of(command)}
    if command.takes == "dataset":
        return own | {"dataset": "dataset"}
    if command.takes == "arguments":
        return own
    return config_keys() | own


def _parse(command: Command, argv: Sequence[str]) -> argparse.Namespace:
    """Separate flags from arguments; options of older versions with dashes become KEY=VALUE arguments."""
    parser = _Parser(command, argv)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    if command.takes in ("config", "dataset"):
        parser.add_argument("-c", "--cfg", choices=["job", "hydra", "all"])
        parser.add_argument("--resolve", action="store_true")  # a config is always printed resolved
        parser.add_argument("-p", "--package")
        parser.add_argument("-i", "--info", nargs="?", const="all")
        parser.add_argument("--dry-run", action="store_true")
        parser.add_argument("-cd", "--config-dir", action="append", default=[])
        parser.add_argument("-cp", "--config-path")
        parser.add_argument("-cn", "--config-name", default="train")
    dashed = _options_of(command) if command.dashes else {}
    for name, option in dashed.items():
        action = "store_true" if option.default is False else "append"
        parser.add_argument(f"--{name}", action=action, dest=f"option_{name}")
    given = parser.parse_intermixed_args(list(argv))
    if command.takes in ("config", "dataset"):
        from mltrain.config.show import check_flags

        check_flags(given)
    for name in dashed:
        value = getattr(given, f"option_{name}")
        if value:
            given.arguments.append(f"{name}=true" if value is True else f"{name}={' '.join(value)}")
    return given


def _help(command: Command, given: argparse.Namespace) -> str:
    """Return purpose and examples, the options, and what may be chosen by name."""
    from mltrain.config.option_help import aligned, described_options

    with_config = command.takes in ("config", "dataset")
    if with_config and given.arguments:
        from mltrain.config.topic_help import topic_help

        return "\n".join(topic_help(topic, _source(given)) for topic in given.arguments)
    parts = [(command.about or "").strip()]
    options = described_options(command.options) if command.options else {}
    if rows := options | (CONFIG_FLAGS if with_config else {}):
        parts.append(f"Options\n{aligned(rows)}")
    if with_config:
        source = _source(given)
        names = {group: source.options(group) for group in source.groups()}
        if command.takes == "dataset":
            names = {"dataset": names["dataset"]}
        chosen = {
            f"+{group}" if group == "experiment" else group: ", ".join(options)
            for group, options in names.items()
            if options and options != ["default"]
        }
        parts.append(f"Groups and their options (GROUP=OPTION; GROUP.KEY=VALUE changes one)\n{aligned(chosen)}")
    elif command.takes == "run":
        parts.append(RUN_HELP)
    return "\n\n".join(parts) + "\n"
