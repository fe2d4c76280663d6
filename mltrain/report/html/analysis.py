"""Numbers behind the plots of predictions: curves over thresholds, calibration, co-occurrence, mistakes. NumPy only.

Curves come from counts in about 200 bins of the probability, made in one pass over the predictions, so that millions of
entries take seconds and little memory. The figures of result.json are exact; a curve passes within a bin of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

GRID = np.round(np.arange(1, 100) / 100, 2).astype(np.float32)
"""Thresholds that are always among the edges of the bins."""
_CHUNK = 1 << 21  # entries at a time


def probabilities(logits: np.ndarray, *, softmax: bool) -> np.ndarray:
    """Compute the sigmoid of each logit, or the softmax of each row; fp32 (N, C)."""
    out = np.empty(logits.shape, dtype=np.float32)
    for rows in row_chunks(logits):
        part = logits[rows].astype(np.float64 if softmax else np.float32)
        if softmax:
            part = np.exp(part - part.max(axis=1, keepdims=True))
            out[rows] = part / part.sum(axis=1, keepdims=True)
        else:
            with np.errstate(over="ignore"):
                out[rows] = 1 / (1 + np.exp(-part))
    return out


def row_chunks(array: np.ndarray) -> Iterator[slice]:
    """Yield slices of rows with about 2 M entries each."""
    step = max(1, _CHUNK // max(1, array.shape[1]))
    for start in range(0, len(array), step):
        yield slice(start, start + step)


@dataclass(frozen=True, eq=False)
class Bins:
    """Counts of known entries per class and bin of the probability; bin b holds edges[b - 1] < p <= edges[b]."""

    edges: np.ndarray
    """fp32 (E,), ascending"""
    positives: np.ndarray
    """int64 (C, E + 1)"""
    known: np.ndarray
    """int64 (C, E + 1)"""
    sums: np.ndarray
    """float64 (C, E + 1): sum of the probabilities"""

    def above(self, classes: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return hits and predictions strictly above each edge, int64 (c, E), and positives (c,)."""
        hits, predicted = (
            np.cumsum(part[classes][:, ::-1], axis=1)[:, ::-1][:, 1:] for part in (self.positives, self.known)
        )
        return hits, predicted, self.positives[classes].sum(axis=1)

    def pooled(self, classes: np.ndarray | slice = slice(None)) -> Curve:
        """Return precision and recall at each edge, over all entries of `classes` (micro)."""
        hits, predicted, positives = (part.sum(axis=0) for part in self.above(classes))
        return Curve.of(self.edges, hits, predicted, int(positives))

    def macro_f1(self) -> np.ndarray:
        """Return the mean F1 of the classes that have a positive, at each edge, float64 (E,) in 0..1."""
        hits, predicted, positives = self.above()
        present = positives > 0
        f1 = 2 * hits[present] / np.maximum(predicted[present] + positives[present, None], 1)
        return f1.mean(axis=0) if present.any() else np.zeros(len(self.edges))


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision, recall and F1 (0..1) at thresholds; precision is NaN where nothing is predicted."""

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @classmethod
    def of(cls, thresholds: np.ndarray, hits: np.ndarray, predicted: np.ndarray, positives: int) -> Curve:
        """Compute the rates from counts at each threshold."""
        precision = np.divide(hits, predicted, out=np.full(len(hits), np.nan), where=predicted > 0)
        recall, f1 = hits / max(positives, 1), 2 * hits / np.maximum(predicted + positives, 1)
        return cls(thresholds, precision, recall, f1)

    def at(self, threshold: float) -> int:
        """Return the index of the nearest threshold."""
        return int(np.argmin(np.abs(self.thresholds - threshold)))

    @property
    def best(self) -> int:
        """Index of the highest F1."""
        return int(np.argmax(self.f1))


def count_bins(probability: np.ndarray, targets: np.ndarray) -> Bins:
    """Sort known entries into bins: the edges are `GRID` and quantiles of the positives' probabilities.

    Args:
        probability: fp32 (N, C).
        targets: int8 (N, C) of 1, 0, -1 (left out).
    """
    of_positives = probability[targets == 1]
    quantiles = np.quantile(of_positives, np.linspace(0, 1, 120)) if len(of_positives) else []
    just_below = np.nextafter(np.asarray(quantiles, dtype=np.float32), np.float32(0))
    # Above the edge 0 everything is predicted, except a probability that is 0 itself.
    edges = np.unique(np.concatenate([[np.float32(0)], GRID, just_below]).astype(np.float32))
    c, width = probability.shape[1], len(edges) + 1
    bin_of = _lookup(edges)
    parts = [np.empty((c, width), dtype) for dtype in (np.int64, np.int64, np.float64)]
    # A few classes at a time, so that their counts stay in the cache.
    for start in range(0, c, _CLASSES):
        columns = slice(start, min(start + _CLASSES, c))
        part, labels = np.ascontiguousarray(probability[:, columns].T), np.ascontiguousarray(targets[:, columns].T)
        size = len(part) * width
        place = bin_of[part.view(np.uint32) >> _DROPPED] + np.arange(len(part))[:, None] * width
        own = labels == 1
        unknown = labels < 0
        flat, weights = (place[~unknown], part[~unknown]) if unknown.any() else (place.ravel(), part.ravel())
        for result, found in zip(
            parts,
            (
                np.bincount(place[own], minlength=size),
                np.bincount(flat, minlength=size),
                np.bincount(flat, weights=weights, minlength=size),
            ),
            strict=True,
        ):
            result[columns] = found.reshape(-1, width)
    return Bins(edges, *parts)


_CLASSES = 64
_DROPPED = 10
"""Low bits of a float32 that are ignored for its bin: probabilities are distinguished to 1 in 8,192."""


def _lookup(edges: np.ndarray) -> np.ndarray:
    """Return the bin of each probability by the high bits of its float32, ten times as fast as a search.

    The bits of positive floats, read as whole numbers, have the order of the floats.
    """
    levels = np.arange((np.float32(1).view(np.uint32) >> _DROPPED) + 1, dtype=np.uint32)
    # The middle of the floats of a level: an edge that is the lowest of them lies below it.
    middle = ((levels << _DROPPED) + (1 << (_DROPPED - 1))).view(np.float32)
    return np.searchsorted(edges, middle, side="left").astype(np.int64)


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted probability and observed frequency in the non-empty bins of equal width."""

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray
    error: float
    """expected calibration error (0..1): mean |predicted - observed|, weighted by entries; Naeini et al., AAAI 2015"""


