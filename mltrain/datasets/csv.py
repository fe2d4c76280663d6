"""Your own data in one csv file: one row per image with its labels and, optionally, its split.

    image,labels,split
    train/1000.jpeg,city;mountain;sun,train
    train/1003.jpeg,tree;!boat,train

Rules:

- Labels may be a list as Python or JSON writes it, ``"['city', 'sun']"``. Without a column of labels every other column
  that holds 1, 0, -1 (unknown) or nothing is a class (``image,city,sun``); the log names them.
- A label with a leading ``-`` or ``!`` is a verified negative. One such mark anywhere in the file makes the set
  partially labelled: what a row does not list is then unknown (-1). Without any such mark, what is not listed is
  negative, and a label with a leading ``?`` is unknown.
- Classes are those of the `classes` file (one per line, in its order), or else all labels in the file, sorted. If a
  name in the classes file itself begins with a mark, it is read as that name.
- Class names that look the same are one class: other code points of an accent, other white space.
- Rows of the same image in the same split are merged, so one row per label works too. A label with two values
  (positive, negative, unknown) is an error, and so is an image in two splits.
- An image is found by its path, with ``/`` or a backslash between folders, or without its suffix.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mltrain.datasets import cells as in_cells
from mltrain.datasets.cells import argument
from mltrain.datasets.names import ImageFinder, Spellings, distinct_spellings, one_spelling, warn_of_case
from mltrain.datasets.reading import check_choice, read_class_names, read_csv_rows, require_paths
from mltrain.datasets.splits import Splits, check_fraction, log_labels, make_splits
from mltrain.errors import DataError
from mltrain.labels import LabelSet, compress
from mltrain.text import did_you_mean, first_few

log = logging.getLogger(__name__)

MARKS = {"-": 0, "!": 0, "?": -1}
IMAGE_COLUMNS = (
    "filename",
    "file_name",
    "file",
    "path",
    "image_path",
    "filepath",
    "image_name",
    "image_id",
    "img",
    "id",
)
"""columns with the image, in lower case, of files with one column per class"""
NO_CLASSES = frozenset(
    {"", "index", "unnamed: 0", "label", "labels", "class", "classes", "category", "target", "y", "set", "subset"}
    | {"split", "fold", "is_train", "is_valid", "is_val", "is_test"}
)
"""columns, in lower case, that are no class even if they hold 1 and 0 only"""


class _Format(NamedTuple):
    """Separators and column names of a file."""

    separator: str
    delimiter: str
    image_column: str
    labels_column: str
    split_column: str
    blank: str = "negative"


@dataclass
class _Row:
    """Split and labels of one image."""

    file: str
    line: int
    split: str | None
    labels: dict[str, int] = field(default_factory=dict)
    """label without its mark, in its one spelling -> 1, 0 or -1"""


class _Cell(NamedTuple):
    """One row of the file."""

    line: int
    image: str
    labels: str
    split: str | None


class _Header(NamedTuple):
    """Positions of the columns of a file."""

    columns: list[str]
    image: int
    labels: int | None
    """None: there is one column per class"""
    split: int | None


class _Content(NamedTuple):
    """The content of a csv file."""

    path: Path
    root: Path
    rows: dict[str, _Row]
    """by place of the image, in the order of the file"""
    class_names: list[str]
    partial: bool

    def labels(self, images: Sequence[str], name: str) -> LabelSet:
        """Return some of the images as a LabelSet."""
        index = {one_spelling(label): k for k, label in enumerate(self.class_names)}
        fill = -1 if self.partial else 0
        listed = [
            (row, index[label], value)
            for row, image in enumerate(images)
            for label, value in self.rows[image].labels.items()
            if value != fill
        ]
        rows, columns, values = np.array(listed, dtype=np.int64).reshape(-1, 3).T
        pairs = compress(rows, columns, values, len(images))
        files = [self.rows[image].file for image in images]
        return LabelSet(name=name, root=self.root, files=files, class_names=self.class_names, fill=fill, **pairs)


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
    blank: Literal["negative", "unknown"] = "negative",
    need_val: bool = True,
) -> Splits:
    """Train, val and optionally test from one csv file (rules above).

    Args:
        name: name of the LabelSets and the run folder.
        file: the csv file, UTF-8, with a header line. Columns other than the three below are not read.
        root: folder that the image paths are relative to; default: the folder of `file`.
        classes: file with one class name per line; a label that it does not list is an error.
        separator: separator of the labels in a row; "tab" is a tab, and a space is any white space.
        delimiter: separator of the columns; "tab" is a tab.
        image_column: name of the column with the image path.
        labels_column: name of the column with the labels.
        split_column: name of the column with the split; without it all rows are train, so `val_fraction` is needed.
        train_split: value of the split column for train.
        val_split: value for val.
        test_split: value for test; None: "test" if there are such rows, else there is no test set. Rows of other splits
            are left out, and the log counts them.
        val_fraction: above 0, val is this share of the train rows, and `val_split` is not used. A hash of `split_seed`
            and the image path chooses the rows, so their order does not matter.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        blank: target of a blank cell in files with one column per class.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.

    Raises:
        DataError: the file is missing or breaks a rule; the message names the line.
    """
    check_fraction(val_fraction)
    layout = _Format(separator, delimiter, image_column, labels_column, split_column, blank)
    content = _read(file, root, classes, layout)
    by_split: dict[str, list[str]] = {}
    for image, row in content.rows.items():
        by_split.setdefault(train_split if row.split is None else row.split, []).append(image)
    if test_split is None and "test" in by_split and "test" not in (train_split, val_split):
        test_split = "test"
    train_split, val_split = _as_written(train_split, by_split), _as_written(val_split, by_split)
    test_split = None if test_split is None else _as_written(test_split, by_split)
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
    if val_fraction > 0 and val_split in by_split:
        log.warning(
            "%s: validation images are drawn from train, so the %d images of split %s are not used; without "
            "dataset.val_fraction and dataset.folds they are the validation set",
            *(name, len(by_split[val_split]), val_split),
        )
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def _as_written(split: str, found: Collection[str]) -> str:
    """Return a split as the file writes it: the command line makes "false" of False."""
    alike = [other for other in found if other.lower() == split.lower()]
    return alike[0] if split not in found and len(alike) == 1 else split


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
    blank: Literal["negative", "unknown"] = "negative",
    name: str | None = None,
) -> LabelSet:
    """Return the rows of one split (None: all rows) in the order of the file; arguments as for `csv_file`.

    Raises:
        DataError: the file is missing or breaks a rule, or has no row of that split.
    """
    layout = _Format(separator, delimiter, image_column, labels_column, split_column, blank)
    content = _read(file, root, classes, layout)
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
    check_choice("blank", layout.blank, ("negative", "unknown"))
    separator, delimiter = in_cells.separator_of(layout.separator), in_cells.separator_of(layout.delimiter)
    if not separator or len(delimiter) != 1:
        raise ValueError(
            f"separator {separator!r} must not be empty, and delimiter {delimiter!r} must be one character or 'tab'"
        )
    layout = layout._replace(separator=separator, delimiter=delimiter)
    known = list(read_class_names(classes)) if classes else None
    header = _header(path, layout)
    place = path.parent if root is None else Path(root)
    read = _read_labels if header.labels is not None else _read_columns
    content = read(path, place, header, layout, known, str(classes))
    warn_of_case(content.class_names, path)
    return content


def _header(path: Path, layout: _Format) -> _Header:
    """Find the columns.

    Raises:
        DataError: a column is missing or there is more than one; the message says which option names it.
    """
    _, first = next(read_csv_rows(path, layout.delimiter), (0, []))
    header = [column.strip() for column in first]
    if header.count(layout.labels_column) > 1:
        raise DataError(f"{path}: more than one column {layout.labels_column!r}; found {', '.join(header)}")
    labels = header.index(layout.labels_column) if layout.labels_column in header else None
    split = header.index(layout.split_column) if layout.split_column in header else None
    image_column = layout.image_column
    if labels is None and image_column == "image" and image_column not in header:
        by_lower = {column.lower(): column for column in reversed(header)}
        image_column = next((by_lower[name] for name in ("image", *IMAGE_COLUMNS) if name in by_lower), image_column)
    if header.count(image_column) != 1:
        how = "more than one" if image_column in header else "no"
        raise DataError(f"{path}: {how} column {image_column!r}; {_column_advice(header, layout)}")
    return _Header(header, header.index(image_column), labels, split)


def _column_advice(header: list[str], layout: _Format) -> str:
    found = f"found {', '.join(header) or 'an empty file'}"
    other = next((mark for mark in (";", "\t", "|", ",") if len(header) == 1 and mark in header[0]), None)
    if other is None or other == layout.delimiter:
        return (
            f"{found}. Name them with dataset.image_column and dataset.labels_column, the delimiter with "
            "dataset.delimiter"
        )
    more = f" {argument('separator', ',')}" if other == layout.separator else ""
    return f"found one column, {header[0]!r}. Set {argument('delimiter', other)}{more} (separator: between labels)"


def _rows(path: Path, header: _Header, layout: _Format) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row below the header; check the number of fields."""
    rows = read_csv_rows(path, layout.delimiter)
    next(rows, None)
    for line, cells in rows:
        if len(cells) != len(header.columns):
            raise DataError(
                f"{path}, line {line}: {len(cells)} fields, the header has {len(header.columns)}; a field that "
                f"contains {layout.delimiter!r} needs double quotes"
            )
        yield line, cells


