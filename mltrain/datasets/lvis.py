"""LVIS v1 (Gupta et al., CVPR 2019, arXiv:1908.03195): 1,203 categories on the images of COCO 2017.

Each image was checked for some categories only. A category with an annotation is positive, also when the list
`not_exhaustive_category_ids` says that not every object of it is outlined. One in `neg_category_ids` was looked for and
is not there: negative. Every other is unknown (-1).

Classes are in the order of ascending category id.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mltrain.datasets.coco import GEOMETRY, load_json, positions
from mltrain.datasets.sources import LVIS_HOW as HOW
from mltrain.datasets.splits import Splits, log_labels, require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet

IMAGE = re.compile(r"(train|val|test)2017/[^/]+\.jpg")


def lvis(
    *,
    name: str = "lvis",
    root: str,
    annotations: str = "annotations/lvis_v1_{split}.json",
    train_absent: Literal["unknown", "negative"] = "unknown",
) -> Splits:
    """LVIS train and val: 100,170 and 19,809 images as commonly quoted. The labels of its test sets are not public.

    Args:
        name: of the LabelSets and the run folder.
        root: folder with `train2017/` and `val2017/`.
        annotations: annotation file under `root`; ``{split}`` becomes train or val.
        train_absent: target, in train only, of a category that the image was not checked for: unknown (-1) or negative
            (0). In val it is always unknown.

    Raises:
        DataError: files are missing or broken.
    """
    paths = {split: Path(root, annotations.replace("{split}", split)) for split in ("train", "val")}
    require_paths(name, [*paths.values(), Path(root, "train2017"), Path(root, "val2017")], HOW)
    return Splits(
        read_lvis(paths["train"], root=root, absent=train_absent, name=f"{name}/train"),
        read_lvis(paths["val"], root=root, name=f"{name}/val"),
    )


def read_lvis(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str],
    absent: Literal["unknown", "negative"] = "unknown",
    name: str | None = None,
) -> LabelSet:
    """One annotation file as a LabelSet; images in the order of the file, also those without an annotation.

    Args:
        path: such as ``lvis_v1_val.json``.
        root: folder with `train2017/` and `val2017/`.
        absent: target of a category that the image was not checked for.
        name: of the LabelSet; default: the name of the file.

    Raises:
        DataError: the file is missing or broken, or calls a category of an image both present and absent.
    """
    if absent not in ("unknown", "negative"):
        raise ValueError(f"absent must be unknown or negative, got {absent!r}")
    path = Path(path)
    require_paths(name or path.stem, [path], HOW)
    data = load_json(path, GEOMETRY)
    try:
        categories = sorted((int(entry["id"]), str(entry["name"])) for entry in data["categories"])
        ids = np.array([entry["id"] for entry in data["images"]], dtype=np.int64)
        files = [_file(entry) for entry in data["images"]]
        absent_ids = [entry["neg_category_ids"] for entry in data["images"]]
        image_ids = np.array([entry["image_id"] for entry in data["annotations"]], dtype=np.int64)
        category_ids = np.array([entry["category_id"] for entry in data["annotations"]], dtype=np.int64)
        counts = np.array([len(listed) for listed in absent_ids], dtype=np.int64)
        negative_ids = np.array([key for listed in absent_ids for key in listed], dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: not in the format of LVIS v1 ({type(error).__name__}: {error}); expected the lists images (id, "
            "coco_url, neg_category_ids), categories (id, name) and annotations (image_id, category_id)"
        ) from error
    del data
    if not len(ids) or not categories:
        raise DataError(f"{path}: lists {len(ids)} images and {len(categories)} categories; both are needed")
    n, c = len(ids), len(categories)
    known = np.array([key for key, _ in categories], dtype=np.int64)
    present = np.unique(positions(path, "image", ids, image_ids) * c + positions(path, "category", known, category_ids))
    missing = np.unique(np.repeat(np.arange(n), counts) * c + positions(path, "category", known, negative_ids))
    both = np.intersect1d(present, missing)
    if len(both):
        row, col = divmod(int(both[0]), c)
        raise DataError(
            f"{path}: {len(both)} categories of an image are both annotated and in its neg_category_ids, the first "
            f"{categories[col][1]!r} of {files[row]} (image {ids[row]}); get the file again"
        )
    fill = 0 if absent == "negative" else -1
    listed = present if fill == 0 else np.concatenate([present, missing])
    order = np.argsort(listed, kind="stable")
    return log_labels(
        LabelSet(
            name=name or path.stem,
            root=root,
            files=files,
            class_names=[label for _, label in categories],
            indptr=np.searchsorted(listed[order] // c, np.arange(n + 1)),
            indices=listed[order] % c,
            values=(order < len(present)).astype(np.int8),
            fill=fill,
        )
    )


def _file(image: dict[str, Any]) -> str:
    """Path below COCO's folder, from an address such as http://images.cocodataset.org/train2017/000000391895.jpg."""
    file = "/".join(image["coco_url"].split("/")[-2:])
    if IMAGE.fullmatch(file) is None:
        raise ValueError(f"coco_url {image['coco_url']!r} of image {image['id']} names no image of COCO 2017")
    return file
