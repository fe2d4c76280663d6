"""Predict the labels of images with a finished run.

from mltrain import Predictor
predictor = Predictor.from_run("runs/coco/tresnet_l-gap-asl/0a1b2c3d")
predictor("photo.jpg")                # [Label(name='dog', score=0.97), Label(name='person', score=0.81)]
"""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

from mltrain import storage
from mltrain.config.compose import inference_amp
from mltrain.config.rules import SINGLE_LABEL
from mltrain.datasets.folder import SUFFIXES
from mltrain.engine.distributed import single_device
from mltrain.engine.evaluator import forward_logits
from mltrain.engine.precision import resolve_amp
from mltrain.errors import ConfigError, NonFiniteError
from mltrain.labels import LabelSet
from mltrain.models.classifier import Classifier
from mltrain.models.fold import folded
from mltrain.pipeline.batch import Transform
from mltrain.pipeline.decode import read_image, to_rgb
from mltrain.pipeline.loader import EvalLoader
from mltrain.pipeline.views import Tta
from mltrain.runs.ensemble import Averager, Member, note_thresholds
from mltrain.runs.folder import FinishedRun, Weights, load_finished, on_device
from mltrain.runs.thresholds import load_thresholds, thresholds_of

logger = logging.getLogger(__name__)


class Label(NamedTuple):
    """A predicted class and its probability (0..1)."""

    name: str
    score: float


class Prediction(NamedTuple):
    """The labels of an image file, best first; `error` says why it could not be read."""

    image: str
    labels: list[Label]
    error: str | None = None


