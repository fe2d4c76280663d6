"""Extend a finished run: its training goes on in a run folder of its own, up to more epochs.

The new folder begins as a copy of the old one's position: weights, EMA, optimizer, figures of all epochs and the best
weights. From there on it is a run that was stopped and resumes, so that nothing else has to know of extensions. Only
the schedule does: where it ended with the old run, it starts again and spans the added epochs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from mltrain.config.build import instantiate
from mltrain.config.compose import load_run
from mltrain.config.identity import relevant
from mltrain.config.rules import best_figure
from mltrain.datasets.splits import Splits
from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.run_folder import EXTENDED, METRICS, flatten, read_json, read_result
from mltrain.engine.state import TrainState, read_best
from mltrain.engine.step import TrainStep
from mltrain.errors import CheckpointError, ConfigError, DataError
from mltrain.files import atomic_write, write_json
from mltrain.models.classifier import Classifier
from mltrain.optim.schedules import From, Schedule
from mltrain.runs.same_data import label_differences
from mltrain.text import counted, first_few, spell

logger = logging.getLogger(__name__)

FREE = ("runner.epochs", "runner.extend", "runner.extend_lr", "runner.patience", "runner.min_delta", "schedule.epochs")
"""settings that an extension is expected to change, so nobody needs to hear of them"""
PARTS = ("task", "model.pool", "head._target_", "head.tokens", "optimizer._target_", "curriculum")
"""settings that must be those of the old run; what else must fit, its checkpoint tells"""


@dataclass(frozen=True)
class Extension:
    """A run that another one extends, as extended.json in the new run folder has it."""

    run: str
    """folder of the run that is extended"""
    epochs: int
    """that it has finished"""
    schedule_start: int
    """epoch after which the schedule counts; 0: it goes on as if the run had never ended"""


def find_extension(cfg: DictConfig, folder: Path) -> Extension | None:
    """Return the extension that a config asks for, or that a run folder has begun; None for an ordinary run.

    Raises:
        ConfigError: no finished run, or one that has all the epochs that the config asks for.
    """
    if cfg.runner.extend is None:
        return None
    if _has_begun(cfg, folder):  # the old run is no longer needed
        return _read(folder)
    run = Path(cfg.runner.extend).expanduser()
    old = load_run(run, allow_targets=list(cfg.paths.imports))
    result = read_result(run)
    if not any((run / name).exists() for name in ("last.pt", "previous.pt")):
        raise ConfigError(f"runner.extend={run}: no last.pt, which has the optimizer's state{_alone(run)}")
    if result is None or "epochs" not in result:
        raise ConfigError(f"runner.extend={run}: this run has not finished; repeat its command first")
    epochs = int(result["epochs"])
    if cfg.runner.epochs <= epochs:
        raise ConfigError(
            f"runner.epochs={cfg.runner.epochs}: {run} has {counted(epochs, 'epoch')}, and runner.epochs counts them "
            f"too; runner.epochs={epochs + 10} adds 10"
        )
    for key in PARTS:
        here, there = OmegaConf.select(cfg, key), OmegaConf.select(old, key)
        if here != there:
            name = key.partition(".")[0]
            found = f"{name}: that of {run} is another one" if key == name else f"{key}={here}: {there} in {run}"
            raise ConfigError(f"{found}, and a run is extended with its own{_alone(run)}")
    before = _read(run).schedule_start if (run / EXTENDED).exists() else 0
    left = old.schedule == cfg.schedule and old.schedule.get("epochs", 0) > epochs
    mode = cfg.runner.extend_lr or ("continue" if left else "restart")
    return Extension(str(run), epochs, before if mode == "continue" else epochs)


def build_schedule(cfg: DictConfig, steps_per_epoch: int, extension: Extension | None) -> Schedule:
    """Build the schedule; that of an extension that restarts begins at the first added step and ends as configured."""
    start = 0 if extension is None else extension.schedule_start
    whole = cfg.copy()
    if start and "epochs" in whole.schedule:
        whole.schedule.epochs -= start
        if whole.schedule.epochs < 1:
            raise ConfigError(
                f"schedule.epochs={cfg.schedule.epochs}: {start} of them are over; it counts all epochs, as "
                f"runner.epochs={cfg.runner.epochs} does"
            )
    schedule: Schedule = instantiate(whole.schedule, "schedule", steps_per_epoch=steps_per_epoch)
    return From(schedule=schedule, start=start * steps_per_epoch) if start else schedule


def take_backbone(extension: Extension, cfg: DictConfig, folder: Path, model: Classifier) -> None:
    """Give the model the backbone of the training that goes on: features are computed before its checkpoint is read.

    What does not fit is left to `begin_extension`, which says why.
    """
    content = CheckpointFolder(folder if _has_begun(cfg, folder) else Path(extension.run)).load() or {}
    own = model.state_dict()
    stored = {
        name: tensor
        for name, tensor in content.get("model", {}).items()
        if not name.startswith("head.") and name in own and own[name].shape == tensor.shape
    }
    model.load_state_dict(stored, strict=False)


def begin_extension(
    extension: Extension, cfg: DictConfig, folder: Path, step: TrainStep, splits: Splits, steps_per_epoch: int
) -> None:
    """Copy the position of the old run to the run folder, unless that has one already; on the main rank.

    Args:
        extension: what is extended.
        cfg: config of the new run.
        folder: of the new run.
        step: built from the config; model and EMA get the weights.
        splits: labels that the new run trains on.
        steps_per_epoch: of the new run.

    Raises:
        ConfigError: the config trains something else than the old run.
        CheckpointError: the old run has no last.pt, or its weights do not fit.
    """
    if _has_begun(cfg, folder):
        return
    run = Path(extension.run)
    source = CheckpointFolder(run)
    content = source.load()
    if content is None:
        raise CheckpointError(f"{run}: its checkpoint is gone{_alone(run)}")
    state = TrainState.from_dict(content, run / "last.pt")
    state.check_classes(splits.train.class_names, run)
    if state.step != extension.epochs * steps_per_epoch:
        took = f"{counted(state.step, 'step')} in {counted(extension.epochs, 'epoch')}"
        here = counted(steps_per_epoch, "step")
        raise ConfigError(
            f"runner.extend={run}: it took {took}, and an epoch of this config has {here}; the "
            "number of training images, runner.batch_size, runner.accumulate and the sampler must be the same, and "
            f"runner.max_steps must not have cut its last epoch{_alone(run)}"
        )
    by = best_figure(cfg.task, cfg.metrics.best)
    if state.best.get("by", by) != by:
        raise ConfigError(f"metrics.best: {run} chose its best epoch by {state.best['by']}; set metrics.best to that")
    if (state.ema is None) != (step.ema is None):
        here, there = ("none", "an average") if step.ema is None else ("an average", "none")
        raise ConfigError(f"ema: {run} has {there} of the weights and this config {here}; choose the same")
    state.restore(cast("Classifier", step.model), step.ema)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    own = CheckpointFolder(folder)
    write_json(folder / EXTENDED, asdict(extension))
    if (run / METRICS).is_file():
        with atomic_write(folder / METRICS) as temporary:
            temporary.write_bytes((run / METRICS).read_bytes())
    own.save(replace(read_best(run), config=plain).to_dict(), "best")
    own.save(_with_new_options(replace(state, config=plain), step, run).to_dict())  # last: now the run has begun
    logger.info("%s", _described(extension, cfg, step, steps_per_epoch))
    for line in _other_settings(cfg, run):
        logger.info("other settings than there: %s", line)
    for line in label_differences(run, splits):
        logger.warning("other data than there: %s", line)


def _alone(run: Path) -> str:
    return f"; model.checkpoint={run} starts a run from its weights alone"


def _has_begun(cfg: DictConfig, folder: Path) -> bool:
    """Return whether the run folder has a position; one that cannot be read is none where rerun=true starts over."""
    own = CheckpointFolder(folder)
    return any(
        own.path(name).exists() and not (cfg.rerun and own.problem(name) is not None) for name in ("last", "previous")
    )


def _read(folder: Path) -> Extension:
    content = read_json(folder / EXTENDED)
    try:
        return Extension(**(content or {}))
    except TypeError as error:
        raise DataError(f"{folder / EXTENDED}: missing or damaged ({error}); rerun=true starts over") from error


def _with_new_options(state: TrainState, step: TrainStep, run: Path) -> TrainState:
    """Return the state with the options of the config's optimizer (learning rate, weight decay ...), and its loss."""
    position = state.position
    if position is None:
        raise CheckpointError(f"runner.extend={run}: its last.pt has weights only{_alone(run)}")
    old, new = position.optimizer["param_groups"], step.optimizer.state_dict()["param_groups"]
    shapes = [[(group.get("name"), len(group["params"])) for group in groups] for groups in (old, new)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"optimizer: the parameters that {run} trained are {_listed(shapes[0])}, and those of this config "
            f"{_listed(shapes[1])}; model.freeze_stages and model.freeze_norm must be the same{_alone(run)}"
        )
    groups = [{**mine, "params": theirs["params"]} for theirs, mine in zip(old, new, strict=True)]
    fresh = step.loss.state_dict()
    loss = position.loss if position.loss is not None and position.loss.keys() == fresh.keys() else fresh
    optimizer = {**position.optimizer, "param_groups": groups}
    return replace(state, position=replace(position, optimizer=optimizer, loss=loss))


