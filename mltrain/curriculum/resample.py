"""Curriculum reconstruction: complex classes get the larger shares of a curriculum, by copies and omissions."""

from __future__ import annotations

import numpy as np


def plan(sizes: np.ndarray, level: np.ndarray, *, most_copies: int = 100, excess: float = 3.0) -> np.ndarray:
    """How many images each class gains by copies, or loses, int64 (C,).

    The sizes, in ascending order, are handed to the classes in ascending complexity, so that the most complex class is
    to have the largest. From ``delta = new - old`` follow: above 0, min(delta, most_copies) copies; below 0, no loss
    unless the class has at least ``E = excess * ceil(mean size)`` images, and then none that takes it below E, nor
    below `new`.

    Args:
        sizes: int64 (C,): images of each class; a class of 0 takes no part.
        level: (C,): rises with the complexity of the class; equal levels go by index.
        most_copies: a class gains no more.
        excess: E as above, in multiples of the mean.

    Raises:
        ValueError: an option out of range.
    """
    check_plan(most_copies, excess)
    delta = np.zeros(len(sizes), dtype=np.int64)
    present = np.flatnonzero(sizes > 0)
    if not len(present):
        return delta
    order = present[np.argsort(level[present], kind="stable")]
    delta[order] = np.sort(sizes[present]) - sizes[order]
    enough = int(np.ceil(excess * np.ceil(sizes[present].mean())))
    return np.where(delta > 0, np.minimum(delta, most_copies), np.maximum(delta, np.minimum(0, enough - sizes)))


def check_plan(most_copies: int, excess: float) -> None:
    """ValueError where `plan` would refuse its options."""
    if most_copies < 0:
        raise ValueError(f"most_copies={most_copies} must be 0 or above")
    if not 1 <= excess < float("inf"):
        raise ValueError(f"excess={excess} must be 1 or above")


def apply_plan(images: np.ndarray, homes: np.ndarray, delta: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The images with the copies and without the omissions of a plan, int64, sorted.

    Which ones is decided by the random words. The published code draws copies with replacement; here they go round
    the class, so that no image is copied twice while another is not copied at all.

    Args:
        images, homes, words: (n,) each: indices, classes, random words; a class outside the plan stays as it is.
        delta: (C,) from `plan`.
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
