"""Counts for precision and recall over thresholds of the probability, pooled over classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from mltrain.metrics.entries import KnownEntries

_CHUNK = 1 << 18  # entries at a time


def counts_by_threshold(
    logits: Tensor | KnownEntries,
    targets: Tensor | None = None,
    *,
    groups: Mapping[str, np.ndarray],
    thresholds: int = 127,
    softmax: bool = False,
) -> dict[str, np.ndarray]:
    """Count the known positives and negatives that have at least each probability.

    Args:
        logits: `(N, C)`, or the known entries, without targets.
        targets: `(N, C)` of 1, 0, -1; unknown entries (-1) are left out.
        groups: class indices by name; a class is in one group at most.
        thresholds: T; the k-th is k / (T - 1).
        softmax: probabilities are a softmax (one label per image) instead of a sigmoid of each logit.

    Returns:
        float64 `(2, T)` for all classes, "micro", and for each group: positives, then negatives. Compared in float32.

    Raises:
        ValueError: logits without targets, or a softmax of known entries, which lack the others of their image.
    """
    if not isinstance(logits, KnownEntries) and targets is None:
        raise ValueError("logits need targets")
    if isinstance(logits, KnownEntries) and softmax:
        raise ValueError("a softmax needs the logits of all classes, not of known entries alone")
    classes = logits.classes if isinstance(logits, KnownEntries) else logits.shape[1]
    segments = len(groups) + 1  # the last one has the classes without a group
    start = torch.full((classes,), (segments - 1) * thresholds)
    for k, indices in enumerate(groups.values()):
        start[torch.from_numpy(np.asarray(indices, dtype=np.int64))] = k * thresholds
    half = segments * thresholds
    total = torch.zeros(2 * half, dtype=torch.int64)
    for probabilities, labels, starts in _parts(logits, targets, start, softmax):
        place = (probabilities * (thresholds - 1)).long() + starts
        place = place.add_(labels == 0, alpha=half)
        known = labels >= 0
        total += torch.bincount(place[known] if not bool(known.all()) else place.view(-1), minlength=2 * half)
    table = total.view(2, segments, thresholds).flip(-1).cumsum(-1).flip(-1).double().numpy()
    return {"micro": table.sum(axis=1), **{name: table[:, k] for k, name in enumerate(groups)}}


def _parts(
    logits: Tensor | KnownEntries, targets: Tensor | None, start: Tensor, softmax: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield probabilities, labels and the `start` of their classes, some at a time."""
    if isinstance(logits, KnownEntries):
        parts = zip(*(t.split(_CHUNK) for t in (logits.logits, logits.labels, logits.columns)), strict=True)
        for values, labels, columns in parts:
            yield values.float().sigmoid(), labels, start[columns.long()]
        return
    assert targets is not None
    rows = max(1, _CHUNK // max(logits.shape[1], 1))
    for values, labels in zip(logits.split(rows), targets.split(rows), strict=True):
        values = values.float()
        yield values.softmax(1) if softmax else values.sigmoid(), labels, start