def _listed(groups: list[tuple[Any, int]]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in groups)


def _described(extension: Extension, cfg: DictConfig, step: TrainStep, steps_per_epoch: int) -> str:
    """Say what the run extends, and what the learning rate does from here on."""
    start, end = extension.epochs * steps_per_epoch, cfg.runner.epochs * steps_per_epoch
    places = range(start, end, max(1, (end - start) // 1000))
    peak = step.optimizer.param_groups[0]["initial_lr"]
    first, *_, last = (peak * step.schedule.at(at)[0] for at in (start, end - 1))
    most = max(peak * step.schedule.at(at)[0] for at in places)
    restarts = extension.schedule_start == extension.epochs
    how = "restarts over the added epochs" if restarts else "goes on"
    return (
        f"extends {extension.run} from epoch {extension.epochs} to {cfg.runner.epochs}; the schedule {how}: learning "
        f"rate {first:.3g} at first, {most:.3g} at most, {last:.3g} at the end"
    )


def _other_settings(cfg: DictConfig, run: Path) -> list[str]:
    """Name the settings that differ from those of the old run and change the result."""
    old: Mapping[str, Any] = flatten(relevant(load_run(run, allow_targets=list(cfg.paths.imports))))
    new = flatten(relevant(cfg))
    keys = [key for key in {**old, **new} if key not in FREE and old.get(key) != new.get(key)]
    found = [f"{key}={spell(new.get(key))} (was {spell(old.get(key))})" for key in keys]
    return [first_few(found)] if found else []
