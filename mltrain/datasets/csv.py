"""Your own data in one csv file: a row per image with its labels and, optionally, its split.

    image,labels,split
    train/1000.jpeg,city;mountain;sun,train
    train/1003.jpeg,tree;!boat,train

Rules:

- A label with a leading ``-`` or ``!`` is a verified negative. One such mark anywhere in the file makes the set
  partially labelled: what a row does not list is then unknown (-1). Without any such mark, what is not listed is
  negative, and a label with a leading ``?`` is unknown.
- Classes are those of the `classes` file (one per line, in its order), else all labels in the file, sorted. A name in
  the classes file that itself begins with a mark is taken as that name.
- Rows of the same image in the same split are merged (so one row per label works too); a label with two values
  (positive, negative, unknown), or an image in two splits, is an error.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mltrain.datasets.splits import Splits, log_labels, require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.progress import track

log = logging.getLogger(__name__)

MARKS = {"-": 0, "!": 0, "?": -1}


@dataclass
class _Row:
    """All that the file says of one image."""

    line: int
    split: str | None
    labels: dict[str, int] = field(default_factory=dict)
    """label as written, without its mark -> 1, 0 or -1"""


@dataclass
class _Table:
    path: Path
    root: Path
    rows: dict[str, _Row]
    class_names: list[str]
    partial: bool


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
        name: of the LabelSets and the run folder.
        file: the csv file, UTF-8, with a header line. Columns other than the three below are not read.
        root: folder that the image paths are relative to; default: the folder of `file`.
        classes: file with one class name per line; a label that it does not list is an error.
        separator: between the labels of a row.
        delimiter: between columns.
        image_column: name of the column with the image path.
        labels_column: name of the column with the labels.
        split_column: name of the column with the split; a file without it is all train, so `val_fraction` is needed.
        train_split: value of the split column for train.
        val_split: value for val.
        test_split: value for test; None: no test set. Rows of any other split are left out, and counted in the log.
        val_fraction: above 0, val is this share of the train rows, and `val_split` is not used. Which rows is decided
            by a hash of `split_seed` and the image path, so it does not depend on the order of the rows.
        split_seed: of that choice; independent of the run's seed, so that runs of several seeds share their val set.
        need_val: passed by the program: False where a tool reads the training images only; val may then be empty.

    Raises:
        DataError: the file is missing or breaks a rule; the message names the line.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    table = _read(
        file=file,
        root=root,
        classes=classes,
        separator=separator,
        delimiter=delimiter,
        image_column=image_column,
        labels_column=labels_column,
        split_column=split_column,
    )
    by_split: dict[str | None, list[str]] = {}
    for image, row in table.rows.items():
        by_split.setdefault(train_split if row.split is None else row.split, []).append(image)
    chosen = {"train": train_split, "test": test_split}
    if val_fraction > 0:
        by_split, val_key = _hold_out(table, by_split, train_split, val_fraction, split_seed)
    else:
        val_key = val_split
    chosen["val"] = val_key
    no_val = not need_val and not by_split.get(val_key)
    for part in ("train", "test") if no_val else ("train", "val", "test"):
        if chosen[part] is not None and not by_split.get(chosen[part]):
            counts = ", ".join(f"{key} ({len(images)} images)" for key, images in sorted(by_split.items(), key=str))
            hint = " or dataset.val_fraction=0.1" if part == "val" else ""
            raise DataError(
                f"{table.path}: no image of split {chosen[part]!r}; column {split_column!r} has {counts}. "
                f"Set dataset.{part}_split{hint}"
            )
    unused = {key: len(images) for key, images in by_split.items() if key not in chosen.values()}
    if unused:
        log.info("%s: splits not used: %s", name, ", ".join(f"{key} ({n} images)" for key, n in unused.items()))
    if no_val:
        del chosen["val"]
    made = {part: _labels(table, by_split[key], f"{name}/{part}") for part, key in chosen.items() if key is not None}
    return Splits(made["train"], made["train"].select([], f"{name}/val") if no_val else made["val"], made.get("test"))


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
    """The rows of one split (None: all rows) as a LabelSet, in the order of the file; arguments as for `csv_file`.

    Raises:
        DataError: the file is missing or breaks a rule, or has no row of that split.
    """
    table = _read(
        file=file,
        root=root,
        classes=classes,
        separator=separator,
        delimiter=delimiter,
        image_column=image_column,
        labels_column=labels_column,
        split_column=split_column,
    )
    images = [image for image, row in table.rows.items() if split is None or row.split == split]
    if not images:
        found = sorted({str(row.split) for row in table.rows.values()})
        raise DataError(f"{table.path}: no image of split {split!r}; found {', '.join(found)}")
    return _labels(table, images, name or f"{Path(file).stem}/{split or 'all'}")


def _read(
    *,
    file: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    classes: str | os.PathLike[str] | None,
    separator: str,
    delimiter: str,
    image_column: str,
    labels_column: str,
    split_column: str,
) -> _Table:
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
    if not separator or len(delimiter) != 1 or separator == delimiter:
        raise ValueError(
            f"separator {separator!r} and delimiter {delimiter!r} must differ; the delimiter is one character"
        )
    known = read_class_names(Path(classes)) if classes else None
    rows: dict[str, _Row] = {}
    marked = False
    for line, image, cell, split in _lines(path, delimiter, image_column, labels_column, split_column):
        where = f"{path}, line {line}"
        if not image:
            raise DataError(f"{where}: column {image_column!r} is empty")
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
            if not label or (known is not None and label not in known):
                raise DataError(f"{where}: " + _unknown_label(label, text, known, classes))
            if row.labels.setdefault(label, value) != value:
                raise DataError(f"{where}: {image} has {label!r} twice, with two values (plain, ! and ?); keep one")
    if not rows:
        raise DataError(f"{path}: no row below the header")
    class_names = list(known) if known else sorted({label for row in rows.values() for label in row.labels})
    if not class_names:
        raise DataError(f"{path}: column {labels_column!r} is empty in every row, so there is no class")
    return _Table(path, Path(root) if root is not None else path.parent, rows, class_names, marked)


def _lines(
    path: Path, delimiter: str, image_column: str, labels_column: str, split_column: str
) -> Iterator[tuple[int, str, str, str | None]]:
    """(line, image, labels, split or None) of each row; checks the header and the number of fields."""
    reader = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True, skipinitialspace=True)
            header = [column.strip() for column in next(reader, [])]
            for column in (image_column, labels_column):
                if header.count(column) != 1:
                    raise DataError(
                        f"{path}: {'no' if column not in header else 'more than one'} column {column!r}; found "
                        f"{', '.join(header) or 'an empty file'}. Name them with dataset.image_column and "
                        "dataset.labels_column, the delimiter with dataset.delimiter"
                    )
            image_at, labels_at = header.index(image_column), header.index(labels_column)
            split_at = header.index(split_column) if split_column in header else None
            for cells in track(reader, f"reading {path.name}", None, unit="rows"):
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(cells)} fields, the header has {len(header)}; a field "
                        f"that contains {delimiter!r} needs double quotes"
                    )
                split = None if split_at is None else cells[split_at].strip()
                yield reader.line_num, cells[image_at].strip(), cells[labels_at], split
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except csv.Error as error:
        line = reader.line_num if reader is not None else 0
        raise DataError(f"{path}, line {line}: not a csv file ({error}); check its quotes") from error


def read_class_names(path: Path) -> dict[str, None]:
    """Names, one per line, in the order of the file; a dict for its lookup."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    names: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if line in names:
            raise DataError(f"{path}, line {number}: class {line!r} appears more than once")
        if line:
            names[line] = None
    if not names:
        raise DataError(f"{path}: no class name; expected one per line")
    return names


