"""Detection data of YOLO (https://docs.ultralytics.com/datasets/detect): an image has the classes of its boxes.

``data.yaml`` names the classes and, for each split, a folder of images, a list of folders, or a text file with a path
per line. The labels of ``images/a/1.jpg`` are in ``labels/a/1.txt``, one box per line, its class first. An image
without such a file, or with an empty one, has no label. Also read: ``classes.txt`` beside ``images/`` and ``labels/``
(Label Studio), and Darknet's ``obj.data`` (CVAT), whose labels lie beside the images.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from mltrain.datasets.names import SUFFIXES, warn_of_case
from mltrain.datasets.reading import read_class_names, read_lines, require_paths
from mltrain.datasets.splits import Splits, check_fraction, make_splits
from mltrain.errors import DataError
from mltrain.files import walk
from mltrain.labels import LabelSet
from mltrain.progress import track
from mltrain.safe_yaml import read_yaml
from mltrain.text import counted, first_few

log = logging.getLogger(__name__)

HOW = (
    "Expected data.yaml with names, train and val (Ultralytics), classes.txt beside images/ and labels/ (Label "
    "Studio), or obj.data (Darknet): dataset.file=FILE"
)
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""keys of data.yaml that name a split"""


def yolo(
    *,
    name: str = "yolo",
    file: str,
    root: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_val: bool = True,
    need_train: bool = True,
) -> Splits:
    """Train, val and, if there is one, test of a YOLO detection set.

    Args:
        name: name of the LabelSets and the run folder.
        file: data.yaml, classes.txt or obj.data.
        root: folder that the paths in the file are relative to; default: what the file says, from its own folder.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; the val images
            of the file are then not used.
        split_seed: seed of that choice, independent of the run's.
        need_val: the program sets it to False for tools that read the training images only; val may then be missing.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken; the message names the line.
    """
    check_fraction(val_fraction)
    path = Path(file)
    require_paths(name, [path], HOW)
    names, sources, base = _described(path, root)
    warn_of_case(names, path)
    optional = {"train": not need_train and val_fraction == 0, "val": not need_val or val_fraction > 0, "test": True}
    made: dict[str, LabelSet] = {}
    for part, keys in SPLITS.items():
        if part == "val" and val_fraction > 0:
            continue
        given = next((sources[key] for key in keys if sources.get(key)), None)
        if given is None:
            if not optional[part]:
                hint = ", or hold some out: dataset.val_fraction=0.1" if part == "val" else ""
                raise DataError(f"{path}: no key {keys[0]} with the images of {part}; add it{hint}")
            continue
        places = [_place(base, path.parent, str(place)) for place in (given if isinstance(given, list) else [given])]
        if optional[part] and not all(place.exists() for place in places):
            log.info("%s: %s of %s is not there, and is left out", path, first_few(list(map(str, places))), part)
            continue
        how = f"They are the images of {part}, as {path} says. To use another place: dataset.root=FOLDER"
        require_paths(name, places, how)
        made[part] = _read(f"{name}/{part}", places, names, base, path.parent)
    if "train" in made and "val" not in made and "test" not in made and val_fraction == 0:
        made["val"] = made["train"].select([], f"{name}/val")
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def _described(path: Path, root: str | None) -> tuple[list[str], dict[str, Any], Path]:
    """Return the classes, the images of each split, and the folder that their paths are relative to."""
    if path.suffix == ".txt":
        base = Path(root or path.parent)
        return list(read_class_names(path)), {"train": "images"}, base
    if path.suffix == ".data":
        pairs = (line.partition("=") for _, line in read_lines(path))
        data: Any = {key.strip(): value.strip() for key, _, value in pairs}
        base = Path(root or path.parent)
        names_file = _place(base, path.parent, str(data.get("names", "obj.names")))
        require_paths(path.name, [names_file], HOW)
        return list(read_class_names(names_file)), data, base
    try:
        data = read_yaml(path)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("names"), (list, dict)) or not data["names"]:
        raise DataError(f"{path}: no names of classes. {HOW}")
    names = data["names"]
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            found = first_few(list(map(str, names)))
            raise DataError(f"{path}: the keys of names must be 0 to {len(names) - 1}, found {found}")
        names = [names[k] for k in range(len(names))]
    base = Path(root) if root is not None else path.parent / str(data.get("path") or ".")
    return [" ".join(str(name).split()) for name in names], data, base if base.is_dir() else path.parent


def _place(base: Path, beside: Path, text: str) -> Path:
    """Return where a path of the file leads: below `base`, or from the file's folder, also if it was moved since."""
    inner = text
    while inner.startswith(("../", "./")):  # Roboflow writes ../train/images for train/images
        inner = inner.partition("/")[2]
    tried = [base / text, beside / text, base / inner, beside / inner, beside / inner.removeprefix("data/")]
    return next((place for place in tried if place.exists()), tried[0])


def _read(name: str, places: Sequence[Path], names: list[str], base: Path, own: Path) -> LabelSet:
    """Read the images of a split; labels are beside them, or, of images that were copied, below the folder `own`."""
    files: dict[str, list[int]] = {}
    without = boxes = 0
    listed = [image for place in places for image in _images(place, base)]
    for image in track(listed, f"reading {name}", len(listed), unit="images"):
        label_file = _label_file(image)
        if not label_file.is_file():
            label_file = _label_file(own / os.path.relpath(image, base))
        found: set[int] = set()
        if label_file.is_file():
            for line, text in read_lines(label_file):
                boxes += 1
                found.add(_class_of(text, len(names), f"{label_file}, line {line}"))
        else:
            without += 1
        files[os.path.relpath(image, base)] = sorted(found)
    if not files:
        where = first_few(list(map(str, places)))
        raise DataError(f"{name}: no image in {where}; suffixes of images: {' '.join(SUFFIXES)}")
    if without == len(files):
        raise DataError(
            f"{name}: none of {counted(len(files), 'image')} has a file of labels; expected, for the first, "
            f"{_label_file(listed[0])}"
        )
    log.info(
        "%s: %s in %s; a class with a box is a label; without a file of labels, and so without a label: %s",
        *(name, counted(boxes, "box"), counted(len(files), "image"), counted(without, "image")),
    )
    return LabelSet.from_lists(
        name=name, root=base, files=list(files), class_names=names, positives=list(files.values())
    )


def _images(place: Path, base: Path) -> Iterator[Path]:
    """Yield the images of a folder, sorted, or those that a text file lists."""
    if place.is_dir():
        found = [Path(folder, file) for folder, _, files in walk(place) for file in files]
        yield from sorted(path for path in found if path.name.lower().endswith(SUFFIXES))
        return
    for _, line in read_lines(place):
        yield _place(place.parent if line.startswith("./") else base, place.parent, line.replace("\\", "/"))


def _label_file(image: Path) -> Path:
    """Return the file with the boxes of an image: in labels/ for images/ (the last such folder), else beside it."""
    parts = list(image.parts)
    at = max((k for k, part in enumerate(parts[:-1]) if part == "images"), default=None)
    if at is not None:
        parts[at] = "labels"
    return Path(*parts).with_suffix(".txt")


def _class_of(text: str, classes: int, where: str) -> int:
    first = text.split()[0]
    if not first.isdecimal() or int(first) >= classes:
        raise DataError(f"{where}: a box begins with its class, 0 to {classes - 1}; found {text[:40]!r}")
    return int(first)
