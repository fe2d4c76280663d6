"""Partial labels, made by dropping labels of a data set, for experiments with unknown and missing labels.

Each function returns a LabelSet of the same images with fewer labels, which depend on the labels and the seed alone. A
dropped label becomes ``unknown`` (-1), as in Ben-Baruch et al., arXiv:2110.10955, or ``negative`` (0), that is missing,
as in Zhang et al., arXiv:2112.07368; then only positives are dropped. Images that lose all labels stay in place.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from mltrain.datasets.splits import log_labels
from mltrain.labels import LabelSet

Dropped = Literal["unknown", "negative"]

_CHUNK = 1 << 24
"""number of targets that are dense at a time"""


def drop_labels(*, labels: LabelSet, probability: float = 0.5, dropped: Dropped = "unknown", seed: int = 0) -> LabelSet:
    """Drop each known label, positive or negative, with the same probability (random per sample, "RPS").

    With ``dropped="negative"`` this is the usual "share of the labels": 0.25 leaves 75 % of the positives.

    Raises:
        ValueError: `probability` is outside [0, 1], or `dropped` is unknown.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} must be in [0, 1]")
    rng = _generator(seed, dropped)
    if dropped == "negative":
        kept = rng.random(len(labels.positive_pairs()[0])) >= probability
        return log_labels(_keep_positives(labels, kept))
    if labels.fill == -1:
        listed = []
        for value in (1, 0):
            rows, columns = labels.pairs(value)
            kept = rng.random(len(rows)) >= probability
            listed.append((rows[kept], columns[kept], value))
        return log_labels(_with_parts(labels, listed, fill=-1))
    # Nearly all targets are known: draw for all of them, some images at a time.
    fill = 0 if probability < 0.5 else -1
    parts = []
    step = max(1, _CHUNK // max(1, labels.num_classes))
    for start in range(0, len(labels), step):
        targets = labels.targets_batch(np.arange(start, min(start + step, len(labels))))
        known = np.flatnonzero(targets >= 0)
        targets.reshape(-1)[known[rng.random(len(known)) < probability]] = -1
        row, column = np.nonzero(targets != fill)
        parts.append(((start + row).astype(np.int32), column.astype(np.int32), targets[row, column]))
    if not parts:
        return labels
    return log_labels(labels.with_targets(*map(np.concatenate, zip(*parts, strict=True)), fill=fill))


def keep_per_class(*, labels: LabelSet, count: int = 1000, dropped: Dropped = "unknown", seed: int = 0) -> LabelSet:
    """Keep `count` positives and `count` negatives of each class, or as many as there are (fixed per class, "FPC").

    Raises:
        ValueError: `count` is below 1, or `dropped` is unknown.
    """
    if count < 1:
        raise ValueError(f"count={count} must be 1 or above")
    rng = _generator(seed, dropped)
    rows, columns = labels.positive_pairs()
    kept = _choose(columns, count, labels.num_classes, rng)
    if dropped == "negative":
        return log_labels(_keep_positives(labels, kept))
    picked = [(rows[kept], columns[kept], 1)]
    if labels.fill == 0:
        rows, columns, _ = labels.listed()  # positive or unknown: all others are negative
        ends = np.cumsum(np.bincount(columns, minlength=labels.num_classes))
        by_class = np.split(rows[np.argsort(columns, kind="stable")], ends[:-1])
        for c, no_negative in enumerate(by_class):
            negative = np.ones(len(labels), dtype=bool)
            negative[no_negative] = False
            candidates = np.flatnonzero(negative)
            chosen = rng.choice(candidates, min(count, len(candidates)), replace=False)
            picked.append((chosen, np.full(len(chosen), c), 0))
    else:
        rows, columns = labels.pairs(0)
        kept = _choose(columns, count, labels.num_classes, rng)
        picked.append((rows[kept], columns[kept], 0))
    return log_labels(_with_parts(labels, picked, fill=-1))


def single_positive(*, labels: LabelSet, dropped: Dropped = "unknown", seed: int = 0) -> LabelSet:
    """Keep one positive of each image and drop every other label, negatives too.

    Cole et al., "Multi-Label Learning from Single Positive Labels", CVPR 2021, arXiv:2106.09708.

    Raises:
        ValueError: `dropped` is unknown.
    """
    rng = _generator(seed, dropped)
    rows, columns = labels.positive_pairs()
    kept = _choose(rows, 1, len(labels), rng)
    if dropped == "negative":
        return log_labels(_keep_positives(labels, kept))
    return log_labels(_with_parts(labels, [(rows[kept], columns[kept], 1)], fill=-1))


def _generator(seed: int, dropped: str) -> np.random.Generator:
    if dropped not in get_args(Dropped):
        raise ValueError(f"dropped={dropped!r} is unknown; allowed: {', '.join(get_args(Dropped))}")
    if seed < 0:
        raise ValueError(f"seed={seed} must be 0 or above")
    return np.random.default_rng(seed)


def _choose(group: np.ndarray, count: int, groups: int, rng: np.random.Generator) -> np.ndarray:
    """Choose at most `count` items of each group at random; `group` (k,) in 0..groups - 1, result bool (k,)."""
    order = rng.permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))])
    place = np.arange(len(group)) - starts[group[order]]
    chosen = np.zeros(len(group), dtype=bool)
    chosen[order[place < count]] = True
    return chosen


def _keep_positives(labels: LabelSet, kept: np.ndarray) -> LabelSet:
    """Make the positives that are not kept (bool, one per positive pair) negative; keep all other targets."""
    rows, columns, values = labels.listed()
    values[np.flatnonzero(values == 1)[~kept]] = 0
    listed = values != labels.fill
    return labels.with_targets(rows[listed], columns[listed], values[listed], fill=labels.fill)


def _with_parts(labels: LabelSet, parts: list[tuple[np.ndarray, np.ndarray, int]], fill: int) -> LabelSet:
    rows, columns = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    values = np.concatenate([np.full(len(part[0]), part[2], dtype=np.int8) for part in parts])
    return labels.with_targets(rows, columns, values, fill=fill)
