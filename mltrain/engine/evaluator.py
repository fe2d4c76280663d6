"""Logits and metrics of a whole split, for one or more weights in one pass over the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from signal import Signals
from typing import Any

import numpy as np
import torch

from mltrain.engine.distributed import Distributed
from mltrain.engine.run_folder import WEIGHTS
from mltrain.engine.shard import whole
from mltrain.engine.signals import StopSignal, from_flags, to_flags
from mltrain.errors import DataError, Interrupted, MltrainError, NonFiniteError
from mltrain.metrics.entries import KnownCollector, KnownEntries
from mltrain.metrics.summary import Summary
from mltrain.models.classifier import Classifier, exact_features
from mltrain.pipeline.batch import to_device
from mltrain.pipeline.loader import Batch, EvalLoader
from mltrain.progress import Meter, Mode
from mltrain.text import did_you_mean, part_of

Forward = Callable[[Mapping[str, Classifier], torch.Tensor], dict[str, torch.Tensor]]
"""Models by name and a batch of images -> their logits, fp32 (B, C)."""


@dataclass(frozen=True)
class Inference:
    """Settings with which models run over a split, the same in every evaluation of a run."""

    dist: Distributed
    amp_dtype: torch.dtype | None = None
    """of autocast over the backbone, or None; the head always runs in fp32"""
    channels_last: bool = True
    stop: StopSignal | None = None
    progress: Mode = "off"
    """display on the main rank"""
    forward: Forward | None = None
    """logits of all models for a batch (test-time augmentation, ensembles); None: each model sees the images"""


@dataclass(frozen=True)
class Predictions:
    """Logits and targets of a split; row i belongs to image i of its LabelSet."""

    logits: dict[str, torch.Tensor]
    """by the name of the weights ("val" raw, "ema"), fp32 (N, C) on the CPU"""
    targets: torch.Tensor
    """int8 (N, C)"""


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a split and their metrics, by the name of the weights ("val" raw, "ema")."""

    predictions: Predictions | None
    """None if only the known entries were kept"""
    summaries: dict[str, Summary]
    known: dict[str, KnownEntries] | None = None
    """kept instead of the predictions"""

    def best(self, by: str) -> str:
        """Return the name of the weights with the higher figure `by`; the raw weights if both are equal.

        Raises:
            MltrainError: the figure is one of the user's own metrics, which did not give it, or gave NaN.
        """
        for name, summary in self.summaries.items():
            if math.isnan(summary.scalars.get(by, math.nan)):
                gave = "is NaN" if by in summary.scalars else f"is no figure{did_you_mean(by, summary.scalars)}"
                raise MltrainError(f"metrics.best={by}: {gave} (of the {WEIGHTS.get(name, name)} weights)")
        return max(self.summaries, key=lambda name: self.summaries[name].scalars[by])

    def entries(self) -> dict[str, tuple[Any, ...]]:
        """Return the arguments of a metric by the name of the weights: (logits, targets), or the known entries."""
        if self.predictions is None:
            return {name: (entries,) for name, entries in (self.known or {}).items()}
        targets = self.predictions.targets
        return {name: (logits, targets) for name, logits in self.predictions.logits.items()}


def evaluate(
    models: Mapping[str, Classifier],
    loader: EvalLoader,
    summarize: Callable[..., Summary],
    inference: Inference,
    *,
    keep_all: bool = False,
) -> Evaluation | None:
    """Return predictions and metrics of each of `models` on the main rank, None on others.

    If most targets of a split are unknown (`LabelSet.fill` is -1), only the predictions of known targets are kept,
    unless `keep_all`: Open Images' test set then takes some 20 MB instead of 6 GB, for the same figures.

    Args:
        models: by name of their weights.
        loader: of the split.
        summarize: takes (logits, targets), or `KnownEntries`.
        inference: settings.
        keep_all: keep the predictions of unknown targets too.

    Raises:
        DataError: no class has a positive, or other targets that cannot be evaluated.
        NonFiniteError: a logit is NaN.
        Interrupted: see `predict`.
    """
    predictions: Predictions | None = None
    known: dict[str, KnownEntries] | None = None
    if loader.labels.fill == -1 and not keep_all:
        known = predict_known(models, loader, inference)
    else:
        predictions = predict(models, loader, inference)
    if predictions is None and known is None:
        return None
    for name, logits in predictions.logits.items() if predictions is not None else ():
        _refuse_nan(name, logits, loader)
    evaluation = Evaluation(predictions, {}, known)
    try:
        summaries = {name: summarize(*arguments) for name, arguments in evaluation.entries().items()}
    except ValueError as error:
        raise DataError(f"{loader.labels.name}: {error}") from error
    return replace(evaluation, summaries=summaries)


@torch.inference_mode()
def predict(models: Mapping[str, Classifier], loader: EvalLoader, inference: Inference) -> Predictions | None:
    """Run each of `models` over `loader`; return the predictions on the main rank, None on others.

    The backbone runs under autocast, the head always in fp32: half-precision logits collapse onto few distinct values
    (40 k scores onto 749 in bf16), and these ties move the average precision.

    Raises:
        Interrupted: a rank received SIGTERM or SIGINT; all ranks raise after the same batch.
    """
    dist, classes, rows = inference.dist, loader.labels.num_classes, loader.share
    # The tensors are filled in place: a list of batches, to be joined at the end, would need twice the memory.
    logits = {name: torch.empty(rows, classes) for name in models}
    targets = torch.empty(rows, classes, dtype=torch.int8)
    indices = torch.empty(rows, dtype=torch.int64)
    done = 0
    for batch, outputs in forward_batches(models, loader, inference):
        part = slice(done, done + len(batch.indices))
        for name, values in outputs.items():
            logits[name][part] = values
        targets[part], indices[part] = batch.targets, batch.indices
        done = part.stop
    assert done == rows, "the loader gives every image of this rank's share"
    order = dist.gather_rows(indices)
    # pop() frees each rank's part as soon as it is gathered: at most one set of logits is in memory twice.
    gathered = {name: dist.gather_rows(logits.pop(name)) for name in list(logits)}
    labels = dist.gather_rows(targets)
    if order is None or labels is None:
        return None
    # The loader gives each rank a contiguous share of the set, in order.
    assert torch.equal(order, torch.arange(len(loader.labels))), "each image must be evaluated exactly once, in order"
    return Predictions({k: v for k, v in gathered.items() if v is not None}, labels)


