"""Logits and metrics of a whole split, from one or more weights in one pass over the data."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mltrain.engine.signals import StopSignal
from mltrain.errors import DataError, Interrupted, NonFiniteError

if TYPE_CHECKING:
    from mltrain.engine.distributed import Distributed
    from mltrain.metrics.summary import Summary
    from mltrain.models.classifier import Classifier
    from mltrain.pipeline.loader import EvalLoader


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

    predictions: Predictions
    summaries: dict[str, Summary]

    def best(self, by: str) -> str:
        """The weights with the higher figure `by`; raw weights where equal."""
        return max(self.summaries, key=lambda name: self.summaries[name].scalars[by])


def evaluate(
    models: Mapping[str, Classifier],
    loader: EvalLoader,
    summarize: Callable[[torch.Tensor, torch.Tensor], Summary],
    *,
    dist: Distributed,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = True,
    stop: StopSignal | None = None,
) -> Evaluation | None:
    """Predictions and metrics of each of `models`; on the main rank, None elsewhere.

    Raises:
        DataError: no class has a positive, or other targets that cannot be evaluated.
        NonFiniteError: a logit is NaN.
        Interrupted: see `predict`.
    """
    predictions = predict(models, loader, dist=dist, amp_dtype=amp_dtype, channels_last=channels_last, stop=stop)
    if predictions is None:
        return None
    for name, logits in predictions.logits.items():
        _refuse_nan(name, logits, loader)
    try:
        summaries = {name: summarize(logits, predictions.targets) for name, logits in predictions.logits.items()}
    except ValueError as error:
        raise DataError(f"{loader.labels.name}: {error}") from error
    return Evaluation(predictions, summaries)


@torch.inference_mode()
def predict(
    models: Mapping[str, Classifier],
    loader: EvalLoader,
    *,
    dist: Distributed,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = True,
    stop: StopSignal | None = None,
) -> Predictions | None:
    """Run each of `models` over `loader`; the predictions on the main rank, None elsewhere.

    The backbone runs under autocast, the head always in fp32: half-precision logits collapse onto few distinct values
    (40 k scores onto 749 in bf16) and the ties that this makes move the average precision.

    Raises:
        Interrupted: a rank received SIGTERM or SIGINT; all ranks raise after the same batch.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for model in models.values():
        dist.broadcast_buffers(model)  # each rank's batch-norm statistics have seen its own batches
        model.eval()
    logits: dict[str, list[torch.Tensor]] = {name: [] for name in models}
    targets: list[torch.Tensor] = []
    indices: list[torch.Tensor] = []
    batches = iter(loader)
    for _ in range(loader.rounds):  # the same number on every rank, so that they can agree on stopping
        batch = next(batches, None)
        if batch is not None:
            images = batch.images.to(dist.device, non_blocking=True, memory_format=memory_format)
            for name, model in models.items():
                logits[name].append(_logits(model, images, amp_dtype).cpu())
            targets.append(batch.targets)
            indices.append(batch.indices)
        _stop_together(dist, stop)
    num_classes = loader.labels.num_classes
    order = dist.gather_rows(torch.cat([*indices, torch.empty(0, dtype=torch.int64)]))
    # Popped, so that no more than one set of logits is held twice.
    rows = {k: dist.gather_rows(torch.cat([*logits.pop(k), torch.empty(0, num_classes)])) for k in list(logits)}
    labels = dist.gather_rows(torch.cat([*targets, torch.empty(0, num_classes, dtype=torch.int8)]))
    if order is None or labels is None:
        return None
    # The loader gives each rank a stretch of the set, in order.
    assert torch.equal(order, torch.arange(len(loader.labels))), "each image must be evaluated exactly once, in order"
    return Predictions({k: v for k, v in rows.items() if v is not None}, labels)


@torch.inference_mode()
def mean_probabilities(
    model: Classifier,
    loader: EvalLoader,
    *,
    dist: Distributed,
    amp_dtype: torch.dtype | None = None,
    channels_last: bool = True,
) -> np.ndarray:
    """Mean over all images of the sigmoid of each class, float64 (C,), on every rank.

    Raises:
        NonFiniteError: a logit is NaN, on every rank.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    dist.broadcast_buffers(model)
    model.eval()
    total = torch.zeros(loader.labels.num_classes, dtype=torch.float64)
    for batch in loader:
        images = batch.images.to(dist.device, non_blocking=True, memory_format=memory_format)
        total += _logits(model, images, amp_dtype).cpu().double().sigmoid().sum(0)
    means = dist.all_reduce_sum(total) / max(len(loader.labels), 1)
    if not bool(means.isfinite().all()):
        raise NonFiniteError(f"{loader.labels.name}: the weights give NaN; try runner.amp=off")
    return means.numpy()


def _logits(model: Classifier, images: torch.Tensor, amp_dtype: torch.dtype | None) -> torch.Tensor:
    """fp32 (B, C), the head in fp32."""
    with torch.autocast(images.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        features = model.features(images)
    features = features._replace(tokens=features.tokens.float())
    logits: torch.Tensor = model.classify(features).float()
    return logits


def _refuse_nan(name: str, logits: torch.Tensor, loader: EvalLoader) -> None:
    bad = logits.isnan().any(dim=1).nonzero().view(-1)
    if len(bad):
        weights = {"val": "raw", "ema": "EMA"}.get(name, name)
        raise NonFiniteError(
            f"{loader.labels.name}: the {weights} weights give NaN for {len(bad)} of {len(logits)} images, first for "
            f"{loader.labels.path(int(bad[0]))}. Try runner.amp=off, a lower optimizer.lr or runner.clip_grad_norm=1."
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
