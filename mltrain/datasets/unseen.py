"""Zero-shot training sets: classes whose targets are hidden."""

from __future__ import annotations

import difflib
import logging

import numpy as np

from mltrain.errors import DataError
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)


def unseen_classes(*, labels: LabelSet, classes: tuple[str, ...]) -> LabelSet:
    """`labels` with every target of the named classes unknown (-1).

    Images that lose all their positives are left out, as in the published zero-shot split of NUS-WIDE.

    Args:
        labels: the training set.
        classes: the unseen ones, by name.

    Raises:
        DataError: a name that is no class, or nothing is left to train on.
    """
    names = labels.class_names
    for name in classes:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:10])} ..."
            raise DataError(f"partial.classes: {labels.name} has no class {name!r}; {hint}")
    hidden = np.isin(np.array(names), classes)
    parts = []
    for value in {1, 0, -1} - {labels.fill}:
        rows, columns = labels.pairs(value)
        seen = ~hidden[columns]
        parts.append((rows[seen], columns[seen], np.full(seen.sum(), value, dtype=np.int8)))
    if labels.fill == 0:
        every, unseen = np.arange(len(labels)), np.flatnonzero(hidden)
        unknown = np.full(len(every) * len(unseen), -1, dtype=np.int8)
        parts.append((np.repeat(every, len(unseen)), np.tile(unseen, len(every)), unknown))
    rows, columns, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    changed = labels.with_targets(rows, columns, values, fill=labels.fill)
    before, after = (np.bincount(each.positive_pairs()[0], minlength=len(labels)) for each in (labels, changed))
    if not after.any():
        raise DataError(f"partial.classes: no image of {labels.name} has a label of a class that is not unseen")
    kept = np.flatnonzero((after > 0) | (before == 0))
    log.info(
        "%s: %d unseen classes; %d images that have labels of these alone are left out",
        labels.name,
        hidden.sum(),
        len(labels) - len(kept),
    )
    return changed.select(kept)
