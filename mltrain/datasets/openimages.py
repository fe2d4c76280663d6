"""Open Images V6, image-level labels (Kuznetsova et al., IJCV 2020, arXiv:1811.00982).

People verified some classes of each image: Confidence 1 says that the class is there (target 1), 0 that it is not
(target 0). All other classes were not looked at and are unknown (-1). Counting them as negative gives a mAP near 30 in
place of 86.

The training labels are about 60 M rows. They are read in blocks, each cut into columns by NumPy, and a row is kept as
two or four bytes; no Python object is made for a row or an image.
"""

from __future__ import annotations

import csv
import logging
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mltrain.datasets.openimages_csv import HEX, ID_LENGTH, ClassTable, read_blocks
from mltrain.datasets.sources import OPENIMAGES_HOW as HOW
from mltrain.datasets.splits import Splits, log_labels, read_lines, require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)


def openimages(
    *,
    name: str = "openimages",
    root: str,
    train_labels: str = "oidv6-train-annotations-human-imagelabels.csv",
    val_labels: str = "validation-annotations-human-imagelabels.csv",
    test_labels: str | None = "test-annotations-human-imagelabels.csv",
    train_images: str = "train/{id}.jpg",
    val_images: str = "validation/{id}.jpg",
    test_images: str = "test/{id}.jpg",
    classes: str = "oidv6-classes-trainable.txt",
    descriptions: str | None = "oidv6-class-descriptions.csv",
    train_absent: Literal["unknown", "negative"] = "unknown",
) -> Splits:
    """Train, validation and test of Open Images V6.

    As commonly quoted: 9.0 M, 41,620 and 125,436 images, 9,605 trainable classes. Images are in the order of their ids;
    those without a verified class among `classes` are left out, and counted in the log.

    Args:
        name: of the LabelSets and the run folder.
        root: folder that the paths below are relative to.
        train_labels: human-verified image labels of train.
        val_labels: of validation.
        test_labels: of test; None: no test set.
        train_images: image file of train; ``{id}`` becomes the id, ``{first}`` its first digit, as in
            ``train_{first}/{id}.jpg``, the folders that the archives unpack to.
        val_images: of validation.
        test_images: of test.
        classes: file with one class id (such as /m/0cyhj_) per line; fixes the classes and their order.
        descriptions: csv file with a name for each class id; None: the ids are the names.
        train_absent: target, in train only, of a class that nobody verified: unknown (-1) or negative (0). In
            validation and test it is always unknown.

    Raises:
        DataError: files are missing or broken; the message names the line.
    """
    if train_absent not in ("unknown", "negative"):
        raise ValueError(f"train_absent must be unknown or negative, got {train_absent!r}")
    parts = {"train": (train_labels, train_images), "val": (val_labels, val_images)}
    if test_labels is not None:
        parts["test"] = (test_labels, test_images)
    folder = Path(root)
    listed = [labels for labels, _ in parts.values()] + [classes] + ([descriptions] if descriptions else [])
    require_paths(name, [folder / file for file in listed], HOW)
    table = _read_classes(folder / classes, folder / descriptions if descriptions else None)
    made = {
        part: _read(
            folder / labels,
            table,
            root=folder,
            images=images,
            fill=0 if part == "train" and train_absent == "negative" else -1,
            name=f"{name}/{part}",
        )
        for part, (labels, images) in parts.items()
    }
    return Splits(made["train"], made["val"], made.get("test"))


def read_openimages(
    labels: str | os.PathLike[str],
    *,
    classes: str | os.PathLike[str],
    descriptions: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    images: str = "{id}.jpg",
    absent: Literal["unknown", "negative"] = "unknown",
    name: str | None = None,
) -> LabelSet:
    """One file of human-verified image labels as a LabelSet; arguments as for `openimages`.

    Args:
        labels: the csv file.
        classes: file with one class id per line.
        descriptions: csv file with the names of the classes.
        root: folder of `images`; default: the folder of `labels`.
        images: image file below `root`.
        absent: target of a class that nobody verified.
        name: of the LabelSet; default: the name of the file.

    Raises:
        DataError: a file is missing or broken.
    """
    if absent not in ("unknown", "negative"):
        raise ValueError(f"absent must be unknown or negative, got {absent!r}")
    path = Path(labels)
    require_paths(name or path.stem, [path, classes, *([descriptions] if descriptions else [])], HOW)
    return _read(
        path,
        _read_classes(Path(classes), Path(descriptions) if descriptions else None),
        root=path.parent if root is None else root,
        images=images,
        fill=0 if absent == "negative" else -1,
        name=name or path.stem,
    )


# -- classes ---------------------------------------------------------------------------------------------------------


class _Classes(NamedTuple):
    names: list[str]
    table: ClassTable