class _Images:
    """The rows by image; several rows of an image become one."""

    def __init__(self, path: Path, root: Path, image_column: str) -> None:
        self.path, self.image_column = path, image_column
        self.finder = ImageFinder(root)
        self.rows: dict[str, _Row] = {}

    def add(self, line: int, image: str, split: str | None) -> tuple[_Row, bool]:
        """Return the row of an image, and whether it is new.

        Raises:
            DataError: the row names no image, or the image is of another split.
        """
        where = f"{self.path}, line {line}"
        if not image:
            raise DataError(f"{where}: column {self.image_column!r} is empty")
        file = self.finder.find(image, where)
        row = self.rows.setdefault(self.finder.key(file), _Row(file, line, split))
        if row.split != split:
            raise DataError(
                f"{where}: {image} is of split {split!r} here and {row.split!r} in line {row.line}; an image "
                "belongs to one split"
            )
        return row, row.line == line


def _read_labels(
    path: Path, root: Path, header: _Header, layout: _Format, known: list[str] | None, classes: str
) -> _Content:
    """Read a file with a column of labels."""
    assert header.labels is not None
    if layout.blank != "negative":
        raise ValueError(
            f"dataset.blank={layout.blank} is for files with one column per class; {path} has a column of labels, "
            "where the mark ? makes one label unknown"
        )
    read: list[_Cell] = []
    for line, cells in _rows(path, header, layout):
        split = None if header.split is None else cells[header.split].strip()
        read.append(_Cell(line, cells[header.image].strip(), cells[header.labels].strip(), split))
    allowed = None if known is None else distinct_spellings(known, classes)
    names = Spellings()
    all_lists = all(in_cells.plain_list(cell.labels) is not None for cell in read if cell.labels)
    images = _Images(path, root, header.columns[header.image])
    marks: list[tuple[int, str]] = []
    for cell in read:
        where = f"{path}, line {cell.line}"
        row, _ = images.add(cell.line, cell.image, cell.split)
        for text in _parts(cell.labels, layout.separator, all_lists, where, allowed):
            label, value = text, 1
            if text[0] in MARKS and (allowed is None or one_spelling(text) not in allowed):
                label, value = text[1:].strip(), MARKS[text[0]]
                if value == 0:
                    marks.append((cell.line, text))
            if not label:
                raise DataError(f"{where}: label {text!r} is a mark without a name")
            key = names.add(label)
            if allowed is not None and key not in allowed:
                hint = did_you_mean(label, known or (), "'{}'") or "."
                raise DataError(
                    f"{where}: label {label!r} is not in the classes file {classes}{hint} Correct it, or add it there"
                )
            if row.labels.setdefault(key, value) != value:
                raise DataError(
                    f"{where}: {cell.image} has {label!r} twice, with two values (plain, ! and ?); keep one"
                )
    rows = images.rows
    if not rows:
        raise DataError(f"{path}: no row below the header")
    keys = {label for row in rows.values() for label in row.labels}
    class_names = known or sorted(names[key] for key in keys)
    if not class_names:
        raise DataError(f"{path}: column {layout.labels_column!r} is empty in every row, so there is no class")
    if known is None:
        _check_names(path, header, layout, rows)
    if marks:
        _log_marks(path, marks, rows, class_names)
    return _Content(path, root, rows, class_names, bool(marks))


