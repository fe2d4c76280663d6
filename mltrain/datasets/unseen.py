"""Zero-shot data sets: classes whose targets training does not see.

A file says which ones, as ML-Decoder publishes it for NUS-WIDE (benchmark_81_v0.json):

    {"test class": ["airport", "animal", ...]}         "train class" may name the seen ones too

Without "train class" every other class is seen; with it, a class in neither list is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mltrain.datasets.reading import read_json_object, require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import counted, did_you_mean, first_few

log = logging.getLogger(__name__)

_FORM = '{"test class": [names], "train class": [names]}, the second optional'


def unseen_classes(*, labels: LabelSet, classes: tuple[str, ...]) -> LabelSet:
    """Make every target of the named classes unknown (-1).

    Images that lose all their positives are left out, as in the published zero-shot split of NUS-WIDE.

    Args:
        labels: the training set.
        classes: names of the unseen classes.

    Raises:
        DataError: a name is no class of the set, or no image is left to train on.
    """
    names = labels.class_names
    for name in classes:
        if name not in names:
            hint = did_you_mean(name, names, "'{}'") or f"; it has {first_few(names, 10)}"
            raise DataError(f"partial.classes: {labels.name} has no class {name!r}{hint}")
    hidden = np.isin(np.array(names), classes)
    rows, columns, values = labels.listed()
    seen = ~hidden[columns]
    parts = [(rows[seen], columns[seen], values[seen])]
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
    left_out = f"{counted(len(labels) - len(kept), 'image')} without other labels left out"
    log.info("%s: %s; %s", labels.name, counted(hidden.sum(), "unseen class"), left_out)
    return changed.select(kept)


class ClassSplit(NamedTuple):
    """Class names, in the order of the data set."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]


def read_class_split(path: str | Path, names: Sequence[str]) -> ClassSplit:
    """Return the classes of a data set that training sees, and those that it does not.

    Classes of the file that the data set lacks are left out, as the authors do; the log counts them.

    Args:
        path: JSON file.
        names: classes of the data set.

    Raises:
        DataError: the file is missing or has another form, a class is in both lists, or one of the two parts is empty.
    """
    require_paths("the split of classes", [path], "It is dataset.unseen=FILE, ML-Decoder's benchmark_81_v0.json")
    content = read_json_object(Path(path), _FORM)
    hidden, shown = (_names(path, content.get(key)) for key in ("test class", "train class"))
    if hidden is None:
        raise DataError(f"{path}: expected {_FORM}")
    both = sorted(hidden & (shown or set()))
    if both:
        raise DataError(f"{path}: {counted(len(both), 'class')} in both lists, the first {both[0]!r}")
    missing = sorted((hidden | (shown or set())) - set(names))
    if missing:
        log.warning(
            "%s: %d of its classes have no image and are left out, the first %r", path, len(missing), missing[0]
        )
    unseen = tuple(name for name in names if name in hidden)
    seen = tuple(name for name in names if (name not in hidden if shown is None else name in shown))
    if not unseen or not seen:
        raise DataError(
            f"{path}: {len(seen)} seen and {len(unseen)} unseen classes among the {len(names)} of the data set "
            f"({first_few(names)}); both are needed"
        )
    return ClassSplit(seen, unseen)


def _names(path: str | Path, found: Any) -> set[str] | None:
    if found is not None and not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise DataError(f"{path}: expected {_FORM}")
    return None if found is None else set(found)


def zero_shot(labels: LabelSet, split: ClassSplit, *, training: bool) -> LabelSet:
    """Restrict a fully labelled set to the classes of the split; in training the unseen ones are unknown (-1)."""
    names = [name for name in labels.class_names if name in {*split.seen, *split.unseen}]
    targets = labels.with_classes(names).dense()
    if training:
        targets[:, np.isin(np.array(names), split.unseen)] = -1
    return LabelSet.from_dense(
        name=labels.name, root=labels.root, files=labels.files, class_names=names, targets=targets
    )


def with_unseen(labels: LabelSet, split: ClassSplit) -> LabelSet:
    """Select the images that have a label of an unseen class."""
    wanted = np.isin(np.array(labels.class_names), split.unseen)
    rows, columns = labels.positive_pairs()
    kept = np.unique(rows[wanted[columns]])
    if len(kept) < len(labels):
        left_out = counted(len(labels) - len(kept), "image")
        log.info("%s: %s without an unseen class left out", labels.name, left_out)
    return labels.select(kept)
