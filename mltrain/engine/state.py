"""The content of a checkpoint and its keys; `mltrain.engine.checkpoint` writes and reads the files.

best.pt    weights, class names, statistics of the training set, config, and how the weights were chosen
last.pt    the same of the last step, and the position of the training
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.run_folder import EMA, EPOCH, RAW
from mltrain.engine.shard import spread_weights
from mltrain.errors import CheckpointError
from mltrain.labels import LabelStats, differences
from mltrain.models.classifier import Classifier
from mltrain.optim.ema import ModelEma
from mltrain.text import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPosition:
    """The part of a checkpoint that only a resumed training needs; of `last.pt` alone."""

    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    history: list[dict[str, Any]]
    """one record per finished epoch"""
    seconds: float
    """spent training and evaluating so far"""
    loss_sum: float
    """of the steps of the current epoch"""
    corrupt: list[str]
    """images that were left out so far, with the reason"""
    loss: dict[str, Any] | None = None
    """None in checkpoints that are older than losses with a state"""
    curriculum: dict[str, Any] | None = None
    callbacks: dict[str, Any] | None = None


@dataclass(frozen=True)
class TrainState:
    """A checkpoint: weights, what they belong to, and in `last.pt` the position of the training."""

    model: dict[str, torch.Tensor]
    """state dict of the classifier with the raw weights"""
    ema: dict[str, Any] | None
    """state dict of `ModelEma`, whose "module" has the averaged weights; None without averaging"""
    class_names: tuple[str, ...]
    stats: LabelStats | None
    """of the training set; None for weights that were trained elsewhere"""
    best: dict[str, Any]
    """epoch, step, weights and figure of the best evaluation; only "weights" for weights that were trained elsewhere;
    empty before the first evaluation"""
    config: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    """optimizer steps done"""
    position: TrainingPosition | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file, in plain values and tensors."""
        stats = None if self.stats is None else self.stats.to_arrays()
        if stats is not None:
            # Tensors, because NumPy arrays are not accepted by loading with `weights_only=True`.
            stats = {k: torch.from_numpy(v.copy()) if hasattr(v, "dtype") else v for k, v in stats.items()}
        content = {
            "model": self.model,
            "ema": self.ema,
            "stats": stats,
            "class_names": list(self.class_names),
            "config": self.config,
            "best": self.best or None,
            "step": self.step,
        }
        if self.position is not None:
            content |= {item.name: getattr(self.position, item.name) for item in fields(self.position)}
            for name in ("curriculum", "callbacks"):  # a run without them has the keys of older versions
                if content[name] is None:
                    del content[name]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: Path) -> TrainState:
        """Take the content of a file apart.

        Raises:
            CheckpointError: a key is missing; the message names it and `source`.
        """
        try:
            position = None
            if "optimizer" in content:
                required = ("optimizer", "scaler", "history", "seconds", "loss_sum", "corrupt")
                position = TrainingPosition(
                    **{key: content[key] for key in required},
                    loss=content.get("loss"),
                    curriculum=content.get("curriculum"),
                    callbacks=content.get("callbacks"),
                )
            return cls(
                model=content["model"],
                ema=content["ema"],
                class_names=tuple(content["class_names"]),
                stats=None if content["stats"] is None else LabelStats.from_arrays(content["stats"]),
                best=content["best"] or {},
                config=content.get("config", {}),
                step=content.get("step", 0),
                position=position,
            )
        except KeyError as error:
            raise CheckpointError(f"{source}: not a checkpoint of a run: {error} is missing") from error

    @property
    def chosen(self) -> str:
        """Return the name of the weights that validation chose, `RAW` or `EMA`."""
        return str(self.best["weights"])

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """Return the raw or the averaged weights, as a state dict of the classifier."""
        if name == RAW:
            return self.model
        assert self.ema is not None
        return self.ema["module"]

    def restore(self, model: Classifier, ema: ModelEma | None) -> dict[str, Classifier]:
        """Load the raw and the averaged weights into their modules, and return these by name.

        Raises:
            CheckpointError: weights and model do not fit.
        """
        load_fitting(model, spread_weights(self.model, model))
        if ema is not None:
            average = self.ema or {}
            if "module" in average:
                average = {**average, "module": spread_weights(average["module"], ema.module)}
            load_fitting(ema, average)
        return named_models(model, ema)

    def check_classes(self, class_names: tuple[str, ...], folder: Path) -> None:
        """Refuse a data set with other classes: their order is part of the weights.

        Raises:
            CheckpointError: naming the classes that differ.
        """
        saved = self.class_names
        if saved == class_names:
            return
        found = differences(class_names, saved, "the dataset", "the checkpoint")
        raise CheckpointError(
            f"{folder}: the checkpoint has {counted(len(saved), 'class')}, the dataset {len(class_names)}: "
            f"{found}. Give the "
            "dataset the run was trained on"
        )


def read_best(folder: Path) -> TrainState:
    """Read the best weights of a run folder.

    Raises:
        CheckpointError: there is no `best.pt` yet, or it cannot be read.
    """
    content = CheckpointFolder(folder).load("best")
    if content is None:
        raise CheckpointError(f"{folder}: no best.pt; let the run finish an evaluation first")
    return TrainState.from_dict(content, folder / "best.pt")


def repair_best(checkpoints: CheckpointFolder, last: TrainState) -> bool:
    """Write a missing or damaged best.pt anew if another checkpoint has its weights; return whether it is there."""
    path, problem = checkpoints.path("best"), checkpoints.problem("best")
    if problem is None:
        return True
    states = [last]
    for name in ("previous", EPOCH.format(last.best["epoch"])):
        if checkpoints.path(name).exists() and checkpoints.problem(name) is None:
            states.append(TrainState.from_dict(checkpoints.load(name) or {}, checkpoints.folder))
    source = next((state for state in states if state.step == last.best["step"]), None)
    if source is None:
        logger.warning(
            "%s: %s; the weights of its epoch %d are lost, so the best of the evaluations from here on is reported",
            path, problem, last.best["epoch"],
        )  # fmt: skip
        return False
    checkpoints.save(replace(source, best=last.best, position=None).to_dict(), "best")
    logger.warning("%s: %s; written again, from another checkpoint of its step", path, problem)
    return True


def load_fitting(module: nn.Module | ModelEma, state: Mapping[str, Any]) -> None:
    """Load a state dict in which every tensor has to fit.

    Raises:
        CheckpointError: a name or shape does not fit the module.
    """
    try:
        module.load_state_dict(dict(state))
    except (RuntimeError, TypeError, KeyError) as error:
        lines = str(error).splitlines()
        more = f"\n  ... and {len(lines) - 4} more" if len(lines) > 4 else ""
        raise CheckpointError(
            "the checkpoint does not fit the model of the config; give the model and head it was trained with: "
            + "\n".join(lines[:4])
            + more
        ) from error


def named_models(model: Classifier, ema: ModelEma | None) -> dict[str, Classifier]:
    """Return the models to evaluate by the names that results use."""
    return {RAW: model} | ({} if ema is None else {EMA: cast("Classifier", ema.module)})
