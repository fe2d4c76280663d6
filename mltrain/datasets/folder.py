"""Your own single-label images in one folder per class: `root/train/<class>/*.jpg`, `root/val/<class>/*.jpg`.

Classes are the folders of train, sorted, as in torchvision's ImageFolder. Each image has one positive class; all others
are negative.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from mltrain.datasets.names import NO_DATA, SUFFIXES
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits, make_splits, split_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import first_few

log = logging.getLogger(__name__)

HOW = (
    "Expected one folder per class: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg (names: dataset.train, "
    "dataset.val). For classes directly in ROOT: dataset.train=. dataset.val_fraction=0.1; for list files: dataset=list"
    ". To use another place: dataset.root=FOLDER"
)


def folder(
    *,
    name: str = "folder",
    root: str,
    train: str = "train",
    val: str = "val",
    test: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
) -> Splits:
    """Train, val and optionally test from folders of classes.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the three below are relative to.
        train: folder with one folder of images per class; "." is `root` itself.
        val: the same for val; it may lack classes of train, but has no others.
        test: the same for test; None: no test set.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val` is then
            not used.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.

    Raises:
        DataError: a folder is missing or has no image, or val or test has a class that train lacks.
    """
    parts = split_paths(root, train, val, test, val_fraction)
    require_paths(name, list(parts.values()), HOW)
    for part, place in parts.items():
        if part != "train" and parts["train"].resolve() in [place.resolve(), *place.resolve().parents]:
            raise DataError(f"{name}: {part} is {place}, inside train ({parts['train']}). {HOW}")
    classes = _folders(parts["train"])
    if not classes:
        raise DataError(f"{parts['train']}: has no folder, so there is no class. {HOW}")
    made = {part: read_folder(place, classes=classes, name=f"{name}/{part}") for part, place in parts.items()}
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def read_folder(
    place: str | os.PathLike[str], *, classes: list[str] | None = None, name: str | None = None
) -> LabelSet:
    """Return the images in a folder of classes, single label; images are sorted by class, then by path.

    Args:
        place: folder with one folder per class, with images at any depth. Files without the suffix of an image, and
            hidden files and folders, are left out.
        classes: names and order of the classes; default: the folders, sorted.
        name: name of the LabelSet; default: the name of the folder.

    Raises:
        DataError: there is no image, or a folder is no class.
    """
    place = Path(place)
    require_paths(name or place.name, [place], HOW)
    found = _folders(place)
    names = found if classes is None else classes
    foreign = sorted(set(found) - set(names))
    if foreign:
        raise DataError(
            f"{place}: {len(foreign)} folders are no classes of train: {first_few(foreign)}; the classes are the "
            "folders of train"
        )
    files: list[str] = []
    counts: list[int] = []
    others = 0
    for label in names:
        images, skipped = _images(place, label)
        files += images
        others += skipped
        counts.append(len(images))
    if not files:
        raise DataError(f"{place}: no image in its {len(found)} folders; suffixes of images: {' '.join(SUFFIXES)}")
    if others:
        log.info("%s: %d files without the suffix of an image left out", name or place.name, others)
    return LabelSet(
        name=name or place.name,
        root=place,
        files=files,
        class_names=names,
        indptr=np.arange(len(files) + 1),
        indices=np.repeat(np.arange(len(names)), counts),
        values=np.ones(len(files), dtype=np.int8),
    )


def _folders(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(place: Path, label: str) -> tuple[list[str], int]:
    """Return the images of a class, relative to `place` and sorted, and the number of other files."""
    images: list[str] = []
    others = 0
    for folder_, below, files in os.walk(place / label, followlinks=True):
        below[:] = [entry for entry in below if not entry.startswith(".")]
        for file in files:
            if file.startswith("."):
                continue
            if file.lower().endswith(SUFFIXES):
                images.append(os.path.relpath(f"{folder_}/{file}", place))
            else:
                others += 1
    return sorted(images), others
