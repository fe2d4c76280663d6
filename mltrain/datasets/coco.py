"""COCO 2014 and 2017, and any other set in COCO's detection format (Lin et al., ECCV 2014, arXiv:1405.0312).

A category is positive for an image that has an annotation of it, crowds (`iscrowd`) included. Every category is
annotated exhaustively, so all others are negative. Classes are in the order of ascending category id; ids may be
numbers or text. Categories of one name are one class, and images of one file are one image.

The JSON is parsed directly, without the outlines and boxes that make up most of it: about 3 times faster than
`pycocotools.COCO`, and in less memory. The tests compare the result with pycocotools.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mltrain import storage
from mltrain.datasets.names import ImageFinder, one_spelling, warn_of_case
from mltrain.datasets.reading import check_choice, read_json_object, require_paths
from mltrain.datasets.sources import COCO_HOW as HOW
from mltrain.datasets.splits import Splits, log_labels
from mltrain.errors import DataError
from mltrain.labels import LabelSet, compress
from mltrain.text import first_few

log = logging.getLogger(__name__)

# A list of numbers under one of these keys. Inside a JSON string the quotes would be escaped, so no string can match.
OUTLINE = re.compile(rb'"(segmentation|counts)"\s*:\s*\[[-+0-9.eE,\s\[\]]*\]')
GEOMETRY = re.compile(rb'"(segmentation|bbox|counts)"\s*:\s*\[[-+0-9.eE,\s\[\]]*\]')


def coco(
    *,
    name: str = "coco",
    root: str,
    year: Literal[2014, 2017] = 2014,
    keep_unlabelled: bool = False,
    annotations: str = "annotations/instances_{split}{year}.json",
    images: str = "{split}{year}",
    need_train: bool = True,
) -> Splits:
    """COCO train and val.

    Images (all / with at least one annotation), as commonly quoted: 2014 82,783 / 82,081 train, 40,504 / 40,137 val;
    2017 118,287 / 117,266 train, 5,000 / 4,952 val.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder with `annotations/` and the image folders.
        year: 2014 or 2017.
        keep_unlabelled: keep images without any annotation as all negative. The ASL family drops them, Query2Label
            keeps them.
        annotations: annotation file under `root`; ``{split}`` becomes train or val, ``{year}`` the year.
        images: image folder under `root`, with the same placeholders.
        need_train: the program sets it to False to evaluate; train may then have no images on disk, or no annotation
            file, and is empty in that case.

    Raises:
        DataError: files are missing or broken.
    """
    check_choice("year", year, (2014, 2017))
    files, folders = (
        {split: pattern.replace("{split}", split).replace("{year}", str(year)) for split in ("train", "val")}
        for pattern in (annotations, images)
    )
    splits = ("train", "val") if need_train else ("val",)
    require_paths(name, [Path(root, place[split]) for place in (files, folders) for split in splits], HOW)

    def read(split: str) -> LabelSet:
        return read_coco(
            root=root,
            keep_unlabelled=keep_unlabelled,
            annotation_file=files[split],
            image_dir=folders[split],
            name=f"{name}/{split}",
        )

    val = read("val")
    if not need_train and not storage.exists(Path(root, files["train"])):
        log.info("%s: no %s, so there are no training images, which evaluation does not need", name, files["train"])
        return Splits(val.select([], f"{name}/train"), val)
    train = read("train")
    return Splits(train, with_classes_of(train, val))


def with_classes_of(train: LabelSet, val: LabelSet) -> LabelSet:
    """Return val with the classes of train, matched by name; a category that only train lists is negative in val.

    Raises:
        DataError: an image of val has a class that train lacks.
    """
    if val.class_names == train.class_names:
        return val
    place = {one_spelling(name): k for k, name in enumerate(train.class_names)}
    columns = np.array([place.get(one_spelling(name), -1) for name in val.class_names])
    rows, listed, values = val.listed()
    foreign = [val.class_names[k] for k in np.unique(listed[columns[listed] < 0])]
    if foreign:
        raise DataError(
            f"{val.name}: {len(foreign)} categories with annotations are not among the {train.num_classes} of "
            f"{train.name}: {first_few(foreign)}. Classes are matched by name: use the same names in both annotation "
            "files, or add these to the categories of train"
        )
    log.info(
        "%s: lists %d categories where %s lists %d; matched by name; those that it does not list are negative",
        *(val.name, val.num_classes, train.name, train.num_classes),
    )
    return LabelSet(
        name=val.name,
        root=val.root,
        files=val.files,
        class_names=train.class_names,
        fill=val.fill,
        **compress(rows, columns[listed], values, len(val)),
    )


def read_coco(
    *,
    root: str | os.PathLike[str],
    year: int = 2014,
    split: str = "val",
    keep_unlabelled: bool = False,
    drop_degenerate: bool = False,
    annotation_file: str | None = None,
    image_dir: str | None = None,
    name: str | None = None,
) -> LabelSet:
    """Return one split; images are in the order of the annotation file.

    Args:
        root: folder that the two below are relative to.
        year: year in the official file names.
        split: split in the official file names.
        keep_unlabelled: keep images without any annotation as all negative.
        drop_degenerate: leave out annotations that are marked `ignore`, have no area, or have a box less than a pixel
            wide or high, as Distribution-Balanced Loss does.
        annotation_file: default ``annotations/instances_{split}{year}.json``.
        image_dir: default ``{split}{year}``.
        name: name of the LabelSet; default ``coco{year}/{split}``.

    Raises:
        DataError: the annotation file is missing, is not JSON, or is not in COCO's format.
    """
    path = Path(root, annotation_file or f"annotations/instances_{split}{year}.json")
    folder = Path(root, image_dir or f"{split}{year}")
    name = name or f"coco{year}/{split}"
    require_paths(name, [path], HOW)
    found = read_coco_file(path, drop_degenerate=drop_degenerate)
    return log_labels(coco_labels(found, path, folder, name, keep_unlabelled=keep_unlabelled))


def read_coco_file(path: Path, *, drop_degenerate: bool = False) -> Instances:
    """Read an annotation file in COCO's format; images are described by their file name. Raises DataError."""
    return read_instances(path, "COCO's detection format", "id, file_name", _file_name, drop_degenerate=drop_degenerate)


