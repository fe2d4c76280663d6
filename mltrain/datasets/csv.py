"""Your own data in one csv file: one row per image with its labels and, optionally, its split.

    image,labels,split
    train/1000.jpeg,city;mountain;sun,train
    train/1003.jpeg,tree;!boat,train

Rules:

- A label with a leading ``-`` or ``!`` is a verified negative. One such mark anywhere in the file makes the set
  partially labelled: what a row does not list is then unknown (-1). Without any such mark, what is not listed is
  negative, and a label with a leading ``?`` is unknown.
- Classes are those of the `classes` file (one per line, in its order), or else all labels in the file, sorted. If a
  name in the classes file itself begins with a mark, it is read as that name.
- Rows of the same image in the same split are merged, so one row per label works too. A label with two values
  (positive, negative, unknown) is an error, and so is an image in two splits.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mltrain.datasets.reading import read_class_names, read_csv_rows, require_paths
from mltrain.datasets.splits import Splits, check_fraction, log_labels, make_splits
from mltrain.errors import DataError
from mltrain.labels import LabelSet, compress
from mltrain.text import did_you_mean

log = logging.getLogger(__name__)

MARKS = {"-": 0, "!": 0, "?": -1}


class _Format(NamedTuple):
    """Separators and column names of a file."""

    separator: str
    delimiter: str
    image_column: str
    labels_column: str
    split_column: str


@dataclass
class _Row:
    """Split and labels of one image."""

    line: int
    split: str | None
    labels: dict[str, int] = field(default_factory=dict)
    """label without its mark -> 1, 0 or -1"""


class _Content(NamedTuple):
    """The content of a csv file."""

    path: Path
    root: Path
    rows: dict[str, _Row]
    """by image, in the order of the file"""
    class_names: list[str]
    partial: bool

    def labels(self, images: Sequence[str], name: str) -> LabelSet:
        """Return some of the images as a LabelSet."""
        index = {label: k for k, label in enumerate(self.class_names)}
        fill = -1 if self.partial else 0
        listed = [
            (row, index[label], value)
            for row, image in enumerate(images)
            for label, value in self.rows[image].labels.items()
            if value != fill
        ]
        rows, columns, values = np.array(listed, dtype=np.int64).reshape(-1, 3).T
        pairs = compress(rows, columns, values, len(images))
        return LabelSet(name=name, root=self.root, files=images, class_names=self.class_names, fill=fill, **pairs)


def csv_file(
    *,
    name: str = "csv",
    file: str,
    root: str | None = None,
    classes: str | None = None,
    separator: str = ";",
    delimiter: str = ",",
    image_column: str = "image",
    labels_column: str = "labels",
    split_column: str = "split",
    train_split: str = "train",
    val_split: str = "val",
    test_split: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_val: bool = True,
) -> Splits:
    """Train, val and optionally test from one csv file (rules above).

    Args:
        name: name of the LabelSets and the run folder.
        file: the csv file, UTF-8, with a header line. Columns other than the three below are not read.
        root: folder that the image paths are relative to; default: the folder of `file`.
        classes: file with one class name per line; a label that it does not list is an error.
        separator: separator of the labels in a row.
        delimiter: separator of the columns.
        image_column: name of the column with the image path.
        labels_column: name of the column with the labels.
        split_column: name of the column with the split; without it all rows are train, so `val_fraction` is needed.
        train_split: value of the split column for train.
        val_split: value for val.
        test_split: value for test; None: no test set. Rows of other splits are left out, and the log counts them.
        val_fraction: above 0, val is this share of the train rows, and `val_split` is not used. A hash of `split_seed`
            and the image path chooses the rows, so their order does not matter.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.

    Raises:
        DataError: the file is missing or breaks a rule; the message names the line.
    """
    check_fraction(val_fraction)
    content = _read(file, root, classes, _Format(separator, delimiter, image_column, labels_column, split_column))
    by_split: dict[str, list[str]] = {}
    for image, row in content.rows.items():
        by_split.setdefault(train_split if row.split is None else row.split, []).append(image)
    chosen = {"train": train_split, "val": None if val_fraction > 0 else val_split, "test": test_split}
    made: dict[str, LabelSet] = {}
    for part, split in chosen.items():
        if split in by_split:
            made[part] = content.labels(by_split[split], f"{name}/{part}")
        elif part == "val" and split is not None and not need_val:
            made[part] = made["train"].select([], f"{name}/val")
        elif split is not None:
            counts = ", ".join(f"{key} ({len(images)} images)" for key, images in sorted(by_split.items()))
            hint = " or dataset.val_fraction=0.1" if part == "val" else ""
            raise DataError(
                f"{content.path}: no image of split {split!r}; column {split_column!r} has {counts}. "
                f"Set dataset.{part}_split{hint}"
            )
    unused = [f"{key} ({len(images)} images)" for key, images in by_split.items() if key not in chosen.values()]
    if unused:
        log.info("%s: splits not used: %s", name, ", ".join(unused))
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def read_csv(
    file: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    split: str | None = None,
    separator: str = ";",
    delimiter: str = ",",
    image_column: str = "image",
    labels_column: str = "labels",
    split_column: str = "split",
    name: str | None = None,
) -> LabelSet:
    """Return the rows of one split (None: all rows) in the order of the file; arguments as for `csv_file`.

    Raises:
        DataError: the file is missing or breaks a rule, or has no row of that split.
    """
    content = _read(file, root, classes, _Format(separator, delimiter, image_column, labels_column, split_column))
    images = [image for image, row in content.rows.items() if split is None or row.split == split]
    if not images:
        found = sorted({str(row.split) for row in content.rows.values()})
        raise DataError(f"{content.path}: no image of split {split!r}; found {', '.join(found)}")
    return log_labels(content.labels(images, name or f"{Path(file).stem}/{split or 'all'}"))


def _read(
    file: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    classes: str | os.PathLike[str] | None,
    layout: _Format,
) -> _Content:
    path = Path(file)
    require_paths(
        "csv",
        [path, *([classes] if classes else [])],
        "A csv dataset is one file with the columns image,labels[,split], labels separated by ';' (docs/datasets.md): "
        "dataset.file=FILE, and dataset.root=FOLDER when the images are not relative to its folder",
    )
    if path.is_dir():
        raise ValueError(
            f"file={path} is a directory, expected one csv file (columns image,labels[,split]): dataset.file=FILE. For "
            "images in folders named by their class: dataset=folder dataset.root=FOLDER"
        )
    separator, delimiter = layout.separator, layout.delimiter
    if not separator or len(delimiter) != 1 or separator == delimiter:
        raise ValueError(
            f"separator {separator!r} and delimiter {delimiter!r} must differ; the delimiter is one character"
        )
    known = read_class_names(classes) if classes else None
    rows: dict[str, _Row] = {}
    marked = False
    for line, image, cell, split in _cells(path, layout):
        where = f"{path}, line {line}"
        if not image:
            raise DataError(f"{where}: column {layout.image_column!r} is empty")
        row = rows.setdefault(os.path.normpath(image), _Row(line, split))
        if row.split != split:
            raise DataError(
                f"{where}: {image} is of split {split!r} here and {row.split!r} in line {row.line}; an image "
                "belongs to one split"
            )
        for text in filter(None, (part.strip() for part in cell.split(separator))):
            label, value = text, 1
            if text[0] in MARKS and (known is None or text not in known):
                label, value = text[1:].strip(), MARKS[text[0]]
                marked |= value == 0
            if not label:
                raise DataError(f"{where}: label {text!r} is a mark without a name")
            if known is not None and label not in known:
                hint = did_you_mean(label, known, "'{}'") or "."
                raise DataError(
                    f"{where}: label {label!r} is not in the classes file {classes}{hint} Correct it, or add it there"
                )
            if row.labels.setdefault(label, value) != value:
                raise DataError(f"{where}: {image} has {label!r} twice, with two values (plain, ! and ?); keep one")
    if not rows:
        raise DataError(f"{path}: no row below the header")
    class_names = list(known) if known else sorted({label for row in rows.values() for label in row.labels})
    if not class_names:
        raise DataError(f"{path}: column {layout.labels_column!r} is empty in every row, so there is no class")
    return _Content(path, path.parent if root is None else Path(root), rows, class_names, marked)


def _cells(path: Path, layout: _Format) -> Iterator[tuple[int, str, str, str | None]]:
    """Yield (line, image, labels, split or None) of each row; check the header and the number of fields."""
    rows = read_csv_rows(path, layout.delimiter)
    header = [column.strip() for column in next(rows, (0, []))[1]]
    for column in (layout.image_column, layout.labels_column):
        if header.count(column) != 1:
            raise DataError(
                f"{path}: {'no' if column not in header else 'more than one'} column {column!r}; found "
                f"{', '.join(header) or 'an empty file'}. Name them with dataset.image_column and "
                "dataset.labels_column, the delimiter with dataset.delimiter"
            )
    image_at, labels_at = header.index(layout.image_column), header.index(layout.labels_column)
    split_at = header.index(layout.split_column) if layout.split_column in header else None
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(cells)} fields, the header has {len(header)}; a field that contains "
                f"{layout.delimiter!r} needs double quotes"
            )
        yield line, cells[image_at].strip(), cells[labels_at], None if split_at is None else cells[split_at].strip()