def reliability(bins: Bins, classes: np.ndarray | slice = slice(None), width: float = 0.05) -> Reliability:
    """Compute the calibration of the known entries of `classes`."""
    counts, positives, sums = (part[classes].sum(axis=0) for part in (bins.known, bins.positives, bins.sums))
    upper = np.append(bins.edges, np.float32(1))
    group = np.clip(np.ceil(upper / np.float32(width) - 1e-4).astype(np.int64) - 1, 0, round(1 / width) - 1)
    counts, positives, sums = (np.bincount(group, weights=part) for part in (counts, positives, sums))
    return _reliability(counts, positives, sums)


def confidence_reliability(confidence: np.ndarray, correct: np.ndarray, width: float = 0.05) -> Reliability:
    """Compute the calibration of the highest probability of each image with a single label; both arguments are (N,)."""
    group = np.clip(np.ceil(confidence / width - 1e-4).astype(np.int64) - 1, 0, round(1 / width) - 1)
    return _reliability(
        np.bincount(group).astype(np.float64),
        np.bincount(group, weights=correct),
        np.bincount(group, weights=confidence),
    )


def _reliability(counts: np.ndarray, positives: np.ndarray, sums: np.ndarray) -> Reliability:
    there = counts > 0
    counts, positives, sums = counts[there], positives[there], sums[there]
    error = float(np.abs(positives - sums).sum() / max(counts.sum(), 1))
    return Reliability(sums / counts, positives / counts, counts.astype(np.int64), error)


def class_curve(scores: np.ndarray, targets: np.ndarray, most: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Compute exact recall and precision of one class (N,) at its positives; at most `most`, evenly spaced."""
    known, positives = np.sort(scores[targets >= 0]), np.sort(scores[targets == 1])[::-1]
    at_or_above = len(known) - np.searchsorted(known, positives, side="left")
    hits = len(positives) - np.searchsorted(positives[::-1], positives, side="left")
    recall, precision = hits / max(len(positives), 1), hits / np.maximum(at_or_above, 1)
    if len(recall) > most:
        kept = np.unique(np.linspace(0, len(recall) - 1, most).astype(np.int64))
        recall, precision = recall[kept], precision[kept]
    return recall, precision


def given(marks: np.ndarray) -> np.ndarray:
    """Compute P(column | row) of bool marks (N, c), float64 (c, c); NaN on the diagonal and in rows without a mark."""
    both = marks.astype(np.float32).T @ marks.astype(np.float32)
    own = np.diag(both).astype(np.float64)
    result: np.ndarray = np.divide(both, own[:, None], out=np.full(both.shape, np.nan), where=own[:, None] > 0)
    np.fill_diagonal(result, np.nan)
    return result


@dataclass(frozen=True)
class Entry:
    """A prediction: an image, a class and the probability."""

    image: int
    label: int
    probability: float


def extremes(
    probability: np.ndarray, allowed: np.ndarray, *, highest: bool, count: int, per_class: int = 2
) -> list[Entry]:
    """Choose the entries with the highest (or lowest) probability among `allowed` (bool (N, C)).

    At most one per image and `per_class` per class, so that one odd image or class does not fill the page.
    """
    sign = np.float32(-1 if highest else 1)
    found: list[np.ndarray] = []
    kept = 200 * count
    for rows in row_chunks(probability):
        image, label = np.nonzero(allowed[rows])
        score = sign * probability[rows][image, label]
        if len(score) > kept:
            best = np.argpartition(score, kept)[:kept]
            image, label, score = image[best], label[best], score[best]
        found.append(np.stack([image + rows.start, label, score]).astype(np.float64))
    entries = np.concatenate(found, axis=1) if found else np.empty((3, 0))
    chosen: list[Entry] = []
    images: set[int] = set()
    classes: dict[int, int] = {}
    for k in np.lexsort((entries[0], entries[2])):
        row, column = int(entries[0, k]), int(entries[1, k])
        if row in images or classes.get(column, 0) >= per_class:
            continue
        images.add(row)
        classes[column] = classes.get(column, 0) + 1
        chosen.append(Entry(row, column, float(probability[row, column])))
        if len(chosen) == count:
            break
    return chosen
