"""Logits and metrics of a whole split, from one or more weights in one pass over the data."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mltrain.engine.run_folder import WEIGHTS
from mltrain.engine.signals import StopSignal
from mltrain.errors import DataError, Interrupted, NonFiniteError
from mltrain.metrics.entries import KnownCollector, KnownEntries
from mltrain.progress import Meter, Mode

if TYPE_CHECKING:
    from mltrain.engine.distributed import Distributed
    from mltrain.metrics.summary import Summary
    from mltrain.models.classifier import Classifier
    from mltrain.pipeline.loader import Batch, EvalLoader


@dataclass(frozen=True)
class Predictions:
    """Logits and targets of a split; row i belongs to image i of its LabelSet."""

    logits: dict[str, torch.Tensor]
    """per weights ("val" raw, "ema"), fp32 (N, C) on the CPU"""
    targets: torch.Tensor
    """int8 (N, C)"""


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a split and their metrics, per weights ("val" raw, "ema")."""

    predictions: Predictions | None
    """None where only the known entries were kept"""
    summaries: dict[str, Summary]
    known: dict[str, KnownEntries] | None = None
    """what was kept in place of predictions"""

    def best(self, by: str) -> str:
        """The weights with the higher figure `by`; raw weights where equal."""
        return max(self.summaries, key=lambda name: self.summaries[name].scalars[by])

    def entries(self) -> dict[str, tuple[Any, ...]]:
        """Per weights what metrics take: (logits, targets), or the known entries."""
        if self.predictions is None:
            return {name: (entries,) for name, entries in (self.known or {}).items()}
        targets = self.predictions.targets
        return {name: (logits, targets) for name, logits in self.predictions.logits.items()}


def evaluate(
    models: Mapping[str, Classifier],
    loader: EvalLoader,
    summarize: Callable[..., Summary],
    *,
    dist: Distributed,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = True,
    stop: StopSignal | None = None,
    keep_all: bool = False,
    progress: Mode = "off",
) -> Evaluation | None:
    """Predictions and metrics of each of `models`; on the main rank, None elsewhere.

    Of a split most of whose targets are unknown (`LabelSet.fill` -1) only the predictions of known ones are kept,
    unless `keep_all`: Open Images' test set takes some 20 MB in place of 6 GB, for the same figures.

    Args:
        summarize: of (logits, targets), or of `KnownEntries`.
        progress: how the main rank shows it.

    Raises:
        DataError: no class has a positive, or other targets that cannot be evaluated.
        NonFiniteError: a logit is NaN.
        Interrupted: see `predict`.
    """
    settings: Any = {
        "dist": dist,
        "amp_dtype": amp_dtype,
        "channels_last": channels_last,
        "stop": stop,
        "progress": progress,
    }
    predictions: Predictions | None = None
    known: dict[str, KnownEntries] | None = None
    if loader.labels.fill == -1 and not keep_all:
        known = predict_known(models, loader, **settings)
        if known is None:
            return None
    else:
        predictions = predict(models, loader, **settings)
        if predictions is None:
            return None
        for name, logits in predictions.logits.items():
            _refuse_nan(name, logits, loader)
    evaluation = Evaluation(predictions, {}, known)
    try:
        summaries = {name: summarize(*arguments) for name, arguments in evaluation.entries().items()}
    except ValueError as error:
        raise DataError(f"{loader.labels.name}: {error}") from error
    return replace(evaluation, summaries=summaries)


@torch.inference_mode()
def predict(
    models: Mapping[str, Classifier],
    loader: EvalLoader,
    *,
    dist: Distributed,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = True,
    stop: StopSignal | None = None,
    progress: Mode = "off",
) -> Predictions | None:
    """Run each of `models` over `loader`; the predictions on the main rank, None elsewhere.

    The backbone runs under autocast, the head always in fp32: half-precision logits collapse onto few distinct values
    (40 k scores onto 749 in bf16) and the ties that this makes move the average precision.

    Raises:
        Interrupted: a rank received SIGTERM or SIGINT; all ranks raise after the same batch.
    """
    classes = loader.labels.num_classes
    # Filled in place: a list of batches to be joined would be held twice.
    rows = loader.share
    logits = {name: torch.empty(rows, classes) for name in models}
    targets = torch.empty(rows, classes, dtype=torch.int8)
    indices = torch.empty(rows, dtype=torch.int64)
    done = 0
    for batch, outputs in forward_batches(models, loader, dist, amp_dtype, channels_last, stop, progress):
        part = slice(done, done + len(batch.indices))
        for name, values in outputs.items():
            logits[name][part] = values
        targets[part], indices[part] = batch.targets, batch.indices
        done = part.stop
    assert done == rows, "the loader gives every image of its stretch"
    order = dist.gather_rows(indices)
    # Popped, so that no more than one set of logits is held twice.
    gathered = {name: dist.gather_rows(logits.pop(name)) for name in list(logits)}
    labels = dist.gather_rows(targets)
    if order is None or labels is None:
        return None
    # The loader gives each rank a stretch of the set, in order.
    assert torch.equal(order, torch.arange(len(loader.labels))), "each image must be evaluated exactly once, in order"
    return Predictions({k: v for k, v in gathered.items() if v is not None}, labels)


