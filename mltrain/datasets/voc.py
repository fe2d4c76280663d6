"""Pascal VOC 2007, 2012 and 07+12 (Everingham et al., IJCV 2010): image-level labels from the object annotations.

Classes are the 20 in alphabetical order, or, in a set of your own with other classes, all classes of its annotations,
sorted. Images may have any suffix. A target is 1 if the image has an object of the class that is not marked
`difficult`, and 0 if it has none; the option `difficult` decides for an image with difficult objects only.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree import ElementTree

from mltrain.datasets.names import ImageFinder
from mltrain.datasets.reading import check_choice, read_image_list, require_paths
from mltrain.datasets.sources import VOC_HOW as HOW
from mltrain.datasets.splits import Splits, log_labels, without_train
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.progress import track
from mltrain.text import counted, first_few

log = logging.getLogger(__name__)

# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
TRAIN = {2007: [(2007, "trainval")], 2012: [(2012, "train")], "07+12": [(2007, "trainval"), (2012, "trainval")]}
VAL = {2007: (2007, "test"), 2012: (2012, "val"), "07+12": (2007, "test")}


def voc(
    *,
    name: str = "voc",
    root: str,
    year: Literal[2007, 2012, "07+12"] = 2007,
    difficult: Literal["positive", "negative", "ignore"] = "ignore",
    train_difficult: Literal["positive", "negative", "ignore"] | None = None,
    need_train: bool = True,
) -> Splits:
    """VOC train and val as papers use them.

    2007: trainval (5,011 images) and test (4,952). 2012: train (5,717) and val (5,823), because the labels of its test
    set are not public. 07+12: both trainval sets together (16,551) and VOC2007 test. (Counts as commonly quoted.)

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that holds `VOCdevkit/` (or directly `VOC2007/`, `VOC2012/`).
        year: 2007, 2012 or "07+12".
        difficult: target of a class if the image has difficult objects of it only: positive (1, as in
            Distribution-Balanced loss), negative (0), or ignore (-1, as in the official evaluation).
        train_difficult: the same for train alone; None: as `difficult`. CSRA has negative there, and ignore in test.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken.
    """
    check_choice("year", year, tuple(TRAIN))
    treated = {"train": train_difficult or difficult, "val": difficult}
    for option, choice in (("difficult", difficult), ("train_difficult", treated["train"])):
        check_choice(option, choice, ("positive", "negative", "ignore"))
    parts = {"train": TRAIN[year], "val": [VAL[year]]}
    if not need_train and not all(_is_complete(root, *part) for part in TRAIN[year]):
        del parts["train"]
    require_paths(name, [path for some in parts.values() for part in some for path in part_paths(root, *part)], HOW)
    read = {split: _read(root, some) for split, some in parts.items()}
    classes = _classes(name, [entry for entries in read.values() for entry in entries])
    made = {
        split: log_labels(label_set(f"{name}/{split}", find_devkit(root), entries, classes, treated[split]))
        for split, entries in read.items()
    }
    return Splits(made["train"] if "train" in made else without_train(name, made["val"]), made["val"])


def read_voc(
    *,
    root: str | os.PathLike[str],
    parts: Sequence[tuple[int, str]],
    difficult: str = "ignore",
    name: str | None = None,
) -> LabelSet:
    """Return the images of one or more image lists, joined.

    Args:
        root: as for `voc`.
        parts: (year, list) pairs, such as ``[(2007, "trainval")]``; the list is ``ImageSets/Main/<list>.txt``.
        difficult: as for `voc`.
        name: name of the LabelSet; default such as ``voc2007/trainval``.

    Raises:
        DataError: files are missing or broken.
    """
    check_choice("difficult", difficult, ("positive", "negative", "ignore"))
    name = name or "+".join(f"voc{year}/{split}" for year, split in parts)
    require_paths(name, [path for part in parts for path in part_paths(root, *part)], HOW)
    entries = _read(root, parts)
    return log_labels(label_set(name, find_devkit(root), entries, _classes(name, entries), difficult))


class ObjectImage(NamedTuple):
    """One image and the classes of its objects."""

    file: str
    clear: set[str]
    """classes with an object that is not marked difficult"""
    hard: set[str]
    """classes with a difficult object"""


def _read(root: str | os.PathLike[str], parts: Sequence[tuple[int, str]]) -> list[ObjectImage]:
    read: list[ObjectImage] = []
    devkit = find_devkit(root)
    for year, split in parts:
        list_file = devkit / f"VOC{year}" / "ImageSets" / "Main" / f"{split}.txt"
        ids = read_image_list(list_file, lambda line: line.split()[0])
        annotations = f"{devkit}/VOC{year}/Annotations"
        finder = ImageFinder(devkit)
        for image_id in track(ids, f"reading voc{year}/{split}", len(ids), unit="images"):
            annotation = f"{annotations}/{image_id}.xml"
            clear, hard = objects_of(_parse(annotation), annotation)
            file = f"VOC{year}/JPEGImages/{image_id}"
            found = finder.find_suffix(file, ".jpg", f"{list_file}, line {ids[image_id]}")
            read.append(ObjectImage(found, clear, hard))
    return read


def _classes(name: str, images: list[ObjectImage]) -> Sequence[str]:
    """Return the 20 classes, or those of the annotations if one is none of the 20."""
    found = {label for image in images for label in (*image.clear, *image.hard)}
    other = sorted(found.difference(CLASSES))
    if not other:
        return CLASSES
    log.warning(
        "%s: of the annotations, %s none of VOC's 20 (%s), so the classes are those of the annotations: %s",
        *(name, counted(len(other), "class", "are"), first_few(other), first_few(sorted(found), 20)),
    )
    return sorted(found)


def label_set(
    name: str, root: str | os.PathLike[str], images: list[ObjectImage], classes: Sequence[str], difficult: str
) -> LabelSet:
    """Return images with objects as a LabelSet; `root` is the folder of their files, `difficult` as for `voc`."""
    index = {label: k for k, label in enumerate(classes)}
    positives = [image.clear | image.hard if difficult == "positive" else image.clear for image in images]
    unknowns = [image.hard - image.clear if difficult == "ignore" else set() for image in images]
    return LabelSet.from_lists(
        name=name,
        root=root,
        files=[image.file for image in images],
        class_names=classes,
        positives=[[index[label] for label in labels] for labels in positives],
        unknowns=[[index[label] for label in labels] for labels in unknowns],
    )


def find_devkit(root: str | os.PathLike[str]) -> Path:
    """Return the folder that holds `VOC2007/` and `VOC2012/`: `root` or its `VOCdevkit/`."""
    inner = Path(root, "VOCdevkit")
    return inner if inner.is_dir() or not any(Path(root).glob("VOC20*")) else Path(root)


def _is_complete(root: str | os.PathLike[str], year: int, split: str) -> bool:
    """Return whether the list of a part and the annotations of all its images are there."""
    list_file, annotations, images = part_paths(root, year, split)
    if not (list_file.is_file() and annotations.is_dir() and images.is_dir()):
        return False
    found = {entry.stem for entry in annotations.iterdir()}
    return found.issuperset(read_image_list(list_file, lambda line: line.split()[0]))


def part_paths(root: str | os.PathLike[str], year: int, split: str) -> list[Path]:
    """Return the paths that reading one image list needs."""
    folder = find_devkit(root) / f"VOC{year}"
    return [folder / "ImageSets" / "Main" / f"{split}.txt", folder / "Annotations", folder / "JPEGImages"]


def objects_of(annotation: ElementTree.Element, path: str) -> tuple[set[str], set[str]]:
    """Return the classes with an object not marked difficult, and the classes with a difficult object.

    `path` is the file, for the message of the DataError.
    """
    clear: set[str] = set()
    hard: set[str] = set()
    for entry in annotation.iterfind("object"):  # direct children: body parts are deeper
        label = " ".join((entry.findtext("name") or "").split())
        if not label:
            raise DataError(f"{path}: an object has no name; expected <object><name>CLASS</name>")
        (hard if (entry.findtext("difficult") or "0").strip() == "1" else clear).add(label)
    return clear, hard


def _parse(path: str) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise DataError(f"{path}: annotation missing; the archive was not unpacked completely. {HOW}") from error
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: broken xml ({error}); unpack the archive again") from error