@dataclass(eq=False)
class Predictor:
    """Predicts the labels of images.

    Multi-label: the classes whose sigmoid is above their threshold; with `topk` the k best of them, and with `topk`
    alone the k best whatever their scores. Single-label: the class with the highest softmax, or the `topk` highest, if
    above `threshold`.

    Args:
        model: on its device, in evaluation mode.
        class_names: C names.
        resize: transform to the input of the model.
        single_label: scores are the softmax over the classes instead of sigmoids.
        thresholds: per-class probabilities `(C,)`; a class must exceed its own. None: no thresholds.
        topk: most labels per image; None: no limit, or one with `single_label`.
        amp_dtype: of autocast over the backbone; None: full precision.
        batch_size, num_workers: of `predict`; see `EvalLoader`.
        averager: several models or views, whose mean probabilities are predicted instead of those of `model`; `resize`
            is then its own.
    """

    model: Classifier
    class_names: Sequence[str]
    resize: Transform
    _: KW_ONLY
    single_label: bool = False
    thresholds: np.ndarray | None = None
    topk: int | None = None
    amp_dtype: torch.dtype | None = None
    batch_size: int = 32
    num_workers: int | None = None
    averager: Averager | None = None

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if self.topk is not None and self.topk < 1:
            raise ValueError(f"topk={self.topk}: must be at least 1")
        if self.thresholds is not None and self.thresholds.shape != (classes,):
            raise ValueError(f"thresholds {self.thresholds.shape}: must be one of each of the {classes} classes")
        self.class_names = tuple(self.class_names)
        self.topk = 1 if self.topk is None and self.single_label else self.topk
        self.device = self.model.mean.device

    @classmethod
    def from_run(
        cls,
        run: str | Path | FinishedRun,
        *,
        weights: Weights = "best",
        threshold: float | None = None,
        thresholds: str | Path | None = None,
        topk: int | None = None,
        device: str | None = None,
        tta: Tta | None = None,
        allow_targets: Sequence[str] = (),
    ) -> Predictor:
        """Build the predictor of a run folder.

        Args:
            run: the folder, or what `load_finished` made of it.
            weights: see `load_finished`; ignored if `run` is loaded already.
            threshold: for all classes; None: those that `mltrain tune_thresholds` left in the folder, or the run's
                metrics.threshold, or for single labels none.
            thresholds: another file of thresholds.
            topk: most labels per image; without `threshold`, exactly this many.
            device: auto, cpu, cuda, cuda:N, mps; None: the run's runner.device.
            tta: flip, five_crop or sizes: predict the mean over these views of an image.
            allow_targets: packages that the run's config may name, see docs/security.md.

        Raises:
            ConfigError: no run folder, thresholds of another model, a device that is not there.
            CheckpointError: the weights are missing, damaged, or do not fit.
        """
        if not isinstance(run, FinishedRun):
            run = load_finished(run, weights=weights, allow_targets=allow_targets)
        cfg = run.config
        values = _thresholds(run, threshold, thresholds, topk)
        member = _member(run, cfg, device)
        averager = None if tta is None else Averager({str(run.folder): member}, tta)
        if averager is not None and values is not None and load_thresholds(run, thresholds) and threshold is None:
            logger.info("the thresholds were tuned without tta=%s, which changes the probabilities a little", tta)
        return cls(
            member.model,
            run.class_names,
            averager.resize if averager else run.eval_transform,
            single_label=cfg.task == SINGLE_LABEL,
            thresholds=values,
            topk=topk,
            amp_dtype=member.amp_dtype,
            batch_size=cfg.runner.eval_batch_size or cfg.runner.batch_size,
            num_workers=cfg.data.num_workers,
            averager=averager,
        )

    @classmethod
    def from_runs(
        cls,
        runs: Sequence[str | Path | FinishedRun],
        *,
        weights: Weights = "best",
        threshold: float | None = None,
        topk: int | None = None,
        device: str | None = None,
        tta: Tta | None = None,
        allow_targets: Sequence[str] = (),
    ) -> Predictor:
        """Build a predictor of the mean probabilities of several runs; the first names and orders the classes.

        Args:
            runs: folders, or what `load_finished` made of them.
            threshold: for all classes; None: metrics.threshold of the first run, because tuned thresholds of single
                runs do not fit the mean; for single labels none.
            weights, topk, device, tta, allow_targets: as in `from_run`; the device is that of the first run.

        Raises:
            ConfigError: other classes or another task than the first run's, or as in `from_run`.
            CheckpointError: as in `from_run`.
        """
        loaded = [
            run if isinstance(run, FinishedRun) else load_finished(run, weights=weights, allow_targets=allow_targets)
            for run in runs
        ]
        first = loaded[0]
        members = {str(run.folder): _member(run, first.config, device) for run in loaded}
        averager, single = Averager(members, tta), first.config.task == SINGLE_LABEL
        if threshold is None and topk is None and not single:
            threshold = float(first.config.metrics.threshold)
            note_thresholds([run.folder for run in loaded], threshold)
        return cls(
            members[str(first.folder)].model,
            first.class_names,
            averager.resize,
            single_label=single,
            thresholds=_thresholds(first, threshold, None, topk),
            topk=topk,
            batch_size=first.config.runner.eval_batch_size or first.config.runner.batch_size,
            num_workers=first.config.data.num_workers,
            averager=averager,
        )

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> list[Label]:
        """Return the labels of one image, best first: a file, a Pillow image, or uint8 RGB `(H, W, 3)`.

        Raises:
            DataError: the file cannot be read.
            ValueError: an array of another kind.
        """
        pixels = self.resize(_pixels(image))
        return self.choose(self.logits(pixels[None]))[0]

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits fp32 `(B, C)` on the CPU of resized images uint8 `(B, 3, S, S)`."""
        # channels_last, as `resize` gives them; a batch of one would lose it in indexing
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        if self.averager is not None:
            return self.averager.logits(images).cpu()
        return forward_logits(self.model, images, self.amp_dtype).cpu()

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of logits `(B, C)`, float64."""
        return logits.double().softmax(1) if self.single_label else logits.double().sigmoid()

    def choose(self, logits: torch.Tensor) -> list[list[Label]]:
        """Return the labels for each row of logits `(B, C)`.

        Raises:
            NonFiniteError: a logit is NaN.
        """
        if logits.isnan().any():
            raise NonFiniteError("the model gives NaN for an image; try runner.amp=off")
        scores = self.scores(logits)
        chosen = torch.ones_like(scores, dtype=torch.bool)
        if self.thresholds is not None:
            thresholds = torch.from_numpy(self.thresholds)
            # As logits where there are: sigmoids next to 1 are equal long before the logits are.
            chosen = scores > thresholds if self.single_label else logits.double() > torch.logit(thresholds)
        result = []
        for row, keep, score in zip(logits, chosen, scores, strict=True):
            classes = keep.nonzero().view(-1)
            order = row[classes].argsort(descending=True, stable=True)[: self.topk]
            result.append([Label(self.class_names[c], float(score[c])) for c in classes[order].tolist()])
        return result

    def loader(self, labels: LabelSet) -> EvalLoader:
        """Return a loader of images at the input size of the model; it leaves out those that cannot be read."""
        return EvalLoader(
            labels,
            self.resize,
            batch_size=self.batch_size,
            # One batch is read before it can be predicted: a worker would only have to be started.
            num_workers=0 if len(labels) <= self.batch_size else self.num_workers,
            pin_memory=self.device.type == "cuda",
            on_corrupt="skip",
        )

    def predict(self, files: Sequence[str | Path]) -> Iterator[Prediction]:
        """Yield the labels of image files in their order, batch by batch; workers read ahead.

        A file that cannot be read has its reason in `Prediction.error`.
        """
        if not files:
            return
        names = [os.fspath(file) for file in files]
        labels = LabelSet.from_lists(
            name="images", root="", files=names, class_names=[""], positives=[[] for _ in names]
        )
        done = 0
        with closing(self.loader(labels)) as loader:
            for batch in loader:
                found = self.choose(self.logits(batch.images)) if len(batch.indices) else []
                predicted = dict(zip(batch.indices.tolist(), found, strict=True))
                errors = iter(batch.corrupt)  # of those left out, in their order
                for index in range(done, done + len(found) + len(batch.corrupt)):
                    if index in predicted:
                        yield Prediction(names[index], predicted[index])
                    else:
                        yield Prediction(names[index], [], next(errors))
                done += len(found) + len(batch.corrupt)