def _parts(cell: str, separator: str, all_lists: bool, where: str, allowed: set[str] | None) -> list[str]:
    """Return the labels of a cell."""
    items = None if allowed is not None and one_spelling(cell) in allowed else in_cells.quoted_list(cell)
    if items is None and all_lists:
        items = in_cells.plain_list(cell)
    if items is None:
        items = [part.strip() for part in cell.split(None if separator == " " else separator)]
    elif set(items) <= {"0", "1"} and len(set(items)) < len(items):
        raise DataError(
            f"{where}: {cell[:60]!r} is 1 or 0 per class; expected the names of the labels, or one column per class "
            "(image,city,sun)"
        )
    return [item for item in items if item]


def _check_names(path: Path, header: _Header, layout: _Format, rows: dict[str, _Row]) -> None:
    """Refuse labels that are no names of classes, and tell of a separator that splits them better.

    Raises:
        DataError: the labels are numbers beside other columns of 1 and 0, most of them are lists that another separator
            splits, or nearly every image has a label of its own.
    """
    labels = Counter(label for row in rows.values() for label, value in row.labels.items() if value == 1)
    several = sum(len(row.labels) > 1 for row in rows.values())
    keep = "If they are names, list them in a file, one per line: dataset.classes=FILE"
    if labels and set(labels) <= {"0", "1", "0.0", "1.0"} and layout.labels_column != "labels":
        raise DataError(
            f"{path}: column {layout.labels_column!r} holds {' and '.join(sorted(labels))} only, which is 1 or 0 for "
            f"one class, not a list of labels. For a file with one column per class leave dataset.labels_column out. "
            f"{keep}"
        )
    found = in_cells.better_separator(labels, layout.separator)
    if found is not None:
        separator, count, certain = found
        message = (
            f"{path}: labels such as {in_cells.shown(labels, separator)} look like several labels each: "
            f"{argument('separator', separator)} makes {count} classes of these {len(labels)}"
        )
        if certain and not several:
            raise DataError(f"{message}. Set it. {keep}")
        log.warning("%s", message)
    elif len(labels) >= 10 and not several and 10 * len(labels) >= 9 * sum(labels.values()):
        raise DataError(
            f"{path}: {sum(labels.values())} images have {len(labels)} different labels in column "
            f"{layout.labels_column!r}, nearly each its own, such as {first_few(sorted(labels), 3)}; "
            "nothing can be learnt from that. Name the column of the labels with dataset.labels_column, and what "
            f"separates them with dataset.separator. {keep}"
        )