def _unknown_label(label: str, text: str, known: dict[str, None] | None, classes: str | os.PathLike[str] | None) -> str:
    if not label:
        return f"label {text!r} is a mark without a name"
    near = difflib.get_close_matches(label, known or (), n=1)
    return (
        f"label {label!r} is not in the classes file {classes}"
        + (f", did you mean {near[0]!r}" if near else "")
        + ". Correct it, or add it to the classes file"
    )


def _hold_out(
    table: _Table, by_split: dict[str | None, list[str]], train_split: str, fraction: float, seed: int
) -> tuple[dict[str | None, list[str]], str]:
    """Move `fraction` of the train images to a split of their own."""
    images = by_split.get(train_split, [])
    count = round(len(images) * fraction)
    if not 0 < count < len(images):
        raise DataError(
            f"{table.path}: dataset.val_fraction={fraction} of {len(images)} train images leaves train or val empty"
        )
    ranked = sorted(images, key=lambda image: hashlib.sha256(f"{seed}\0{image}".encode()).digest())
    held = set(ranked[:count])
    key = f"{fraction:g} of {train_split}"
    return {
        **by_split,
        train_split: [image for image in images if image not in held],
        key: [image for image in images if image in held],
    }, key


def _labels(table: _Table, images: list[str], name: str) -> LabelSet:
    index = {label: k for k, label in enumerate(table.class_names)}
    listed: dict[int, list[list[int]]] = {1: [], 0: [], -1: []}
    for image in track(images, f"{name}: labels", len(images), unit="images"):
        for value, lists in listed.items():
            lists.append([index[label] for label, given in table.rows[image].labels.items() if given == value])
    return log_labels(
        LabelSet.from_lists(
            name=name,
            root=table.root,
            files=images,
            class_names=table.class_names,
            positives=listed[1],
            negatives=listed[0],
            unknowns=listed[-1],
            fill=-1 if table.partial else 0,
        )
    )