def coco_labels(found: Instances, path: Path, folder: Path, name: str, *, keep_unlabelled: bool) -> LabelSet:
    """Return the content of an annotation file as a LabelSet, images of one file as one image.

    Args:
        found: the content.
        path: the annotation file, for messages.
        folder: folder of the images.
        name: name of the LabelSet.
        keep_unlabelled: keep images without any annotation as all negative.
    """
    finder = ImageFinder(folder)
    files = [finder.find(file) for file in found.images]
    place: dict[str, int] = {}
    image_of = np.array([place.setdefault(finder.key(file), len(place)) for file in files])
    c, n = len(found.class_names), len(place)
    present = found.present
    if n < len(files):
        log.warning(
            "%s: %d images are listed under several ids; each is one image with the labels of all its ids",
            *(path, int((np.bincount(image_of) > 1).sum())),
        )
        files = [files[k] for k in np.unique(image_of, return_index=True)[1]]
        present = np.unique(image_of[present // c] * c + present % c)
    rows, columns = np.divmod(present, c)
    pairs = compress(rows, columns, np.ones(len(rows), dtype=np.int8), n)
    labels = LabelSet(name=name, root=folder, files=files, class_names=found.class_names, fill=0, **pairs)
    warn_of_case(found.class_names, path)
    labelled = np.unique(rows)
    if not len(labelled):
        log.warning("%s: no image has a label: %d images, %d categories and no annotation", path, n, c)
    if found.annotations > len(rows):
        log.info(
            "%s: %d annotations make %d labels, because several of one category in an image are one label",
            *(path, found.annotations, len(rows)),
        )
    if len(labelled) < n and keep_unlabelled:
        log.info(
            "%s: %d images without any annotation are negative for all classes (dataset.keep_unlabelled=false leaves "
            "them out)",
            *(name, n - len(labelled)),
        )
    elif len(labelled) < n:
        log.info("%s: %d images without any annotation left out (keep_unlabelled=false)", name, n - len(labelled))
        labels = labels.select(labelled)
    return labels


def _file_name(image: dict[str, Any]) -> str:
    file = image["file_name"]
    if not isinstance(file, str) or not file.strip():
        raise ValueError(f"file_name of image {image['id']} is {json.dumps(file)}")
    return file


def _degenerate(annotation: dict[str, Any]) -> bool:
    _, _, width, height = annotation["bbox"]
    return bool(annotation.get("ignore") or annotation["area"] <= 0 or width < 1 or height < 1)


class Instances(NamedTuple):
    """The content of an annotation file with N images and C categories."""

    images: list[Any]
    """N descriptions"""
    image_ids: np.ndarray
    """(N,), int64 or text"""
    class_names: list[str]
    category_ids: np.ndarray
    """(C,), int64 or text, ascending; the first id of a name"""
    present: np.ndarray
    """image * C + class of every image and category with an annotation, sorted, without repeats"""
    annotations: int
    """number of annotations"""


def read_instances(
    path: Path,
    title: str,
    image_keys: str,
    describe: Callable[[dict[str, Any]], Any],
    *,
    drop_degenerate: bool = False,
) -> Instances:
    """Read an annotation file in COCO's format or one derived from it.

    Args:
        path: the file.
        title: name of the format, for messages.
        image_keys: keys of an image that are read, for messages.
        describe: returns the description of an image to keep.
        drop_degenerate: as for `read_coco`.

    Raises:
        DataError: the file cannot be read or is not in this format.
    """
    zeroed = OUTLINE if drop_degenerate else GEOMETRY
    data = read_json_object(path, "a json object with images, categories and annotations", zeroed=zeroed)
    try:
        annotations = [entry for entry in data["annotations"] if not (drop_degenerate and _degenerate(entry))]
        categories = data["categories"]
        names = [str(entry["name"]) for entry in categories]
        known, category_ids = _ids(
            [entry["id"] for entry in categories], [entry["category_id"] for entry in annotations]
        )
        ids, image_ids = _ids([entry["id"] for entry in data["images"]], [entry["image_id"] for entry in annotations])
        images = [describe(entry) for entry in data["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not in {title} ({type(error).__name__}: {error}); expected the lists images ({image_keys}), "
            "categories (id, name) and annotations (image_id, category_id)"
        ) from error
    del data, annotations  # gigabytes for a large set
    if not len(ids) or not categories:
        raise DataError(f"{path}: lists {len(ids)} images and {len(categories)} categories; both are needed")
    order = sorted(range(len(known)), key=lambda k: _ordered(known[k]))
    known, names = known[order], [names[k] for k in order]
    rows, columns = positions(path, "image", ids, image_ids), positions(path, "category", known, category_ids)
    place: dict[str, int] = {}
    class_of = np.array([place.setdefault(one_spelling(label), len(place)) for label in names])
    first = np.unique(class_of, return_index=True)[1]
    if len(place) < len(names):
        twice = sorted({names[k] for k in range(len(names)) if k not in first})
        log.warning("%s: categories that share a name are one class: %s", path, first_few(twice))
    present = np.unique(rows * len(place) + class_of[columns])
    return Instances(images, ids, [names[k] for k in first], known[first], present, len(rows))


def _ordered(key: Any) -> tuple[bool, int, str]:
    """Return a sort key: ids by number, then ids that are other text."""
    text = str(key)
    is_number = text.removeprefix("-").isdecimal()
    return not is_number, int(text) if is_number else 0, text


def _ids(known: list[Any], used: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return two lists of ids as int64, or both as text if one of them does not fit.

    Raises:
        TypeError: an id is neither a number nor text.
    """
    if all(type(key) is int and -(1 << 63) <= key < 1 << 63 for keys in (known, used) for key in keys):
        return np.array(known, dtype=np.int64), np.array(used, dtype=np.int64)
    made = []
    for keys in (known, used):
        for key in keys:
            if isinstance(key, bool) or not isinstance(key, (int, str, float)):
                raise TypeError(f"the id {json.dumps(key)} is neither a number nor text")
        texts = [str(int(key)) if isinstance(key, float) and key.is_integer() else str(key) for key in keys]
        made.append(np.array(texts, dtype=np.str_))
    return made[0], made[1]


def positions(path: Path, what: str, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the position in `known` of every id in `wanted`."""
    order = np.argsort(known, kind="stable")
    ranked = known[order]
    if len(ranked) > 1 and (ranked[1:] == ranked[:-1]).any():
        twice = ranked[1:][ranked[1:] == ranked[:-1]]
        raise DataError(f"{path}: {what} id {twice[0]} appears more than once")
    at = np.minimum(np.searchsorted(ranked, wanted), len(ranked) - 1)
    wrong = ranked[at] != wanted
    if wrong.any():
        raise DataError(
            f"{path}: {int(wrong.sum())} annotations name an unknown {what} id, the first {wanted[wrong][0]}; "
            "the file mixes annotations of another set"
        )
    return order[at]
