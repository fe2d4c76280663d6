"""Bootstrap of mean average precision and accuracy over the images: how they would vary with other test images.

A resample draws as many images as there are, with replacement. Runs that are compared get the same resamples (the same
seed and the same images), so that their difference is paired: the difficulty of an image for both runs cancels.

Average precision is not computed anew for each resample. An image drawn w times counts w times, and its copies share
one logit, hence one threshold. So the AP of a resample is a weighted AP of the original ranking:

    AP = sum_k b_k B_k / A_k / B,    k over the thresholds at which there is a positive, from the highest

with b_k the weight of the positives at threshold k, B_k and A_k that of all positives and of all known entries at or
above it, B that of all positives. One sort per class serves all resamples; b and the differences of A are sums of rows
of the weights (a product with a sparse matrix), for many resamples at a time. Equal to the AP of the drawn images to
1e-9.

NumPy and SciPy only. The intervals cover the choice of images alone: only several seeds can show how a figure varies
with the seed of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Absent = Literal["exclude", "zero", "error"]
BLOCK_BYTES = 1 << 20
"""Size of the weights that are used at a time: they should stay in the cache of a core."""


class Interval(NamedTuple):
    """A figure with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def resample(images: int, resamples: int, seed: int = 0) -> NDArray[np.uint16]:
    """Draw how often each image counts: `(resamples, images)`; the sum of each row is `images`."""
    counts = np.empty((resamples, images), dtype=np.uint16)  # an image is never drawn 65,536 times
    random = np.random.default_rng(seed)
    for row in counts:
        row[:] = np.bincount(random.integers(images, size=images), minlength=images)
    return counts


