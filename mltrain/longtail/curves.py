"""Reference curves: the number of images that the class of each rank should have."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from mltrain.errors import DataError
from mltrain.longtail.options import LARGEST
from mltrain.text import did_you_mean, first_few, part_of


def pareto(num_classes: int, *, max: int, min: int = 1, b: float = 6.0) -> np.ndarray:
    """Return the curve of COMIC/VOC-MLT: (C,) int64, falling from `max`.

    Distribution-Balanced Loss, Wu et al., ECCV 2020, arXiv:2007.09654: the density of a Pareto law of shape b, divided
    by b so that it begins at 1, at C even steps between its quantiles 0 and 0.99: int((max - min) x^-(b+1) + min). With
    b=6, max=800, min=1, C=20 it is the published 800, 529, 359 ... 6, 5, 4. It ends above `min`.
    """
    x = np.linspace(1.0, (1 - 0.99) ** (-1 / b), num_classes)
    # This order of operations rounds as the published generator does.
    return (b * x ** -(b + 1) * (max - min) / b + min).astype(np.int64)


def exponential(num_classes: int, *, max: int, min: int = 1) -> np.ndarray:
    """Return the curve of CIFAR-LT: (C,) int64 from `max` to `min` by a constant factor, rounded to the nearest.

    Cui et al., CVPR 2019; Cao et al., NeurIPS 2019.
    """
    return np.rint(np.geomspace(max, min, num_classes)).astype(np.int64)


def explicit(class_names: Sequence[str], counts: str | Mapping[str, int]) -> np.ndarray:
    """Return given counts, (C,) int64, from a mapping or a file: csv with the columns class,count or JSON.

    Raises:
        DataError: the file cannot be read, a count is no whole number, or the classes are not exactly `class_names`.
    """
    where = "counts" if isinstance(counts, Mapping) else counts
    found = dict(counts) if isinstance(counts, Mapping) else _read_counts(Path(counts))
    known = set(class_names)
    for name, count in found.items():
        if name not in known:
            hint = did_you_mean(name, class_names, "'{}'") or f"; it has {first_few(class_names)}"
            raise DataError(f"{where}: the dataset has no class {name!r}{hint}")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= LARGEST:
            raise DataError(f"{where}: class {name!r} has count {count!r}; a whole number, 0 to {LARGEST}, is needed")
    missing = [name for name in class_names if name not in found]
    if missing:
        raise DataError(
            f"{where}: {part_of(len(missing), len(class_names), 'class', 'have')} no count: "
            f"{first_few(missing)}; name every "
            "class (0: no training image with it)"
        )
    return np.array([found[name] for name in class_names], dtype=np.int64)


def class_order(cooccurrence: sparse.spmatrix, by: str) -> np.ndarray:
    """Return the class indices in the order of the curve.

    Ties keep the order of the classes.

    Args:
        cooccurrence: (C, C) counts with the positives on the diagonal.
        by: frequency: by positives. cooccurrence: by the column sums of P(j|i), how often class j occurs together with
            others, as the published generator does; classes that occur everywhere cannot be made rare.
    """
    positives = cooccurrence.diagonal()
    if by == "frequency":
        return np.argsort(-positives, kind="stable")
    # Divide the rows, then sum them from the first to the last: this rounds as the published generator does.
    rows = sparse.csr_matrix(cooccurrence, dtype=np.float64)
    rows.data /= np.repeat(np.maximum(positives, 1), np.diff(rows.indptr))
    return np.argsort(-np.asarray(rows.sum(axis=0)).ravel(), kind="stable")


def _read_counts(path: Path) -> dict[str, int]:
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise DataError(f"{path}: expected an object of class: count")
            return found
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True, skipinitialspace=True)
            if not {"class", "count"} <= set(reader.fieldnames or ()):
                raise DataError(
                    f"{path}: columns {', '.join(reader.fieldnames or ()) or 'none'}; class and count are needed"
                )
            counts: dict[str, int] = {}
            for row in reader:
                if row["class"] in counts:
                    raise DataError(f"{path}, line {reader.line_num}: class {row['class']!r} appears more than once")
                try:
                    counts[row["class"]] = int(row["count"])
                except (TypeError, ValueError) as error:
                    raise DataError(
                        f"{path}, line {reader.line_num}: count {row['count']!r} is no whole number"
                    ) from error
            return counts
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: counts cannot be read: {getattr(error, 'strerror', None) or error}") from error
