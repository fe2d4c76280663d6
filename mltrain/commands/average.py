"""Average weights: the best or the last epochs of a run, or several runs.

    mltrain average RUN best=3                 the 3 best epochs that runner.keep_best=3 kept
    mltrain average RUN last=5                 the 5 last epochs that runner.keep_last=5 kept
    mltrain average RUN1 RUN2 RUN3             the best weights of several runs of one architecture
    mltrain average RUN1 RUN2 greedy=true      take a run only if validation does not fall
    mltrain average RUN best=3 out=averaged    another folder than RUN/average-best3

It prints the figures of the average beside those of the weights that go into it, and writes a folder that evaluate,
predict, export, push and model.checkpoint take like a run. KEY=VALUE also changes the config of the first run, such as
runner.device=cpu or dataset.root=/elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mltrain.cli import Command
from mltrain.config.schema import number
from mltrain.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    best: int | None = number(None, least=2)
    """average so many of the best kept epochs; null: all that are kept"""
    last: int | None = number(None, least=2)
    """average so many of the last kept epochs"""
    weights: Literal["best", "val", "ema"] = "best"
    """of each: best: raw or EMA weights, as validation chose; val: raw weights; ema: EMA weights"""
    batch_norm: bool = True
    """estimate batch-norm statistics anew, over one epoch of training images"""
    greedy: bool = False
    """begin with the best and add others only where the figure of the validation split does not fall"""
    out: str | None = None
    """folder to write; null: average-best3, average-last5 ... in the folder of the first run"""
    overwrite: bool = False
    """replace an earlier average in the folder"""

    def __post_init__(self) -> None:
        if self.best and self.last:
            raise ValueError("best= and last= choose the epochs in two ways; give one of them")


def average(arguments: Sequence[str], options: Options) -> Path:
    """Average the weights that the arguments name, and return the folder of the average.

    Raises:
        ConfigError: the arguments name no run, or too few weights to average.
        CheckpointError: the weights are not of one architecture.
    """
    from mltrain.config.compose import load_run
    from mltrain.runs.obtain import run_folder

    changes = [text for text in arguments if "=" in text and not Path(text).is_dir()]
    folders = [run_folder(text, changes) for text in arguments if text not in changes]
    if not folders:
        raise ConfigError("name a run folder, or several, then KEY=VALUE; see --help")
    cfg = load_run(folders[0], changes)
    from mltrain.runs.average import average as average_weights
    from mltrain.runs.average import choose_members

    members = choose_members(cfg, folders, best=options.best, last=options.last)
    given = f"best{options.best}" if options.best else f"last{options.last}" if options.last else "all"
    name = f"average-{len(folders)}runs" if len(folders) > 1 else f"average-{given}"
    return average_weights(
        cfg,
        members,
        Path(options.out) if options.out else folders[0] / name,
        weights=options.weights,
        batch_norm=options.batch_norm,
        greedy=options.greedy,
        overwrite=options.overwrite,
    )


COMMAND = Command(average, about=__doc__, takes="arguments", options=Options, needs_arguments=True)
