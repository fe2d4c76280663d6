"""The training images of a run that its backbone finds nearest to an image.

An image is the mean of the backbone's tokens; near means a high cosine. The features of all training images are
computed once and kept in the run folder, for the weights, the resizing and the images that they were computed of.
"""

from __future__ import annotations

import logging
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mltrain.config.build import instantiate
from mltrain.datasets.splits import Splits
from mltrain.engine.run_folder import TRAIN_FEATURES
from mltrain.errors import DataError, NonFiniteError
from mltrain.files import atomic_write, sha256_of
from mltrain.labels import LabelSet
from mltrain.models.classifier import exact_features
from mltrain.progress import Meter
from mltrain.runs.debug import limited
from mltrain.runs.folder import FinishedRun
from mltrain.runs.predictor import Predictor
from mltrain.runs.settings import WEIGHTS_FILE
from mltrain.text import counted

logger = logging.getLogger(__name__)

_ROWS = 16384
"""features that are compared at a time"""


class Neighbour(NamedTuple):
    """A training image near an image."""

    path: str
    cosine: float
    """similarity of the features, at most 1"""
    labels: list[str]
    """its positive classes"""


@dataclass(frozen=True)
class TrainingImages:
    """The training images of a run that can be read, and their features."""

    labels: LabelSet
    indices: np.ndarray
    """int64 (M,), the images of `labels` that could be read"""
    features: np.ndarray
    """float16 (M, D), each of length 1"""

    def nearest(self, feature: np.ndarray, count: int) -> list[Neighbour]:
        """Return the images nearest to a feature (D,), the nearest first; of equals the first of the list."""
        query = torch.from_numpy(feature / max(float(np.linalg.norm(feature)), 1e-12)).float()
        parts = [
            torch.from_numpy(self.features[k : k + _ROWS]).float() @ query for k in range(0, len(self.indices), _ROWS)
        ]
        cosines = torch.cat(parts)
        found = []
        for row in cosines.argsort(descending=True, stable=True)[:count].tolist():
            index = int(self.indices[row])
            positives = np.flatnonzero(self.labels.targets(index) == 1)
            names = [self.labels.class_names[c] for c in positives]
            found.append(Neighbour(self.labels.path(index), min(float(cosines[row]), 1.0), names))
        return found


def training_images(run: FinishedRun, predictor: Predictor) -> TrainingImages:
    """Return the training images of a run with their features, from its folder or computed now.

    Args:
        predictor: of the run, of one model and one view.

    Raises:
        MltrainError: the data set cannot be read.
        DataError: none of its training images can be read.
        NonFiniteError: the model gives NaN or infinity for an image.
    """
    splits: Splits = instantiate(run.config.dataset, "dataset", need_val=False)
    labels = limited(run.config, splits).train
    key, file = _key(run, predictor, labels), run.folder / TRAIN_FEATURES
    kept = _read(file, key)
    if kept is not None:
        return TrainingImages(labels, *kept)
    indices, features = _compute(predictor, labels)
    try:
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, key=key, indices=indices, features=features)
    except OSError as error:
        logger.warning("%s: cannot be written (%s): the next start computes it again", file, error.strerror or error)
    return TrainingImages(labels, indices, features)


def _key(run: FinishedRun, predictor: Predictor, labels: LabelSet) -> np.ndarray:
    """Return what the features depend on, as texts: weights, input, images."""
    best = run.folder / "best.pt"
    weights = sha256_of(best if best.is_file() else run.folder / WEIGHTS_FILE)
    images = [labels.name, str(labels.root), labels.fingerprint()]
    return np.array([weights, run.weights, repr(predictor.resize), str(predictor.amp_dtype), *images])


def _read(file: Path, key: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return indices and features of a file if it has this key, else None."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            if np.array_equal(arrays["key"], key):
                return arrays["indices"], arrays["features"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s: cannot be read (%s), so it is computed again", file, error)
    return None


@torch.inference_mode()
def _compute(predictor: Predictor, labels: LabelSet) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the images that can be read, int64 (M,), and their features, float16 (M, D)."""
    loader = predictor.loader(labels)
    indices, features, unread = [], [], list[str]()
    with closing(loader), Meter(f"features of {labels.name}", len(labels), unit="images") as meter:
        for batch in loader:
            unread += batch.corrupt
            if len(batch.indices):
                images = batch.images.to(predictor.device, memory_format=torch.channels_last)
                found = exact_features(predictor.model, images, predictor.amp_dtype).pooled
                if not found.isfinite().all():
                    raise NonFiniteError("the model gives NaN or infinity for a training image; try runner.amp=off")
                features.append(torch.nn.functional.normalize(found, dim=1).half().cpu().numpy())
                indices.append(batch.indices)
            meter.add(len(batch.indices) + len(batch.corrupt))
    if not indices:
        first = f"; the first: {unread[0]}" if unread else ""
        raise DataError(f"{labels.name}: none of {counted(len(labels), 'training image')} can be read{first}")
    if unread:
        logger.warning(
            "%s: %d of %s cannot be read and are left out; the first: %s",
            labels.name, len(unread), counted(len(labels), "training image"), unread[0],
        )  # fmt: skip
    return np.concatenate(indices).astype(np.int64), np.concatenate(features)
