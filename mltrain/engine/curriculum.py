"""A curriculum in a run: it scores the training images with the current model and changes which images are trained on.

The main rank chooses and sends the choice to the others, so all train on the same images. The choice is state: a
checkpoint holds it, and a run that resumes inside a stage continues with it.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.curriculum import SelfPacedBalance, Stage
from mltrain.engine.evaluator import Inference, forward_batches
from mltrain.engine.signals import StopSignal
from mltrain.errors import CheckpointError, DataError, MltrainError, NonFiniteError
from mltrain.files import atomic_write
from mltrain.labels import LabelSet
from mltrain.models.backbone import Features
from mltrain.models.classifier import Classifier
from mltrain.pipeline.loader import EvalLoader, TrainLoader
from mltrain.pipeline.samplers import Sampler

logger = logging.getLogger(__name__)

TABLE_FILE = "curriculum.csv"


@dataclass(eq=False, kw_only=True)
class Curriculum:
    """The choice of training images, stage after stage.

    The runner calls `start_epoch` before each epoch, and keeps `state_dict` in its checkpoints.

    An epoch has the same number of images in every stage: the sampler's `epoch_size`, that of the whole training set.
    So steps per epoch, schedule and length of the run are those of a run without a curriculum, and a small stage shows
    its images more often.
    """

    pace: SelfPacedBalance
    """decides what is chosen when"""
    model: Classifier
    """the model in training; it is scored in evaluation mode"""
    loss: nn.Module
    """its ``set_class_costs(costs (C,))``, if it has one, is called at each stage"""
    train_loader: TrainLoader
    """gets a new sampler at each stage"""
    score_loader: Callable[[], EvalLoader]
    """makes a loader of all training images with the transform of evaluation"""
    make_sampler: Callable[[LabelSet, np.ndarray], Sampler]
    """takes (labels of a stage, class costs); the sampler must be as long as the train loader's own"""
    inference: Inference
    """settings of scoring, as in evaluation"""
    single_label: bool
    """probabilities are a softmax instead of sigmoids"""
    folder: Path
    """of the run; the main rank writes `curriculum.csv` there"""
    stages: list[Stage] = field(default_factory=list)
    """stages so far; the last one is in use"""

    def start_epoch(self, epoch: int, stop: StopSignal | None = None) -> None:
        """Choose the images of the stage that an epoch (from 0) belongs to, unless they are chosen already.

        Raises:
            Interrupted: by a signal while images are scored; the curriculum is as it was.
            NonFiniteError: the model gives NaN, on every rank.
            DataError: an image cannot be read.
        """
        while len(self.stages) <= self.pace.stage_at(epoch):
            self.stages.append(self._choose(stop))
            self._apply()
            self._log(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the stages as numbers and tensors, for `load_state_dict`."""
        stages = []
        for k, stage in enumerate(self.stages):
            arrays = stage.to_arrays()
            if k + 1 < len(self.stages):  # earlier stages are only needed for the table
                arrays |= {"indices": np.empty(0, np.int64), "weights": np.empty(0)}
            stages.append({key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in arrays.items()})
        return {"stages": stages, "images": len(self.pace.labels)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue in the stage of a checkpoint.

        Raises:
            CheckpointError: the checkpoint is for another number of training images.
        """
        if state["images"] != len(self.pace.labels):
            raise CheckpointError(
                f"{self.folder}: the curriculum in the checkpoint is for {state['images']} training images, "
                f"{self.pace.labels.name} has {len(self.pace.labels)}; give the data set the run began with"
            )
        self.stages = [Stage.from_arrays(stage) for stage in state["stages"]]
        if self.stages:
            self._apply()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _choose(self, stop: StopSignal | None) -> Stage:
        if not self.stages:
            return self.pace.first()  # the same on every rank: it needs no scores
        scores = self._scores(replace(self.inference, stop=stop))
        found: Stage | MltrainError | None = None
        if scores is not None:  # only the main rank chooses, because two machines may round differently
            try:
                found = self.pace.next(self.stages[-1], self._losses(scores.numpy()))
            except MltrainError as error:
                found = error
        found = self.inference.dist.broadcast(found)
        if isinstance(found, MltrainError):
            raise found
        assert found is not None
        return found

    def _scores(self, inference: Inference) -> Tensor | None:
        """Return losses (P,) or, for the SVM, features (N, D) of all training images on the main rank, else None."""
        with closing(self.score_loader()) as loader:
            if self.pace.scorer == "svm":
                return _mean_features(self.model, loader, inference)
            return _positive_losses(self.model, self.single_label, loader, inference)

    def _losses(self, scores: np.ndarray) -> np.ndarray:
        if not np.isfinite(scores).all():
            raise NonFiniteError(
                f"{self.pace.labels.name}: the weights give NaN or infinity for training images that the curriculum "
                "scores; try runner.amp=off, a lower optimizer.lr or runner.clip_grad_norm=1"
            )
        return self.pace.svm_losses(self.stages[-1], scores) if self.pace.scorer == "svm" else scores

    def _apply(self) -> None:
        stage = self.stages[-1]
        sampler = self.make_sampler(self.pace.labels.select(stage.indices), stage.costs)
        self.train_loader.set_sampler(_SubsetSampler(sampler, stage.indices))
        set_class_costs = getattr(self.loss, "set_class_costs", None)
        if set_class_costs is not None:
            set_class_costs(stage.costs)
        if self.inference.dist.is_main:
            write_table(self.folder / TABLE_FILE, self.stages, self.pace.labels.class_names)

    def _log(self, epoch: int) -> None:
        stage = self.stages[-1]
        copies, omitted = int(np.maximum(stage.delta, 0).sum()), int(-np.minimum(stage.delta, 0).sum())
        logger.info(
            "curriculum: stage %d of 0 to %d from epoch %d on, %d of %d training images (%d copies, %d left out)",
            stage.number, self.pace.num_stages - 1, epoch + 1, len(np.unique(stage.indices)), len(self.pace.labels),
            copies, omitted,
        )  # fmt: skip


class _SubsetSampler:
    """A sampler of some images that gives their indices in the whole set."""

    def __init__(self, sampler: Sampler, indices: np.ndarray) -> None:
        self._sampler, self._indices = sampler, indices

    def __len__(self) -> int:
        return len(self._sampler)

    def order(self, epoch: int) -> np.ndarray:
        return self._indices[self._sampler.order(epoch)]


def write_table(file: Path, stages: list[Stage], class_names: tuple[str, ...]) -> None:
    """Write a row for each stage and class: what was chosen and what it cost.

    Raises:
        DataError: the file cannot be written.
    """
    header = ["stage", "ratio", "class", "images", "copies", "positives", "mean_loss", "complexity", "cost"]
    try:
        with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(header)
            for stage in stages:
                hardness = stage.complexity
                figures = zip(hardness.mean_loss, hardness.values, stage.costs, strict=True)
                counts = zip(stage.sizes, stage.delta, hardness.counts, strict=True)
                for name, numbers, values in zip(class_names, counts, figures, strict=True):
                    shown = [f"{value:.6g}" for value in values]
                    writer.writerow([stage.number, f"{stage.ratio:g}", name, *numbers, *shown])
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror or error}") from error


