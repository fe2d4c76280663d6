"""Choosing images class by class: the random seed set, the easiest of the rest, copies and omissions."""

from __future__ import annotations

import numpy as np

from mltrain.labels import LabelSet


def random_words(count: int, *key: int) -> np.ndarray:
    """Return 64-bit random words, uint64 (count,), a function of `key` alone."""
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(count)


def home_classes(labels: LabelSet) -> np.ndarray:
    """Return the one class that each image is counted under, int64 (N,).

    It is the rarest label of the image, the first of equally rare ones, or C if the image has no positive.
    """
    rows, columns = labels.positive_pairs()
    counts = np.bincount(columns, minlength=labels.num_classes)
    homes = np.full(len(labels), labels.num_classes, dtype=np.int64)
    order = np.lexsort((columns, counts[columns], rows))
    first = order[np.unique(rows[order], return_index=True)[1]]
    homes[rows[first]] = columns[first]
    return homes


def image_losses(losses: np.ndarray, rows: np.ndarray, num_images: int) -> np.ndarray:
    """Return the mean loss of the positives of each image, float64 (N,), or 0 if it has none.

    Args:
        losses, rows: (P,) each; loss and image of each positive target.
        num_images: N.
    """
    counts = np.bincount(rows, minlength=num_images)
    return np.bincount(rows, weights=losses, minlength=num_images) / np.maximum(counts, 1)


def share_of_each(ratio: float, sizes: np.ndarray) -> np.ndarray:
    """Return ceil(ratio * sizes), int64, exact although products are rounded (0.55 * 100 is 55.00000000000001)."""
    return np.ceil(ratio * sizes - 1e-9).astype(np.int64)


def lowest_of_each(keys: np.ndarray, ties: np.ndarray, homes: np.ndarray, ratio: float) -> np.ndarray:
    """Choose the images with the lowest keys in each home class: a share `ratio`, rounded up; bool (n,).

    Args:
        keys, ties, homes: (n,) each; `ties` orders equal keys.
        ratio: 0 to 1.
    """
    order = np.lexsort((ties, keys, homes))
    sizes = np.bincount(homes)
    starts = np.cumsum(sizes) - sizes
    ordered = homes[order]
    chosen = np.zeros(len(homes), dtype=bool)
    chosen[order] = np.arange(len(homes)) - starts[ordered] < share_of_each(ratio, sizes)[ordered]
    return chosen


def size_changes(sizes: np.ndarray, level: np.ndarray, *, most_copies: int = 100, excess: float = 3.0) -> np.ndarray:
    """Return how many images each class gains by copies, or loses if negative, int64 (C,): curriculum reconstruction.

    The sizes, in ascending order, are assigned to the classes in ascending complexity, so that the most complex class
    should have the largest. With ``delta = new - old``: a class with delta above 0 gets min(delta, most_copies) copies.
    A class with delta below 0 loses images only if it has more than ``E = excess * ceil(mean size)``, and never so many
    that it falls below E or below its new size.

    Args:
        sizes: int64 (C,): images of each class; a class of size 0 takes no part.
        level: (C,): rises with the complexity of the class; equal levels keep the order of the classes.
        most_copies: greatest number of images that a class gains.
        excess: E as above, in multiples of the mean.

    Raises:
        ValueError: an option is out of range.
    """
    check_size_options(most_copies, excess)
    delta = np.zeros(len(sizes), dtype=np.int64)
    present = np.flatnonzero(sizes > 0)
    if not len(present):
        return delta
    order = present[np.argsort(level[present], kind="stable")]
    delta[order] = np.sort(sizes[present]) - sizes[order]
    enough = int(np.ceil(excess * np.ceil(sizes[present].mean())))
    return np.where(delta > 0, np.minimum(delta, most_copies), np.maximum(delta, np.minimum(0, enough - sizes)))


def check_size_options(most_copies: int, excess: float) -> None:
    """Raise ValueError if `size_changes` would refuse these options."""
    if most_copies < 0:
        raise ValueError(f"most_copies={most_copies} must be 0 or above")
    if not 1 <= excess < float("inf"):
        raise ValueError(f"excess={excess} must be 1 or above")


def resample(images: np.ndarray, homes: np.ndarray, delta: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return the images with copies and without omissions, int64, sorted; the random words choose which ones.

    The published code draws copies with replacement. Here copies rotate through the class, so that no image is copied
    twice while another is not copied at all.

    Args:
        images, homes, words: (n,) each: indices, classes, random words; a class that `delta` lacks stays as it is.
        delta: (C,) from `size_changes`.
    """
    order = np.lexsort((words, homes))
    members, of = images[order], homes[order]
    classes, starts, counts = np.unique(of, return_index=True, return_counts=True)
    kept = []
    for c, start, count in zip(classes.tolist(), starts.tolist(), counts.tolist(), strict=True):
        own = members[start : start + count]
        change = int(delta[c]) if c < len(delta) else 0
        kept.append(own[-change:] if change < 0 else np.resize(own, count + change))
    return np.sort(np.concatenate(kept)) if kept else images