def _member(run: FinishedRun, first: DictConfig, device: str | None) -> Member:
    """Return the model of a run, folded and on the device; device and memory format are those of the config `first`."""
    target = single_device(first.runner.device if device is None else device)
    backbone = run.model.backbone
    whole = folded(backbone, backbone.image_size, len(backbone.mean))
    model = Classifier(whole, run.model.head).eval()  # type: ignore[arg-type]
    model.load_state_dict({"mean": run.model.mean, "std": run.model.std}, strict=False)
    amp = resolve_amp(inference_amp(run.config), target)
    return Member(run.folder, run.config, on_device(model, first, target), run.class_names, amp)


def _thresholds(
    run: FinishedRun, threshold: float | None, file: str | Path | None, topk: int | None
) -> np.ndarray | None:
    """Return the per-class thresholds, or None."""
    single = run.config.task == SINGLE_LABEL
    if file is not None:
        if threshold is not None or single:
            other = f"threshold={threshold}" if threshold is not None else f"task={SINGLE_LABEL}"
            raise ConfigError(f"thresholds={file} and {other}: choose one of them")
        found = load_thresholds(run, file)
        return None if found is None else found.values
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold={threshold}: a probability, 0 to 1")
        return np.full(len(run.class_names), float(threshold))
    return None if single or topk is not None else thresholds_of(run)


def _pixels(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return to_rgb(image.copy())
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise ValueError(f"an image is a path, a Pillow image or a uint8 array (H, W, 3) of RGB; got {found}")


def image_files(words: Sequence[str]) -> list[str]:
    """Return image files: files, all images below folders (sorted), matches of patterns, and for "-" lines of stdin.

    Raises:
        ConfigError: a folder without an image, or a pattern that matches nothing.
    """
    files: list[str] = []
    for word in words:
        if word == "-":
            files += [line for line in sys.stdin.read().splitlines() if line.strip()]
        elif storage.is_folder(word):
            files += _below(word)
        elif glob.has_magic(word) and not storage.exists(word):
            matched = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            if not matched:
                raise ConfigError(f"{word}: no file matches this pattern")
            files += [file for file in matched if not Path(file).is_dir()]
        else:
            files.append(word)
    if not files:
        raise ConfigError(f"{' '.join(words)}: no image")
    return files


def _below(folder: str) -> list[str]:
    found = []
    in_table = storage.is_table(folder)
    for parent, folders, names in os.walk(folder) if storage.locate(folder) is None else storage.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [name for name in names if not name.startswith(".")]
        images = [name for name in shown if in_table or name.lower().endswith(SUFFIXES)]
        found += [str(Path(parent) / name) for name in images]
    if not found and in_table:
        raise ConfigError(f"{folder}: holds no image; paths of images that it may hold are not followed here")
    if not found:
        raise ConfigError(f"{folder}: no image in this folder; suffixes of images: {' '.join(SUFFIXES)}")
    return sorted(found)