@torch.inference_mode()
def predict_known(
    models: Mapping[str, Classifier],
    loader: EvalLoader,
    *,
    dist: Distributed,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = True,
    stop: StopSignal | None = None,
    progress: Mode = "off",
) -> dict[str, KnownEntries] | None:
    """As `predict`, but only what is predicted for known targets.

    Raises:
        NonFiniteError: a logit is NaN, on every rank.
        Interrupted: as `predict`.
    """
    collected = {name: KnownCollector(loader.labels.num_classes) for name in models}
    bad: dict[str, list[int]] = {name: [] for name in models}
    for batch, outputs in forward_batches(models, loader, dist, amp_dtype, channels_last, stop, progress):
        for name, values in outputs.items():
            rows = values.amin(dim=1).isnan().nonzero().view(-1).cpu()
            bad[name] += batch.indices[rows].tolist()
            collected[name].add(values.nan_to_num(0) if len(rows) else values, batch.targets)
    for name in models:
        images = [image for own in dist.all_gather_objects(bad[name]) for image in own]
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
    models: Mapping[str, Classifier],
    loader: EvalLoader,
    dist: Distributed,
    amp_dtype: torch.dtype | None,
    channels_last: bool,
    stop: StopSignal | None,
    progress: Mode = "off",
) -> Iterator[tuple[Batch, dict[str, torch.Tensor]]]:
    """Each batch of this rank with its logits, fp32 on the device, by weights."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for model in models.values():
        dist.broadcast_buffers(model)  # each rank's batch-norm statistics have seen its own batches
        model.eval()
    batches = iter(loader)
    mode: Mode = progress if dist.is_main else "off"
    with Meter(f"evaluating {loader.labels.name}", loader.share, unit="images", mode=mode) as meter:
        for _ in range(loader.rounds):  # the same number on every rank, so that they can agree on stopping
            batch = next(batches, None)
            if batch is not None:
                images = batch.images.to(dist.device, non_blocking=True, memory_format=memory_format)
                yield batch, {name: forward_logits(model, images, amp_dtype) for name, model in models.items()}
                meter.add(len(batch.indices))
            _stop_together(dist, stop)


@torch.inference_mode()
def mean_probabilities(
    model: Classifier,
    loader: EvalLoader,
    *,
    dist: Distributed,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = True,
    progress: Mode = "off",
) -> np.ndarray:
    """Mean over all images of the sigmoid of each class, float64 (C,), on every rank.

    Raises:
        NonFiniteError: a logit is NaN, on every rank.
    """
    total = torch.zeros(loader.labels.num_classes, dtype=torch.float64)
    for _, outputs in forward_batches({"": model}, loader, dist, amp_dtype, channels_last, None, progress):
        total += outputs[""].cpu().double().sigmoid().sum(0)
    means = dist.all_reduce_sum(total) / max(len(loader.labels), 1)
    if not bool(means.isfinite().all()):
        raise NonFiniteError(f"{loader.labels.name}: the weights give NaN; try runner.amp=off")
    return means.numpy()


def forward_logits(model: Classifier, images: torch.Tensor, amp_dtype: torch.dtype | None) -> torch.Tensor:
    """fp32 (B, C), the head in fp32."""
    with torch.autocast(images.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        features = model.features(images)
    features = features._replace(tokens=features.tokens.float())
    logits: torch.Tensor = model.classify(features).float()
    return logits


def _refuse_nan(name: str, logits: torch.Tensor, loader: EvalLoader) -> None:
    if logits.numel():
        images = logits.amin(dim=1).isnan().nonzero().view(-1).tolist()  # amin carries NaN, and needs no memory
        if images:
            raise _nan_error(name, images, loader)


def _nan_error(name: str, images: list[int], loader: EvalLoader) -> NonFiniteError:
    weights = WEIGHTS.get(name, name)
    return NonFiniteError(
        f"{loader.labels.name}: the {weights} weights give NaN for {len(images)} of {len(loader.labels)} images, first "
        f"for {loader.labels.path(images[0])}. Try runner.amp=off, a lower optimizer.lr or runner.clip_grad_norm=1."
    )


def _stop_together(dist: Distributed, stop: StopSignal | None) -> None:
    signum = stop.signum if stop is not None else None
    if dist.world_size > 1:
        seen = torch.tensor(
            [signum == signal.SIGTERM, signum == signal.SIGINT], dtype=torch.float64, device=dist.device
        )
        terms, interrupts = dist.all_reduce_sum(seen).tolist()
        signum = signal.SIGTERM if terms else signal.SIGINT if interrupts else None
    if signum is not None:
        raise Interrupted(f"stopped by {signal.Signals(signum).name} during evaluation", signum)