def _log_marks(path: Path, marks: list[tuple[int, str]], rows: dict[str, _Row], class_names: list[str]) -> None:
    line, text = marks[0]
    negative = {label for row in rows.values() for label, value in row.labels.items() if value == 0}
    without = sum(one_spelling(name) not in negative for name in class_names)
    log.log(
        logging.WARNING if without else logging.INFO,
        "%s: %d labels are marked as verified negatives, the first is %r in line %d, so what a row does not list is "
        "unknown; %d of %d classes have no known negative and cannot be evaluated. If a name begins with the mark, "
        "list the names in a file: dataset.classes=FILE",
        *(path, len(marks), text, line, without, len(class_names)),
    )


def _read_columns(
    path: Path, root: Path, header: _Header, layout: _Format, known: list[str] | None, classes: str
) -> _Content:
    """Read a file with one column per class."""
    columns = _class_columns(path, header, layout, known, classes)
    keys = [one_spelling(header.columns[k]) for k in columns]
    images = _Images(path, root, header.columns[header.image])
    partial = layout.blank == "unknown"
    counts: Counter[int | None] = Counter()
    for line, cells in _rows(path, header, layout):
        split = None if header.split is None else cells[header.split].strip()
        row, is_new = images.add(line, cells[header.image].strip(), split)
        targets = [in_cells.target_of(cells[k]) for k in columns]
        counts.update(targets)
        found = {
            key: target
            for key, target in zip(keys, targets, strict=True)
            if target is not None and (target != 0 or partial)
        }
        common = found.keys() & row.labels.keys() if partial else found.keys() | row.labels.keys()
        wrong = [] if is_new else sorted(key for key in common if found.get(key) != row.labels.get(key))
        if wrong:
            raise DataError(
                f"{path}, line {line}: {row.file} has another target of {wrong[0]!r} here than in line {row.line}; "
                "keep one row per image"
            )
        row.labels.update(found)
    if not images.rows:
        raise DataError(f"{path}: no row below the header")
    class_names = known or [" ".join(header.columns[k].split()) for k in columns]
    unread = [
        repr(column) for k, column in enumerate(header.columns) if k not in (*columns, header.image, header.split)
    ]
    log.info(
        "%s: one column per class: %d classes (%s), images in column %r%s; %d cells are 1, %d 0, %d -1 (unknown), %d "
        "blank (%s: dataset.blank)",
        *(path, len(columns), first_few(class_names), header.columns[header.image]),
        f", columns not read: {first_few(unread, 10)}" if unread else "",
        *(counts[1], counts[0], counts[-1], counts[None], layout.blank),
    )
    return _Content(path, root, images.rows, class_names, partial)


