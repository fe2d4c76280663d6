"""Open Images V6, image-level labels (Kuznetsova et al., IJCV 2020, arXiv:1811.00982).

People verified some classes of each image: Confidence 1 means that the image shows the class (target 1), 0 that it does
not (target 0). Nobody checked the other classes: they are unknown (-1). Counting them as negative gives a mAP near 30
instead of 86.

The training labels are about 60 M rows. NumPy parses them in blocks and keeps two or four bytes per row, without any
Python object per row or image.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mltrain.datasets.openimages_csv import HEX, ID_LENGTH, ClassIndex, read_blocks
from mltrain.datasets.reading import check_choice, read_class_names, read_csv_rows, read_lines, require_paths
from mltrain.datasets.sources import OPENIMAGES_HOW as HOW
from mltrain.datasets.splits import Splits, log_labels, without_train
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import counted, part_of

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
    need_train: bool = True,
) -> Splits:
    """Train, validation and test of Open Images V6.

    As commonly quoted: 9.0 M, 41,620 and 125,436 images, 9,605 trainable classes. Images are in the order of their ids;
    those without a verified class among `classes` are left out, and the log counts them.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the paths below are relative to.
        train_labels: human-verified image labels of train.
        val_labels: the same for validation.
        test_labels: the same for test; None: no test set.
        train_images: image file of train; ``{id}`` becomes the id, ``{first}`` its first digit, as in
            ``train_{first}/{id}.jpg``, the folders that the archives unpack to.
        val_images: the same for validation.
        test_images: the same for test.
        classes: file with one class id (such as /m/0cyhj_) per line, which fixes the classes and their order.
        descriptions: csv file with a name for each class id; None: the ids are the names.
        train_absent: target, in train only, of a class that nobody verified: unknown (-1) or negative (0). In
            validation and test it is always unknown.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case. The
            labels of test may then be missing too.

    Raises:
        DataError: files are missing or broken; the message names the line.
    """
    check_choice("train_absent", train_absent, ("unknown", "negative"))
    parts = {"train": (train_labels, train_images), "val": (val_labels, val_images)}
    if test_labels is not None:
        parts["test"] = (test_labels, test_images)
    folder = Path(root)
    if not need_train:
        for part in {"train", "test"} & parts.keys():
            if not (folder / parts[part][0]).exists():
                log.info("%s: no %s, and evaluation of val does not need it", name, parts.pop(part)[0])
    listed = [labels for labels, _ in parts.values()] + [classes] + ([descriptions] if descriptions else [])
    require_paths(name, [folder / file for file in listed], HOW)
    known = _read_classes(folder / classes, folder / descriptions if descriptions else None)
    made = {}
    for part, (labels, images) in parts.items():
        fill = 0 if part == "train" and train_absent == "negative" else -1
        made[part] = _read(folder / labels, known, root=folder, images=images, fill=fill, name=f"{name}/{part}")
    train = made["train"] if "train" in made else without_train(name, made["val"])
    return Splits(train, made["val"], made.get("test"))


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
    """Return the labels of one file of human-verified image labels.

    Args:
        labels: the csv file.
        classes: file with one class id per line.
        descriptions: csv file with the names of the classes.
        root: folder of `images`; default: the folder of `labels`.
        images: image file below `root`; ``{id}`` becomes the id, ``{first}`` its first digit.
        absent: target of a class that nobody verified.
        name: name of the LabelSet; default: the name of the file.

    Raises:
        DataError: a file is missing or broken.
    """
    check_choice("absent", absent, ("unknown", "negative"))
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


class _Classes(NamedTuple):
    names: list[str]
    ids: ClassIndex


def _read_classes(path: Path, descriptions: Path | None) -> _Classes:
    for number, text in read_lines(path):
        if len(text.encode()) > ID_LENGTH or "," in text:
            raise DataError(
                f"{path}, line {number}: {text[:40]!r} is no class id; expected one per line, such as /m/0cyhj_"
            )
    ids = [text for text in read_class_names(path) if text != "LabelName"]
    if not ids:
        raise DataError(f"{path}: no class id; expected one per line")
    return _Classes(_names(ids, descriptions), ClassIndex(ids))


def _names(ids: list[str], path: Path | None) -> list[str]:
    """Return the names of the classes; a name that several classes share is followed by the id."""
    if path is None:
        return ids
    names: dict[str, str] = {}
    for line, cells in read_csv_rows(path, strict=False):
        if len(cells) != 2:
            raise DataError(f"{path}, line {line}: {len(cells)} fields, expected class id,name")
        names[cells[0].strip()] = cells[1].strip()
    missing = [key for key in ids if not names.get(key)]
    if missing:
        raise DataError(
            f"{path}: no name for {part_of(len(missing), len(ids), 'class')}, the first {missing[0]}; get the "
            "file of the "
            "same version as the classes, or dataset.descriptions=null"
        )
    given = [names[key] for key in ids]
    repeated = {label for label, count in zip(*np.unique(given, return_counts=True), strict=True) if count > 1}
    return [f"{label} ({key})" if label in repeated else label for key, label in zip(ids, given, strict=True)]


def _read(
    path: Path, classes: _Classes, *, root: str | os.PathLike[str], images: str, fill: int, name: str
) -> LabelSet:
    if "{id}" not in images:
        raise ValueError(f"the image file must contain {{id}}, got {images!r}")
    blocks = list(read_blocks(path, classes.ids))
    rows = sum(block.rows for block in blocks)
    heads = np.concatenate([block.heads for block in blocks])
    counts = np.concatenate([block.counts for block in blocks])
    codes = np.concatenate([block.codes for block in blocks])
    del blocks
    if not len(codes):
        raise DataError(f"{path}: its rows ({rows}) have none of the classes ({len(classes.names)})")
    known = counts > 0
    if known.all() and (heads[1:] > heads[:-1]).all():
        ids, row = heads, np.arange(len(heads))
    else:
        left_out = len(np.unique(heads)) - len(np.unique(heads[known]))
        if left_out:
            found = counted(left_out, "image")
            log.info("%s: %s without a verified class of the %d left out", name, found, len(classes.names))
        ids, row = np.unique(heads[known], return_inverse=True)
        counts = counts[known]
    del heads
    # One number holds image, class and Confidence: sorting it groups the rows of an image and sorts its classes.
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
            "%s: verified as both present and absent: %s; it becomes unknown for that image",
            *(name, counted(both.sum(), "class")),
        )
    values = keys.astype(np.int8)
    values &= 1
    values[both] = -1
    if len(keys) < kept:
        log.info("%s: %s a repeat of another", name, counted(kept - len(keys), "row"))
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
    """Return bool (n,): true where a value differs from the one before it."""
    starts = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=starts[1:])
    return starts


def _select(array: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return the chosen entries, without a copy if all are chosen."""
    return array if which.all() else array[which]


def _files(ids: np.ndarray, images: str) -> np.ndarray:
    """Return the image files as UTF-8 bytes."""
    digits = HEX[(ids[:, None] >> np.arange(60, -4, -4, dtype=np.uint64)) & np.uint64(15)]
    columns = {"{id}": digits, "{first}": digits[:, :1]}
    parts = [
        columns[part] if part in columns else np.frombuffer(part.encode(), dtype=np.uint8)[None]
        for part in re.split(r"(\{id\}|\{first\})", images)
    ]
    out = np.concatenate([np.broadcast_to(part, (len(ids), part.shape[1])) for part in parts], axis=1)
    return out.view(f"S{out.shape[1]}").ravel()
