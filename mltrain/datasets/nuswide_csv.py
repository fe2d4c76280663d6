"""Tables with a list of labels in brackets, as ASL and ML-Decoder publish for NUS-WIDE (nus_wid_data.csv, data.csv).

    filepath,label,split_name
    images/0001_2124494179.jpg,"['clouds', 'sky']",train

There are three columns, found by position: the image, its labels in brackets with or without quotes, and train, val or
test.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Literal

from mltrain import storage
from mltrain.datasets.reading import read_class_names, read_csv_rows, require_paths
from mltrain.datasets.sources import NUSWIDE_CSV_HOW as HOW
from mltrain.datasets.splits import Splits, make_splits, treat_unlabelled
from mltrain.datasets.unseen import read_class_split, with_unseen, zero_shot
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import counted, part_of

PARTS = ("train", "val", "test")


def nuswide_csv(
    *,
    name: str = "nuswide_csv",
    file: str,
    root: str | None = None,
    classes: str | None = None,
    match_names: bool = False,
    unseen: str | None = None,
    unlabelled: Literal["drop", "negative", "unknown"] = "drop",
    need_train: bool = True,
) -> Splits:
    """Return the splits of the file; ASL's has about 119 k train and 50 k val images with 81 concepts, as quoted.

    Args:
        name: name of the LabelSets and the run folder.
        file: the csv file, UTF-8, with a header line.
        root: folder that the image paths are relative to; default: the folder of `file`.
        classes: file with one class name per line, such as Concepts81.txt; a label that it does not list is an error.
            Default: the labels of all rows, sorted, as in ASL: another file may then have other classes.
        match_names: find each image by its file name alone anywhere below `root`, for a copy with other folders (the
            official images lie in one folder per query).
        unseen: JSON file with the unseen classes of a zero-shot benchmark (ML-Decoder's benchmark_81_v0.json, see
            `mltrain.datasets.unseen`). They are unknown (-1) in train; val and test have all classes.
        unlabelled: images with an empty list, with `unseen` also training images without a seen label: drop leaves them
            out (and, with `unseen`, val and test images without an unseen label), negative keeps them as all negative,
            unknown keeps them with all targets -1.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: the file is missing or broken; the message names the line.
    """
    path = Path(file)
    require_paths(name, [path, *(extra for extra in (classes, root, unseen) if extra)], HOW)
    known = read_class_names(classes) if classes else None
    rows = _rows(path, known)
    names = list(known) if known else sorted({label for _, labels in rows.values() for label in labels})
    if not names:
        raise DataError(f"{path}: the list of labels is empty in every row, so there is no class")
    folder = Path(root) if root is not None else path.parent
    where = _by_name(folder, list(rows)) if match_names else {}
    index = {label: k for k, label in enumerate(names)}
    classes_of = read_class_split(unseen, names) if unseen else None
    made: dict[str, LabelSet] = {}
    for part in PARTS:
        images = [image for image, (split, _) in rows.items() if split == part]
        if not images and part != "test" and (part != "train" or need_train):
            raise DataError(f"{path}: no row of split {part!r} in its third column")
        if images:
            files = [where.get(image, image) for image in images]
            positives = [[index[label] for label in rows[image][1]] for image in images]
            labels = LabelSet.from_lists(
                name=f"{name}/{part}", root=folder, files=files, class_names=names, positives=positives
            )
            if classes_of is not None:
                labels = zero_shot(labels, classes_of, training=part == "train")
                if part != "train" and unlabelled == "drop":
                    labels = with_unseen(labels, classes_of)
            made[part] = treat_unlabelled(labels, unlabelled)
    return make_splits(name, made)


def _rows(path: Path, known: dict[str, None] | None) -> dict[str, tuple[str, list[str]]]:
    """Return image -> (split, labels), in the order of the file."""
    rows: dict[str, tuple[str, list[str]]] = {}
    content = read_csv_rows(path)
    next(content, None)
    for line, cells in content:
        where = f"{path}, line {line}"
        if len(cells) != 3:
            raise DataError(
                f"{where}: {len(cells)} fields, expected 3: image, labels in brackets, split; a list with commas needs "
                'double quotes: a.jpg,"[sky, sea]",train'
            )
        image, split = os.path.normpath(cells[0].strip().replace("\\", "/")), cells[2].strip()
        if split not in PARTS:
            raise DataError(f"{where}: split {split!r}, expected one of {', '.join(PARTS)}")
        if not cells[0].strip():
            raise DataError(f"{where}: no image")
        if image in rows:
            raise DataError(f"{where}: {image} is listed a second time")
        labels = _labels(cells[1], where)
        wrong = [label for label in labels if known is not None and label not in known]
        if wrong:
            raise DataError(f"{where}: label {wrong[0]!r} is not in the classes file")
        rows[image] = (split, labels)
    return rows


def _labels(cell: str, where: str) -> list[str]:
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise DataError(f"{where}: labels {text[:60]!r}, expected a list in brackets such as [sky, sea]")
    if not text[1:-1].strip():
        return []
    labels = [part.strip().strip("'\"").strip() for part in text[1:-1].split(",")]
    if "" in labels:
        raise DataError(f"{where}: an empty label in {text[:60]!r}")
    return labels


def _by_name(folder: Path, images: list[str]) -> dict[str, str]:
    """Find each image below `folder` by its file name; return image -> path."""
    found: dict[str, str] = {}
    repeated: set[str] = set()
    for place, folders, files in storage.walk(folder):
        folders.sort()
        below = os.path.relpath(place, folder)
        for file in files:
            if file in found:
                repeated.add(file)
            found[file] = os.path.normpath(f"{below}/{file}")
    wanted = {image: PurePosixPath(image).name for image in images}
    same = [file for file, count in Counter(wanted.values()).items() if count > 1]
    doubtful = same or [file for file in wanted.values() if file in repeated]
    if doubtful:
        raise DataError(
            f"{folder}: dataset.match_names=true finds images by file name, but "
            f"{counted(len(doubtful), 'name', 'stand')} for "
            f"several files, the first {doubtful[0]}"
        )
    missing = [image for image, file in wanted.items() if file not in found]
    if missing:
        raise DataError(
            f"{folder}: {part_of(len(missing), len(images), 'image', 'are')} nowhere below it, the first "
            f"{missing[0]}; check "
            "dataset.root"
        )
    return {image: found[file] for image, file in wanted.items()}