def percentile_interval(value: float, resampled: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Return `value` with the percentiles of its resamples that leave out (1 - level) / 2 at each end."""
    low, high = np.nanpercentile(resampled, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(value), float(low), float(high))


def centred_interval(value: float, resampled: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Return `value` with the percentiles of its resamples, moved by the difference of their mean to `value`.

    For the AP itself, where `percentile_interval` is for differences of two runs: an image that is drawn twice ranks
    beside its copy, which raises the AP of a class with few positives, so resamples lie above `value` (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 10). In a difference this cancels.
    """
    low, high = percentile_interval(value, resampled, level)[1:]
    bias = float(np.nanmean(resampled)) - value
    return Interval(float(value), low - bias, high - bias)


def resampled_average_precision(
    logits: NDArray[np.float32], targets: NDArray[np.int8], weights: NDArray[np.integer]
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """Compute AP per class and resample, with the weights of positives and negatives.

    Args:
        logits: `(N, C)`, without NaN.
        targets: `(N, C)` of 1, 0, -1 (unknown).
        weights: `(R, N)`, how often each image counts in each resample.

    Yields:
        a slice of resamples, and three float64 arrays `(r, C)`: AP in 0..1 (NaN without a positive), positives,
        negatives.
    """
    images, classes = logits.shape
    if targets.shape != logits.shape or weights.shape[1] != images:
        raise ValueError(f"logits {logits.shape}, targets {targets.shape} and weights {weights.shape} do not fit")
    if np.isnan(logits).any():
        raise ValueError("logits hold NaN: they cannot be ranked")
    rankings = [_Ranking.of(logits[:, c], targets[:, c]) for c in range(classes)]
    block = max(16, BLOCK_BYTES // (4 * max(images, 1)))
    for start in range(0, len(weights), block):
        part = slice(start, min(start + block, len(weights)))
        # fp32 holds sums of whole numbers exactly up to 2**24.
        dtype = np.float32 if weights[part].sum(1).max(initial=0) < 1 << 24 else np.float64
        columns = np.ascontiguousarray(weights[part].T, dtype=dtype)
        drawn = columns.sum(0, dtype=np.float64)
        ap, positives, negatives = (np.empty((columns.shape[1], classes)) for _ in range(3))
        for c, ranking in enumerate(rankings):
            ap[:, c], positives[:, c], negatives[:, c] = ranking.weighted(columns, drawn)
        yield part, ap, positives, negatives


class _Ranking(NamedTuple):
    """Images of one class by threshold: those between it and the one before, and the positives at it."""

    entries: sparse.csr_matrix
    """(T, N): row k marks the known images from below threshold k - 1 down to threshold k"""
    positives: sparse.csr_matrix
    """(T, N): row k marks the positive images at threshold k"""
    unknown: NDArray[np.int64]
    """indices of the images whose target is unknown"""

    @classmethod
    def of(cls, scores: NDArray[np.float32], targets: NDArray[np.int8]) -> _Ranking:
        """Rank the images of a class, `(N,)`."""
        known = np.flatnonzero(targets >= 0)
        known = known[np.argsort(-scores[known], kind="stable")]
        ranked, positive = scores[known], targets[known] == 1
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], np.ones(min(1, len(ranked)), dtype=bool)))
        threshold = np.searchsorted(ends, np.flatnonzero(positive))  # of each positive, among all thresholds
        used, rows = np.unique(threshold, return_inverse=True)
        bounds = np.concatenate([[0], ends[used] + 1])
        at_positive = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(used)))])
        shape = (len(used), len(scores))
        last = bounds[-1]
        return cls(
            sparse.csr_matrix((np.ones(last, dtype=np.float32), known[:last], bounds), shape=shape),
            sparse.csr_matrix(
                (np.ones(len(rows), dtype=np.float32), known[positive], at_positive.astype(bounds.dtype)), shape=shape
            ),
            np.flatnonzero(targets < 0),
        )

    def weighted(self, columns: NDArray[np.floating], images: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
        """Return AP, positives and negatives `(r,)` under weights `(N, r)`, whose sums `(r,)` are `images`."""
        entries, positives = (part.astype(columns.dtype, copy=False) for part in (self.entries, self.positives))
        at = (positives @ columns).astype(np.float64)
        above, found = np.cumsum(at, axis=0), np.cumsum(entries @ columns, axis=0, dtype=np.float64)
        total = above[-1] if len(at) else np.zeros(columns.shape[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            terms = np.where(at > 0, at * above / found, 0.0)
            ap = terms.sum(0) / total
        return ap, total, images - columns[self.unknown].sum(0, dtype=np.float64) - total


def resampled_figures(
    logits: NDArray[np.float32],
    targets: NDArray[np.int8],
    weights: NDArray[np.integer],
    groups: Mapping[str, NDArray[np.int64]],
    *,
    absent: Absent = "exclude",
    min_positives: int = 1,
    min_negatives: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Compute `map` and `map_<group>` (percent) of each resample, `(R,)`; NaN where no class is left to average.

    The options are those of `mltrain.metrics.summarize`. A class with few images is missing from some resamples; there
    `absent` decides whether it is left out of the mean or counts 0.
    """
    figures = {key: np.empty(len(weights)) for key in ("map", *(f"map_{name}" for name in groups))}
    members = {"map": np.arange(logits.shape[1])} | {f"map_{name}": np.asarray(found) for name, found in groups.items()}
    partial = (targets == -1).any(0)
    for part, ap, positives, negatives in resampled_average_precision(logits, targets, weights):
        missing = positives == 0
        counts = missing | ((positives >= min_positives) & (negatives >= min_negatives) & (~partial | (negatives > 0)))
        if absent != "zero":
            counts &= ~missing
        used = np.where(counts & ~missing, ap, 0.0)
        for key, classes in members.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                figures[key][part] = 100 * used[:, classes].sum(1) / counts[:, classes].sum(1)
    return figures


def resampled_accuracy(
    logits: NDArray[np.float32],
    targets: NDArray[np.int8],
    weights: NDArray[np.integer],
    groups: Mapping[str, NDArray[np.int64]],
) -> dict[str, NDArray[np.float64]]:
    """Compute `accuracy` and `accuracy_<group>` (percent) of each resample, `(R,)`, of images with one label each."""
    labelled = (targets == 1).any(1)
    truth = targets.argmax(1)
    right = (logits.argmax(1) == truth) & labelled
    chosen: list[tuple[str, NDArray[np.bool_]]] = [("accuracy", labelled)]
    chosen += [(f"accuracy_{name}", labelled & np.isin(truth, classes)) for name, classes in groups.items()]
    columns = np.stack([*(which & right for _, which in chosen), *(which for _, which in chosen)], axis=1).astype(
        np.float64
    )
    sums = np.stack([row.astype(np.float64) @ columns for row in weights])
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = 100 * sums[:, : len(chosen)] / sums[:, len(chosen) :]
    return {key: shares[:, k] for k, (key, _) in enumerate(chosen)}
