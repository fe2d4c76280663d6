"""The command line of the tools: overrides in, a checked config to the work function, errors as messages."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mltrain.console import exit_on_error
from mltrain.errors import ConfigError

Work = Callable[[Any], Any]  # takes the checked DictConfig


def main(config_name: str, work: Work, *, about: str = "", config_dir: Path | None = None) -> NoReturn:
    """Run `work(cfg)` for the command line, and leave the process: with 0, or with the exit code of a MltrainError.

    `--help` and `--cfg job` answer without torch. `-m` runs a sweep through Hydra's launcher. An unexpected exception
    keeps its traceback.
    """
    with exit_on_error():
        run(config_name, work, sys.argv[1:], about=about, config_dir=config_dir)
    sys.exit(0)


def main_of_run(
    work: Callable[..., Any], *, about: str, options: str | None = None, inputs: str | None = None
) -> NoReturn:
    """As `main`, for a tool that takes a run folder and KEY=VALUE changes: `work(folder, cfg)`, cfg from the folder.

    `zoo:NAME` in place of a folder is a published model, downloaded and converted at its first use.

    `options`: class of `schema` with options of the tool itself, which `work` gets third. `inputs`: what further words
    name (images), which `work` gets last, as a list.
    """
    with exit_on_error():
        arguments = _Parser(add_help=False, allow_abbrev=False)
        arguments.add_argument("words", nargs="*")
        arguments.add_argument("-h", "--help", action="store_true")
        given = arguments.parse_intermixed_args(sys.argv[1:])
        if given.help:
            sys.stdout.write(about.strip() + "\n")
        else:
            from mltrain.config import schema
            from mltrain.config.compose import load_run, tool_options
            from mltrain.config.zoo import run_folder

            words = [word for word in given.words if _is_change(word, files=inputs is not None)]
            names = [word for word in given.words if word not in words]
            if inputs is None and len(names) != 1:
                raise ConfigError(f"name one run folder, then KEY=VALUE changes (found {len(names)}); see --help")
            if inputs is not None and len(names) < 2:
                raise ConfigError(f"name a run folder and then {inputs} (found {len(names)} names); see --help")
            folder = run_folder(names[0], given.words)
            own: list[Any] = []
            if options is not None:
                found, words = tool_options(getattr(schema, options), words)
                own.append(found)
            work(folder, load_run(folder, words), *own, *([] if inputs is None else [names[1:]]))
    sys.exit(0)


def _is_change(word: str, *, files: bool) -> bool:
    """Whether a word is KEY=VALUE and not a folder, or, where they are asked for, a file with such a name."""
    key, equals, _ = word.partition("=")
    if not equals or Path(word).is_dir():
        return False
    return not files or not ("/" in key or Path(word).exists())


def run(config_name: str, work: Work, argv: list[str], *, about: str, config_dir: Path | None) -> None:
    arguments = _arguments(argv)
    if arguments.help:
        sys.stdout.write(help_text(about, config_dir))
        return
    from mltrain.config.compose import CONFIGS, Source, load

    folders = tuple(Path(folder) for folder in arguments.config_dir)
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {folder}: no such folder")
    source = Source((config_dir or CONFIGS).resolve(), folders, config_name)
    if arguments.multirun and arguments.cfg:
        raise ConfigError("--cfg shows one config, -m runs several: choose one")
    if arguments.multirun:
        from mltrain.config.sweep import run_sweep

        run_sweep(work, arguments.overrides, source)
        return
    for override in arguments.overrides:
        if override.lstrip("+~").startswith(("hydra.", "hydra/")):
            raise ConfigError(f"{override}: Hydra's own settings are for sweeps (-m); more configs: --config-dir DIR")
    cfg = load(arguments.overrides, source=source)
    if arguments.cfg:
        from omegaconf import OmegaConf

        sys.stdout.write(OmegaConf.to_yaml(cfg))
        return
    work(cfg)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        from mltrain.config.schema import FRAME, frame_options
        from mltrain.text import nearest

        flags = [word.lstrip("-").split("=")[0] for word in sys.argv[1:] if word.startswith("--")]
        keys = {key: f"{name}.{key}" for name, section in FRAME.items() for key in frame_options(section)}
        near = nearest(flags[-1].replace("-", "_").split(".")[-1], keys) if flags else None
        if not message.startswith("unrecognized"):
            raise ConfigError(f"{message} (--help)")
        example = f"did you mean {keys[near]}=VALUE?" if near else "e.g. runner.epochs=5"
        raise ConfigError(f"{message}; keys of the config are written KEY=VALUE, without dashes: {example} (--help)")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job"])
    parser.add_argument("-cd", "--config-dir", action="append", default=[])
    return parser.parse_intermixed_args(argv)


def help_text(about: str, config_dir: Path | None = None) -> str:
    """What `--help` shows: the tool's own text, then the groups with their options."""
    from mltrain.config.compose import CONFIGS, Source

    source = Source(config_dir or CONFIGS)
    lines = [about.strip(), "", "Groups and their options (GROUP=OPTION):"]
    for group in source.groups():
        options = source.options(group)
        if options and options != ["default"]:
            shown = f"+{group}" if group == "experiment" else group
            text = ", ".join(options)
            lines += textwrap.wrap(text, 110, initial_indent=f"  {shown:<12} ", subsequent_indent=" " * 15)
    return "\n".join(lines) + "\n"