def _read_classes(path: Path, descriptions: Path | None) -> _Classes:
    ids: list[str] = []
    for number, text in read_lines(path):
        if text == "LabelName":
            continue
        if len(text.encode()) > ID_LENGTH or "," in text:
            raise DataError(
                f"{path}, line {number}: {text[:40]!r} is no class id; expected one per line, such as /m/0cyhj_"
            )
        ids.append(text)
    if not ids:
        raise DataError(f"{path}: no class id; expected one per line")
    if len(set(ids)) != len(ids):
        twice = next(text for text in ids if ids.count(text) > 1)
        raise DataError(f"{path}: class {twice} appears more than once")
    return _Classes(_names(ids, descriptions), ClassTable(ids))


def _names(ids: list[str], path: Path | None) -> list[str]:
    """Names of the classes; a name that several of them have is followed by the id."""
    if path is None:
        return ids
    names: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            for cells in reader:
                if len(cells) != 2:
                    raise DataError(f"{path}, line {reader.line_num}: {len(cells)} fields, expected class id,name")
                names[cells[0].strip()] = cells[1].strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); incomplete download? Get the file again") from error
    missing = [key for key in ids if not names.get(key)]
    if missing:
        raise DataError(
            f"{path}: no name for {len(missing)} of {len(ids)} classes, the first {missing[0]}; get the file of the "
            "same version as the classes, or dataset.descriptions=null"
        )
    given = [names[key] for key in ids]
    repeated = {label for label, count in zip(*np.unique(given, return_counts=True), strict=True) if count > 1}
    return [f"{label} ({key})" if label in repeated else label for key, label in zip(ids, given, strict=True)]


# -- labels ----------------------------------------------------------------------------------------------------------


def _read(
    path: Path, classes: _Classes, *, root: str | os.PathLike[str], images: str, fill: int, name: str
) -> LabelSet:
    if "{id}" not in images:
        raise ValueError(f"the image file must contain {{id}}, got {images!r}")
    blocks = list(read_blocks(path, classes.table))
    rows = sum(block.rows for block in blocks)
    heads = np.concatenate([block.heads for block in blocks])
    counts = np.concatenate([block.counts for block in blocks])
    codes = np.concatenate([block.codes for block in blocks])
    del blocks
    if not len(codes):
        raise DataError(f"{path}: none of its {rows} rows is of one of the {len(classes.names)} classes")
    known = counts > 0
    if known.all() and (heads[1:] > heads[:-1]).all():
        ids, row = heads, np.arange(len(heads))
    else:
        left_out = len(np.unique(heads)) - len(np.unique(heads[known]))
        if left_out:
            log.info("%s: %d images without a verified class of the %d left out", name, left_out, len(classes.names))
        ids, row = np.unique(heads[known], return_inverse=True)
        counts = counts[known]
    del heads
    # One number for row, class and Confidence: sorting it groups the rows of an image and orders its classes.
    bits = (2 * len(classes.names) - 1).bit_length()
    keys = np.repeat(row << bits, counts)
    keys |= codes
    kept = len(codes)
    del codes, counts, row
    keys.sort()
    keys = _select(keys, _starts(keys))
    first = _starts(keys >> 1)
    both = np.zeros(len(keys), dtype=bool)
    both[:-1] = ~first[1:]
    if both.any():
        log.warning(
            "%s: %d classes of an image are verified both as there and as not; they become unknown", name, both.sum()
        )
    values = keys.astype(np.int8)
    values &= 1
    values[both] = -1
    if len(keys) < kept:
        log.info("%s: %d rows repeat another", name, kept - len(keys))
    use = first & (values != fill)
    keys, values = _select(keys, use), _select(values, use)
    del both, first, use
    indptr = np.zeros(len(ids) + 1, dtype=np.int64)
    np.cumsum(np.bincount(keys >> bits, minlength=len(ids)), out=indptr[1:])
    keys &= (1 << bits) - 1
    keys >>= 1
    indices = keys.astype(np.int32)
    del keys
    labels = LabelSet(
        name=name,
        root=root,
        files=_files(ids, images),
        class_names=classes.names,
        indptr=indptr,
        indices=indices,
        values=values,
        fill=fill,
    )
    return log_labels(labels)


def _starts(ordered: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before it."""
    starts = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=starts[1:])
    return starts


def _select(array: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The chosen entries; not a copy where they are all."""
    return array if which.all() else array[which]


def _files(ids: np.ndarray, images: str) -> np.ndarray:
    """Image files as UTF-8 bytes."""
    digits = HEX[(ids[:, None] >> np.arange(60, -4, -4, dtype=np.uint64)) & np.uint64(15)]
    columns = {"{id}": digits, "{first}": digits[:, :1]}
    parts = [
        columns[part] if part in columns else np.frombuffer(part.encode(), dtype=np.uint8)[None]
        for part in re.split(r"(\{id\}|\{first\})", images)
    ]
    width = sum(part.shape[1] for part in parts)
    out = np.empty((len(ids), width), dtype=np.uint8)
    at = 0
    for part in parts:
        out[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    files: np.ndarray = out.view(f"S{width}").ravel()
    return files
