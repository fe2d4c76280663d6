"""Find a learning rate: train briefly while the rate rises from far too low to far too high, and plot the loss.

    mltrain find_lr                                                  the embedded default
    mltrain find_lr dataset=coco loss=asl model=tresnet_m optimizer=adam
    mltrain find_lr +experiment=corel5k dataset.file=labels.csv runner.batch_size=64

The command takes every key of `mltrain train`: data, model, loss, optimizer, precision, accumulation and augmentation
are those of the training. It makes or changes no run folder. It prints a line to add to the training's command,
optimizer.lr=..., with the smaller of two rates: that of the steepest fall of the smoothed loss, and a tenth of that of
its lowest value.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.schema import number
from mltrain.errors import ConfigError, MltrainError
from mltrain.runs.outputs import check_suffix, writing

if TYPE_CHECKING:
    from mltrain.engine.step import TrainStep
    from mltrain.pipeline.loader import TrainLoader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the config's."""

    start: float = number(1e-6, least=1e-12)
    """learning rate of the first step"""
    end: float = number(10.0, least=1e-12)
    """learning rate of the last step; the test stops earlier if the loss diverges"""
    steps: int = number(120, least=20)
    """number of optimizer steps"""
    out: str = "find_lr.png"
    """plot to write"""

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise ValueError(f"start={self.start} must be below end={self.end}")
        check_suffix(self.out, ".png")


def find_lr(cfg: DictConfig, options: Options) -> float | None:
    """Train for `steps` optimizer steps with a growing rate, plot the loss and print a rate.

    Data, model, loss, optimizer, precision, accumulation and augmentation are those of the config, and the groups of
    the optimizer keep their multipliers. The test has no averaged weights, and ignores the schedule and its momentum.

    Returns:
        The rate on the main rank, None on others.

    Raises:
        MltrainError: the loss did not fall.
        ConfigError: the optimizer has no `lr`, or the plot cannot be written.
    """
    from mltrain.engine import distributed
    from mltrain.optim.lr_range import remedy, suggest
    from mltrain.report.plots import lr_range_plot
    from mltrain.runs.assemble import build_parts, build_training
    from mltrain.seeding import seed_start

    if "lr" not in cfg.optimizer:
        raise ConfigError("optimizer: the range test needs an optimizer with the option lr")
    with distributed.start(cfg.runner.device) as dist:
        seed_start(cfg.seed, deterministic=cfg.runner.deterministic)
        cfg.ema = {"_target_": None}
        step, loader = build_training(cfg, dist, build_parts(cfg, dist))
        try:
            lrs, losses, stopped = _run(cfg, step, loader, options)
        finally:
            loader.close()
        if not dist.is_main:
            return None
    found = suggest(lrs, losses) if len(lrs) >= 10 else None
    times = f" x {cfg.runner.accumulate}" if cfg.runner.accumulate > 1 else ""
    if not lrs:
        raise MltrainError(f"{stopped}, the first step: {remedy(lrs, losses, options.steps)}")
    with writing(Path(options.out)) as out:
        lr_range_plot(out, lrs, losses, found, title=f"{cfg.name}, batch {cfg.runner.batch_size}{times}")
    logger.info("%s; plot: %s", stopped or f"the loss up to {lrs[-1]:.1e}, without divergence", out)
    if found is None:
        raise MltrainError(
            f"no suggestion: from {options.start:.1e} to {lrs[-1] if lrs else options.start:.1e} the loss did not fall "
            f"by more than its noise: {remedy(lrs, losses, options.steps)}"
        )
    rounded = float(f"{found.lr:.1e}")
    logger.info("decided by %s", found.reason)
    sys.stdout.write(f"optimizer.lr={rounded:.1e}\n")
    return rounded


def _run(
    cfg: DictConfig, step: TrainStep, loader: TrainLoader, options: Options
) -> tuple[list[float], list[float], str]:
    """Return rates and losses of the steps taken, and why the test stopped early ("" if it did not)."""
    from mltrain.engine.progress import Progress
    from mltrain.errors import NonFiniteError
    from mltrain.optim.lr_range import Divergence, LrRange

    schedule = LrRange(peak=cfg.optimizer.lr, start=options.start, end=options.end, steps=options.steps)
    step.schedule = schedule
    diverged = Divergence()
    lrs: list[float] = []
    losses: list[float] = []
    batches = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    step.forward_model.train()
    with Progress(mode=cfg.logger.progress, enabled=step.dist.is_main) as progress:
        progress.start_epoch(0, 1, options.steps, 0, options.steps)
        for number in range(options.steps):
            if number % loader.steps_per_epoch == 0:
                step.set_epoch(number // loader.steps_per_epoch)
            waited = time.perf_counter()
            group = list(itertools.islice(batches, cfg.runner.accumulate))
            waited = time.perf_counter() - waited
            lr = schedule.lr(number)
            try:
                loss = step(number, group).loss
            except NonFiniteError:
                return lrs, losses, f"stopped at {lr:.1e}, where the loss is no longer finite"
            images = sum(len(batch.targets) for batch in group) * step.dist.world_size
            progress.update(loss=loss, lr=lr, images=images, waited=waited)
            lrs.append(lr)
            losses.append(loss)
            if diverged(loss):
                return lrs, losses, f"stopped at {lr:.1e}, where the loss diverges"
        progress.end_epoch(f"{options.steps} steps")
    return lrs, losses, ""


COMMAND = Command(find_lr, about=__doc__, takes="config", options=Options)
