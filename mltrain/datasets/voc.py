"""Pascal VOC 2007, 2012 and 07+12 (Everingham et al., IJCV 2010): image-level labels from the object annotations.

Classes are the 20 in alphabetical order. A target is 1 if the image has an object of the class that is not marked
`difficult`, and 0 if it has none; the option `difficult` decides for an image with difficult objects only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from mltrain.datasets.reading import check_choice, read_image_list, require_paths
from mltrain.datasets.sources import VOC_HOW as HOW
from mltrain.datasets.splits import Splits, log_labels
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.progress import track

# fmt: off
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
INDEX = {label: k for k, label in enumerate(CLASSES)}
TRAIN = {2007: [(2007, "trainval")], 2012: [(2012, "train")], "07+12": [(2007, "trainval"), (2012, "trainval")]}
VAL = {2007: (2007, "test"), 2012: (2012, "val"), "07+12": (2007, "test")}


def voc(
    *,
    name: str = "voc",
    root: str,
    year: Literal[2007, 2012, "07+12"] = 2007,
    difficult: Literal["positive", "negative", "ignore"] = "ignore",
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

    Raises:
        DataError: files are missing or broken.
    """
    check_choice("year", year, tuple(TRAIN))
    parts = [*TRAIN[year], VAL[year]]
    require_paths(name, [path for part in parts for path in part_paths(root, *part)], HOW)
    train = read_voc(root=root, parts=parts[:-1], difficult=difficult, name=f"{name}/train")
    return Splits(train, read_voc(root=root, parts=parts[-1:], difficult=difficult, name=f"{name}/val"))


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
    files: list[str] = []
    positives: list[set[int]] = []
    unknowns: list[set[int]] = []
    devkit = find_devkit(root)
    for year, split in parts:
        list_file = devkit / f"VOC{year}" / "ImageSets" / "Main" / f"{split}.txt"
        ids = read_image_list(list_file, lambda line: line.split()[0])
        annotations = f"{devkit}/VOC{year}/Annotations"
        for image_id in track(ids, f"reading voc{year}/{split}", len(ids), unit="images"):
            clear, hard = _objects(f"{annotations}/{image_id}.xml")
            files.append(f"VOC{year}/JPEGImages/{image_id}.jpg")
            positives.append(clear | hard if difficult == "positive" else clear)
            unknowns.append(hard - clear if difficult == "ignore" else set())
    return log_labels(
        LabelSet.from_lists(
            name=name, root=devkit, files=files, class_names=CLASSES, positives=positives, unknowns=unknowns
        )
    )


def find_devkit(root: str | os.PathLike[str]) -> Path:
    """Return the folder that holds `VOC2007/` and `VOC2012/`: `root` or its `VOCdevkit/`."""
    inner = Path(root, "VOCdevkit")
    return inner if inner.is_dir() or not any(Path(root).glob("VOC20*")) else Path(root)


def part_paths(root: str | os.PathLike[str], year: int, split: str) -> list[Path]:
    """Return the paths that reading one image list needs."""
    folder = find_devkit(root) / f"VOC{year}"
    return [folder / "ImageSets" / "Main" / f"{split}.txt", folder / "Annotations", folder / "JPEGImages"]


def _objects(path: str) -> tuple[set[int], set[int]]:
    """Return the classes with an object not marked difficult, and the classes with a difficult object."""
    clear: set[int] = set()
    hard: set[int] = set()
    try:
        for entry in ElementTree.parse(path).getroot().iterfind("object"):  # direct children: body parts are deeper
            label = (entry.findtext("name") or "").strip()
            (hard if (entry.findtext("difficult") or "0").strip() == "1" else clear).add(INDEX[label])
    except FileNotFoundError as error:
        raise DataError(f"{path}: annotation missing; the archive was not unpacked completely. {HOW}") from error
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: broken xml ({error}); unpack the archive again") from error
    except KeyError as error:
        raise DataError(f"{path}: object of class {error}, which is none of the 20: {', '.join(CLASSES)}") from error
    return clear, hard
