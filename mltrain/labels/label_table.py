"""Write labels as the csv file that `dataset=csv` reads: image,labels,split."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mltrain.errors import DataError
from mltrain.labels.label_set import LabelSet

SEPARATORS = (";", "|", "/", "\t")
NEGATIVE, UNKNOWN = "!", "?"
"""marks of a label that is known to be absent, and of one that nobody knows"""


def separator_of(class_names: Sequence[str]) -> str:
    """Return a separator of labels that no class name contains.

    Raises:
        DataError: there is none, or a class name cannot be stored in a text file.
    """
    for name in class_names:
        if name != name.strip() or not name or re.search(r"[\r\n]", name):
            raise DataError(f"class name {name!r} cannot be stored: it is empty, or has spaces around it or a line end")
    taken = "".join(class_names)
    for separator in SEPARATORS:
        if separator not in taken:
            return separator
    raise DataError(f"class names use all of {', '.join(map(repr, SEPARATORS))}: none is left to separate them")


def write_labels(
    path: Path,
    parts: Mapping[str, LabelSet | None],
    separator: str,
    files: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the images of each split with their labels.

    Args:
        path: the csv file.
        parts: LabelSet by the name of its split; all have the same `fill`, which is what a row does not list.
        separator: between the labels of a row; see `separator_of`.
        files: image files to write by split; default: those of the LabelSets.
    """
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("image", "labels", "split"))
        for part, labels in parts.items():
            if labels is None:
                continue
            cells: list[list[str]] = [[] for _ in range(len(labels))]
            for value, mark in ((1, ""), (0, NEGATIVE), (-1, UNKNOWN)):
                if value == labels.fill:
                    continue
                names = [mark + name for name in labels.class_names]
                for row, column in zip(*(array.tolist() for array in labels.pairs(value)), strict=True):
                    cells[row].append(names[column])
            named = labels.files if files is None else files[part]
            writer.writerows((file, separator.join(cell), part) for file, cell in zip(named, cells, strict=True))
