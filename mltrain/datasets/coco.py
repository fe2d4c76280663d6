"""COCO 2014 and 2017, and any other set in COCO's detection format (Lin et al., ECCV 2014, arXiv:1405.0312).

A category is positive for an image that has an annotation of it, crowds (`iscrowd`) included. Every category is
annotated exhaustively, so all others are negative. Classes are in the order of ascending category id.

The JSON is parsed directly, without the outlines and boxes that make up most of it: about 3 times faster than
`pycocotools.COCO`, and in less memory. The tests compare the result with pycocotools.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

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

    Raises:
        DataError: files are missing or broken.
    """
    check_choice("year", year, (2014, 2017))
    files, folders = (
        {split: pattern.replace("{split}", split).replace("{year}", str(year)) for split in ("train", "val")}
        for pattern in (annotations, images)
    )
    require_paths(name, [Path(root, place) for place in (*files.values(), *folders.values())], HOW)
    train, val = (
        read_coco(
            root=root,
            keep_unlabelled=keep_unlabelled,
            annotation_file=files[split],
            image_dir=folders[split],
            name=f"{name}/{split}",
        )
        for split in ("train", "val")
    )
    return Splits(train, val)


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
    keys, title = "id, file_name", "COCO's detection format"
    found = read_instances(path, title, keys, lambda image: image["file_name"], drop_degenerate=drop_degenerate)
    rows, columns = np.divmod(found.present, len(found.class_names))
    n = len(found.images)
    pairs = compress(rows, columns, np.ones(len(rows), dtype=np.int8), n)
    labels = LabelSet(name=name, root=folder, files=found.images, class_names=found.class_names, fill=0, **pairs)
    labelled = np.unique(rows)
    if not keep_unlabelled and len(labelled) < n:
        log.info("%s: %d images without any annotation left out (keep_unlabelled=false)", name, n - len(labelled))
        labels = labels.select(labelled)
    return log_labels(labels)


def _degenerate(annotation: dict[str, Any]) -> bool:
    _, _, width, height = annotation["bbox"]
    return bool(annotation.get("ignore") or annotation["area"] <= 0 or width < 1 or height < 1)


class Instances(NamedTuple):
    """The content of an annotation file with N images and C categories."""

    images: list[Any]
    """N descriptions"""
    image_ids: np.ndarray
    """int64 (N,)"""
    class_names: list[str]
    category_ids: np.ndarray
    """int64 (C,), ascending"""
    present: np.ndarray
    """image * C + class of every image and category with an annotation, sorted, without repeats"""


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
        categories = sorted((int(entry["id"]), str(entry["name"])) for entry in data["categories"])
        ids = np.array([entry["id"] for entry in data["images"]], dtype=np.int64)
        images = [describe(entry) for entry in data["images"]]
        image_ids = np.array([entry["image_id"] for entry in annotations], dtype=np.int64)
        category_ids = np.array([entry["category_id"] for entry in annotations], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not in {title} ({type(error).__name__}: {error}); expected the lists images ({image_keys}), "
            "categories (id, name) and annotations (image_id, category_id)"
        ) from error
    del data, annotations  # gigabytes for a large set
    if not len(ids) or not categories:
        raise DataError(f"{path}: lists {len(ids)} images and {len(categories)} categories; both are needed")
    names = [label for _, label in categories]
    if len(set(names)) != len(names):
        twice = sorted({label for label in names if names.count(label) > 1})
        raise DataError(f"{path}: categories share a name: {first_few(twice)}")
    known = np.array([key for key, _ in categories], dtype=np.int64)
    rows, columns = positions(path, "image", ids, image_ids), positions(path, "category", known, category_ids)
    return Instances(images, ids, names, known, np.unique(rows * len(names) + columns))


def positions(path: Path, what: str, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the position in `known` of every id in `wanted`."""
    order = np.argsort(known, kind="stable")
    ranked = known[order]
    if len(ranked) > 1 and (ranked[1:] == ranked[:-1]).any():
        twice = ranked[1:][ranked[1:] == ranked[:-1]]
        raise DataError(f"{path}: {what} id {int(twice[0])} appears more than once")
    at = np.minimum(np.searchsorted(ranked, wanted), len(ranked) - 1)
    wrong = ranked[at] != wanted
    if wrong.any():
        raise DataError(
            f"{path}: {int(wrong.sum())} annotations name an unknown {what} id, the first {int(wanted[wrong][0])}; "
            "the file mixes annotations of another set"
        )
    return order[at]