def _class_columns(path: Path, header: _Header, layout: _Format, known: list[str] | None, classes: str) -> list[int]:
    """Return the positions of the columns that are classes, in the order of `known` if that is given.

    Raises:
        DataError: there is none, two have the same name, or a column of 1 and 0 holds something else in some row.
    """
    good, blank = Counter[int](), Counter[int]()
    odd: dict[int, tuple[int, str]] = {}
    by_key: dict[str, int] = {}
    candidates = [k for k in range(len(header.columns)) if k not in (header.image, header.split)]
    if known is not None:
        wanted = distinct_spellings(known, classes)
        candidates = [k for k in candidates if one_spelling(header.columns[k]) in wanted]
        missing = wanted - {one_spelling(header.columns[k]) for k in candidates}
        if missing:
            raise DataError(
                f"{path}: no column {layout.labels_column!r}, and no column for {len(missing)} classes of {classes} "
                f"({first_few(sorted(missing))}); {_column_advice(header.columns, layout)}"
            )
    else:
        candidates = [k for k in candidates if header.columns[k].lower() not in NO_CLASSES]
    total = 0
    for line, cells in _rows(path, header, layout):
        total += 1
        for k in candidates:
            cell = cells[k]
            try:
                blank[k] += in_cells.target_of(cell) is None
                good[k] += 1
            except ValueError:
                odd.setdefault(k, (line, cell))
    columns = []
    for k in candidates:
        filled, wrong = good[k] - blank[k], total - good[k]
        if wrong and (known is not None or 10 * wrong <= filled):
            line, cell = odd[k]
            raise DataError(
                f"{path}, line {line}: {cell!r} in column {header.columns[k]!r}, which holds 1, 0, -1 (unknown) or "
                "nothing elsewhere; correct it, or list the columns that are classes in a file: dataset.classes=FILE"
            )
        if not wrong and (filled or known is not None):
            key = one_spelling(header.columns[k])
            if key in by_key:
                raise DataError(f"{path}: two columns are called {header.columns[k]!r}; rename one")
            by_key[key] = k
            columns.append(k)
    if not columns:
        raise DataError(f"{path}: no column {layout.labels_column!r}; {_column_advice(header.columns, layout)}")
    return columns if known is None else [by_key[one_spelling(name)] for name in known]
