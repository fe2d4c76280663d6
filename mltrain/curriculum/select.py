"""Choosing images class by class: the random seed set, and the easiest of the rest."""

from __future__ import annotations

import numpy as np

from mltrain.labels import LabelSet


def random_words(count: int, *key: int) -> np.ndarray:
    """64-bit random words, uint64 (count,), a function of `key` alone."""
    words: np.ndarray = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return words


def home_classes(labels: LabelSet) -> np.ndarray:
    """The one class that each image is counted under, int64 (N,): its label, of several the rarest, the first of equal
    ones; C where it has no positive."""
    rows, columns = labels.positive_pairs()
    counts = np.bincount(columns, minlength=labels.num_classes)
    homes = np.full(len(labels), labels.num_classes, dtype=np.int64)
    order = np.lexsort((columns, counts[columns], rows))
    first = order[np.unique(rows[order], return_index=True)[1]]
    homes[rows[first]] = columns[first]
    return homes


def image_losses(losses: np.ndarray, rows: np.ndarray, num_images: int) -> np.ndarray:
    """Mean loss of the positives of each image, float64 (N,), from those of each positive target (P,); 0 without."""
    counts = np.bincount(rows, minlength=num_images)
    means: np.ndarray = np.bincount(rows, weights=losses, minlength=num_images) / np.maximum(counts, 1)
    return means


def share_of_each(ratio: float, sizes: np.ndarray) -> np.ndarray:
    """ceil(ratio * sizes), int64, not thrown off by how a ratio is rounded (0.55 * 100 is 55.00000000000001)."""
    return np.ceil(ratio * sizes - 1e-9).astype(np.int64)


def lowest_of_each(keys: np.ndarray, ties: np.ndarray, homes: np.ndarray, ratio: float) -> np.ndarray:
    """Of each home class the share `ratio`, rounded up, of its images with the lowest keys; bool (n,).

    Args:
        keys, ties, homes: (n,) each; equal keys go by `ties`.
        ratio: 0 to 1.
    """
    order = np.lexsort((ties, keys, homes))
    sizes = np.bincount(homes)
    starts = np.cumsum(sizes) - sizes
    ordered = homes[order]
    chosen = np.zeros(len(homes), dtype=bool)
    chosen[order] = np.arange(len(homes)) - starts[ordered] < share_of_each(ratio, sizes)[ordered]
    return chosen
