"""Files that say which classes a zero-shot benchmark hides from training, as ML-Decoder publishes for NUS-WIDE.

    {"test class": ["airport", "animal", ...]}         benchmark_81_v0.json; "train class" may name the seen ones too

Without "train class" every other class is seen; with it, a class in neither list is left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mltrain.datasets.splits import require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)

_FORM = 'expected {"test class": [names], "train class": [names]}, the second optional'


class ClassSplit(NamedTuple):
    """Class names, in the order of the data set."""

    seen: tuple[str, ...]
    unseen: tuple[str, ...]


def read_class_split(path: str | Path, names: Sequence[str]) -> ClassSplit:
    """The classes of a data set that are seen in training, and those that are not.

    A class of the file that the data set lacks is left out, as the authors do, and counted in the log.

    Args:
        path: JSON file.
        names: classes of the data set.

    Raises:
        DataError: the file is missing or of another form, a class is in both lists, or one of the two parts is empty.
    """
    require_paths("the split of classes", [path], "It is dataset.unseen=FILE, ML-Decoder's benchmark_81_v0.json")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
    hidden, shown = (_names(path, content, key) for key in ("test class", "train class"))
    if hidden is None:
        raise DataError(f"{path}: {_FORM}")
    both = sorted(hidden & (shown or set()))
    if both:
        raise DataError(f"{path}: {len(both)} classes are in both lists, the first {both[0]!r}")
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
            f"({', '.join(names[:5])} ...); both are needed"
        )
    return ClassSplit(seen, unseen)


def _names(path: str | Path, content: Any, key: str) -> set[str] | None:
    found = content.get(key) if isinstance(content, dict) else None
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path}: {_FORM}")
    return set(found)


def zero_shot(labels: LabelSet, split: ClassSplit, *, training: bool) -> LabelSet:
    """A fully labelled set with the classes of the split, in their order; in training the unseen ones are unknown."""
    kept = np.isin(np.array(labels.class_names), [*split.seen, *split.unseen])
    names = [name for name, keep in zip(labels.class_names, kept, strict=True) if keep]
    targets = labels.dense()[:, kept]
    if training:
        targets[:, np.isin(np.array(names), split.unseen)] = -1
    files = [labels.file(i) for i in range(len(labels))]
    return LabelSet.from_dense(name=labels.name, root=labels.root, files=files, class_names=names, targets=targets)


def with_unseen(labels: LabelSet, split: ClassSplit) -> LabelSet:
    """The images that have a label of an unseen class."""
    wanted = np.isin(np.array(labels.class_names), split.unseen)
    rows, columns = labels.positive_pairs()
    kept = np.unique(rows[wanted[columns]])
    if len(kept) < len(labels):
        log.info("%s: %d images without an unseen class left out", labels.name, len(labels) - len(kept))
    return labels.select(kept)
