"""The classes of a data set in the order of a model's logits."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from mltrain.datasets.splits import Splits
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)


def in_class_order(splits: Splits, class_names: Sequence[str]) -> Splits:
    """`splits` with their classes in the order of `class_names`, where these are the same classes; else as they are."""
    names = tuple(class_names)
    own = splits.train.class_names
    if own == names or len(own) != len(names) or set(own) != set(names):
        return splits
    log.info("%s: classes put in the order of the model's %d", splits.train.name, len(names))
    at = {name: k for k, name in enumerate(names)}
    columns = np.array([at[name] for name in own], dtype=np.int64)
    return Splits(*(None if labels is None else _reordered(labels, columns, names) for labels in splits))  # type: ignore[arg-type]


def _reordered(labels: LabelSet, columns: np.ndarray, names: tuple[str, ...]) -> LabelSet:
    parts = []
    for value in sorted({1, 0, -1} - {labels.fill}):
        rows, classes = labels.pairs(value)
        parts.append((rows, columns[classes], np.full(len(rows), value, dtype=np.int8)))
    rows, classes, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return labels.with_targets(rows, classes, values, fill=labels.fill, class_names=names)