class _MeanToken(nn.Module):
    """A classifier whose logits are the mean of its tokens, (B, D)."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def features(self, images: Tensor) -> Features:
        return self.model.features(images)

    def classify(self, features: Features) -> Tensor:
        return features.pooled


@torch.inference_mode()
def _mean_features(model: Classifier, loader: EvalLoader, inference: Inference) -> Tensor | None:
    """Return the mean token of every image, fp32 (N, D), on the main rank, None on others."""
    parts = [torch.empty(0, model.backbone.num_features)]
    models: Any = {"": _MeanToken(model)}
    for _, outputs in forward_batches(models, loader, inference):
        parts.append(outputs[""].cpu())
    return inference.dist.gather_rows(torch.cat(parts))


@torch.inference_mode()
def _positive_losses(model: Classifier, single_label: bool, loader: EvalLoader, inference: Inference) -> Tensor | None:
    """Return -log p of every positive target, fp64 (P,), on the main rank, in the order of `positive_pairs`."""
    parts = [torch.empty(0, dtype=torch.float64)]
    for batch, outputs in forward_batches({"": model}, loader, inference):
        logits = outputs[""].cpu().double()
        rows, columns = (batch.targets == 1).nonzero(as_tuple=True)
        if single_label:
            parts.append(logits.logsumexp(dim=1)[rows] - logits[rows, columns])
        else:
            parts.append(F.softplus(-logits[rows, columns]))
    return inference.dist.gather_rows(torch.cat(parts))