@torch.inference_mode()
def predict_known(
    models: Mapping[str, Classifier], loader: EvalLoader, inference: Inference
) -> dict[str, KnownEntries] | None:
    """Run each of `models` over `loader` as `predict` does, but keep only the entries whose targets are known.

    Raises:
        NonFiniteError: a logit is NaN, on every rank.
        Interrupted: see `predict`.
    """
    dist = inference.dist
    collected = {name: KnownCollector(loader.labels.num_classes) for name in models}
    nan_images: dict[str, list[int]] = {name: [] for name in models}
    for batch, outputs in forward_batches(models, loader, inference):
        for name, values in outputs.items():
            rows = values.amin(dim=1).isnan().nonzero().view(-1).cpu()
            nan_images[name] += batch.indices[rows].tolist()
            collected[name].add(values.nan_to_num(0) if len(rows) else values, batch.targets)
    for name in models:
        images = [image for own in dist.all_gather_objects(nan_images[name]) for image in own]
        if images:
            raise _nan_error(name, images, loader)
    known: dict[str, KnownEntries] = {}
    for name, own in collected.items():
        entries = own.entries()
        tensors = {key: dist.gather_rows(getattr(entries, key)) for key in ("columns", "labels", "logits", "ranks")}
        present = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        if present:
            known[name] = KnownEntries(images=len(loader.labels), classes=entries.classes, **present)
    return known or None


def forward_batches(
    models: Mapping[str, Classifier], loader: EvalLoader, inference: Inference
) -> Iterator[tuple[Batch, dict[str, torch.Tensor]]]:
    """Yield each batch of this rank with its logits, fp32 on the device, by the name of the weights."""
    dist = inference.dist
    memory_format = torch.channels_last if inference.channels_last else torch.contiguous_format
    for model in models.values():
        dist.broadcast_buffers(model)  # batch-norm statistics differ between ranks, which have seen different batches
        model.eval()
    if inference.stop is not None:
        loader.waiting.look = partial(inference.stop.check_while_waiting, dist.world_size)
    batches = iter(loader)
    mode: Mode = inference.progress if dist.is_main else "off"
    meter = Meter(f"evaluating {loader.labels.name}", loader.share, unit="images", mode=mode)
    with whole(models.values()), meter:
        for _ in range(loader.rounds):  # the same number on every rank, so that all can agree on stopping
            batch = next(batches, None)
            if batch is not None:
                images = to_device(batch.images, dist.device, memory_format)
                if inference.forward is not None:
                    outputs = inference.forward(models, images)
                else:
                    outputs = {k: forward_logits(model, images, inference.amp_dtype) for k, model in models.items()}
                yield batch, outputs
                meter.add(len(batch.indices))
            _stop_together(dist, inference.stop)


@torch.inference_mode()
def mean_probabilities(model: Classifier, loader: EvalLoader, inference: Inference) -> np.ndarray:
    """Return the mean over all images of each class's sigmoid, float64 (C,), on every rank.

    Raises:
        NonFiniteError: a logit is NaN, on every rank.
    """
    total = torch.zeros(loader.labels.num_classes, dtype=torch.float64)
    for _, outputs in forward_batches({"": model}, loader, inference):
        total += outputs[""].cpu().double().sigmoid().sum(0)
    means = inference.dist.all_reduce_sum(total) / max(len(loader.labels), 1)
    if not bool(means.isfinite().all()):
        raise NonFiniteError(f"{loader.labels.name}: the weights give NaN; try runner.amp=off")
    return means.numpy()


def forward_logits(model: Classifier, images: torch.Tensor, amp_dtype: torch.dtype | None) -> torch.Tensor:
    """Return logits, fp32 (B, C): the backbone runs under autocast, the head in fp32."""
    return model.classify(exact_features(model, images, amp_dtype)).float()


def _refuse_nan(name: str, logits: torch.Tensor, loader: EvalLoader) -> None:
    if logits.numel():
        images = (
            logits.amin(dim=1).isnan().nonzero().view(-1).tolist()
        )  # amin propagates NaN, without a temporary of (N, C)
        if images:
            raise _nan_error(name, images, loader)


def _nan_error(name: str, images: list[int], loader: EvalLoader) -> NonFiniteError:
    weights = WEIGHTS.get(name, name)
    return NonFiniteError(
        f"{loader.labels.name}: the {weights} weights give NaN for "
        f"{part_of(len(images), len(loader.labels), 'image')}, first "
        f"for {loader.labels.path(images[0])}. Try runner.amp=off, a lower optimizer.lr or runner.clip_grad_norm=1."
    )


def _stop_together(dist: Distributed, stop: StopSignal | None) -> None:
    signum = stop.signum if stop is not None else None
    if dist.world_size > 1:
        flags = torch.tensor(to_flags(signum), dtype=torch.float64, device=dist.device)
        signum = from_flags(dist.all_reduce_sum(flags).tolist())
    if signum is not None:
        raise Interrupted(f"stopped by {Signals(signum).name} during evaluation", signum)
