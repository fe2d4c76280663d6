"""Your own single-label images in one folder per class: `root/train/<class>/*.jpg`, `root/val/<class>/*.jpg`.

Class names are those of the folders of train, sorted, as torchvision's ImageFolder has them. Each image has one
positive, all other classes are negative.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from mltrain.datasets.splits import Splits, hold_out, log_labels, require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
HOW = (
    "Expected a folder for each class: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg (names: dataset.train, "
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
        name: of the LabelSets and the run folder.
        root: folder that the three below are relative to.
        train: folder with a folder of images for each class; "." is `root` itself.
        val: the same for val; it may lack classes of train, and have no others.
        test: the same for test; None: no test set.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path, and `val` is
            not used.
        split_seed: of that choice; independent of the run's seed, so that runs of several seeds share their val set.

    Raises:
        DataError: a folder is missing, or has no image, or has a class that train has not.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    parts = {"train": Path(root, train)}
    if val_fraction == 0:
        parts["val"] = Path(root, val)
    if test is not None:
        parts["test"] = Path(root, test)
    require_paths(name, list(parts.values()), HOW)
    for part, place in parts.items():
        if part != "train" and parts["train"].resolve() in [place.resolve(), *place.resolve().parents]:
            raise DataError(f"{name}: {part} is {place}, inside train ({parts['train']}). {HOW}")
    classes = _folders(parts["train"])
    if not classes:
        raise DataError(f"{parts['train']}: has no folder, so there is no class. {HOW}")
    made = {}
    for part, place in parts.items():
        made[part] = read_folder(place, classes=classes, name=f"{name}/{part}")
    if val_fraction > 0:
        made["train"], made["val"] = hold_out(made["train"], val_fraction, split_seed, f"{name}/val")
    return Splits(*(log_labels(made[part]) for part in ("train", "val", "test") if part in made))


def read_folder(
    place: str | os.PathLike[str], *, classes: list[str] | None = None, name: str | None = None
) -> LabelSet:
    """One folder of classes as a single-label LabelSet; images by class, then by path.

    Args:
        place: folder with a folder of images for each class, at any depth within it. Files that are no images by their
            suffix, and what begins with a dot, are left out.
        classes: names and order of the classes; default: the folders, sorted.
        name: of the LabelSet; default: the name of the folder.

    Raises:
        DataError: there is no image, or a folder that is no class.
    """
    place = Path(place)
    require_paths(name or place.name, [place], HOW)
    found = _folders(place)
    names = found if classes is None else classes
    foreign = sorted(set(found) - set(names))
    if foreign:
        raise DataError(
            f"{place}: {len(foreign)} folders are no classes of train: {', '.join(foreign[:5])}; the classes are "
            "those of the folders of train"
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
        log.info("%s: %d files that are no images by their suffix left out", name or place.name, others)
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
    """Images of a class, relative to `place` and sorted, and how many other files there are."""
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
