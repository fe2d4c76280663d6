"""COCO 2014 and 2017, and any other set in COCO's detection format (Lin et al., ECCV 2014, arXiv:1405.0312).

A category is positive for an image when the image has an annotation of it, crowds (`iscrowd`) included. Every category
is annotated exhaustively, so all others are negative. Classes are in the order of ascending category id.

The json is parsed directly, without the outlines and boxes that make up most of it: about 3 times faster than through
`pycocotools.COCO`, in less memory, and nothing is printed. The tests compare with pycocotools.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mltrain.datasets.sources import COCO_HOW as HOW
from mltrain.datasets.splits import Splits, log_labels, require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)

# A list of numbers under one of these keys. Inside a json string the quotes would be escaped, so no string can match.
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
        name: of the LabelSets and the run folder.
        root: folder with `annotations/` and the image folders.
        year: 2014 or 2017.
        keep_unlabelled: keep images without any annotation as all negative. The ASL family drops them, Query2Label
            keeps them.
        annotations: annotation file under `root`; ``{split}`` becomes train or val, ``{year}`` the year.
        images: image folder under `root`, in the same way.

    Raises:
        DataError: files are missing or broken.
    """
    if year not in (2014, 2017):
        raise ValueError(f"year must be 2014 or 2017, got {year!r}")
    files, folders = (
        {split: pattern.replace("{split}", split).replace("{year}", str(year)) for split in ("train", "val")}
        for pattern in (annotations, images)
    )
    require_paths(name, [Path(root, place) for place in (*files.values(), *folders.values())], HOW)
    train, val = (
        read_coco(
            root=root,
            year=year,
            split=split,
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
    """One split as a LabelSet; images in the order of the annotation file.

    Args:
        root: folder that the two below are relative to.
        year: of the official file names.
        split: of the official file names.
        keep_unlabelled: keep images without any annotation as all negative.
        drop_degenerate: leave out annotations marked `ignore`, without area, or with a box of less than a pixel in
            width or height, as Distribution-Balanced Loss does.
        annotation_file: default ``annotations/instances_{split}{year}.json``.
        image_dir: default ``{split}{year}``.
        name: of the LabelSet; default ``coco{year}/{split}``.

    Raises:
        DataError: the annotation file is missing, is not json, or is not in COCO's format.
    """
    path = Path(root, annotation_file or f"annotations/instances_{split}{year}.json")
    folder = Path(root, image_dir or f"{split}{year}")
    require_paths(name or f"coco{year}/{split}", [path], HOW)
    data = load_json(path, OUTLINE if drop_degenerate else GEOMETRY)
    try:
        if drop_degenerate:
            data["annotations"] = [entry for entry in data["annotations"] if not _degenerate(entry)]
        categories = sorted((int(entry["id"]), str(entry["name"])) for entry in data["categories"])
        ids = np.array([entry["id"] for entry in data["images"]], dtype=np.int64)
        files = [entry["file_name"] for entry in data["images"]]
        image_ids = np.array([entry["image_id"] for entry in data["annotations"]], dtype=np.int64)
        category_ids = np.array([entry["category_id"] for entry in data["annotations"]], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not in COCO's detection format ({type(error).__name__}: {error}); expected the lists images (id, "
            "file_name), categories (id, name) and annotations (image_id, category_id)"
        ) from error
    del data
    names = [label for _, label in categories]
    if len(set(names)) != len(names):
        twice = sorted({label for label in names if names.count(label) > 1})
        raise DataError(f"{path}: categories share a name: {', '.join(twice[:5])}")
    if not len(ids) or not categories:
        raise DataError(f"{path}: lists {len(ids)} images and {len(categories)} categories; both are needed")
    rows = positions(path, "image", ids, image_ids)
    cols = positions(path, "category", np.array([key for key, _ in categories], dtype=np.int64), category_ids)
    n, c = len(ids), len(categories)
    key = np.unique(rows * c + cols)
    rows, cols = key // c, key % c
    labels = LabelSet(
        name=name or f"coco{year}/{split}",
        root=folder,
        files=files,
        class_names=names,
        indptr=np.searchsorted(rows, np.arange(n + 1)),
        indices=cols,
        values=np.ones(len(cols), dtype=np.int8),
    )
    if not keep_unlabelled:
        labelled = np.unique(rows)
        if len(labelled) < n:
            log.info(
                "%s: %d images without any annotation left out (keep_unlabelled=false)", labels.name, n - len(labelled)
            )
            labels = labels.select(labelled)
    return log_labels(labels)


def load_json(path: Path, left_out: re.Pattern[bytes]) -> dict[str, Any]:
    """An annotation file, with what `left_out` matches (`GEOMETRY`, `OUTLINE`) replaced by 0."""
    try:
        data = json.loads(left_out.sub(rb'"\1":0', path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken json ({error}); incomplete download? Get the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(data, dict):
        raise DataError(
            f"{path}: expected a json object with images, categories and annotations, found a {type(data).__name__}"
        )
    return data


def _degenerate(annotation: dict[str, Any]) -> bool:
    _, _, width, height = annotation["bbox"]
    return bool(annotation.get("ignore") or annotation["area"] <= 0 or width < 1 or height < 1)


def positions(path: Path, what: str, known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Position in `known` of every id in `wanted`."""
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
