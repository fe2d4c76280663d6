"""LVIS v1 (Gupta et al., CVPR 2019, arXiv:1908.03195): 1,203 categories on the images of COCO 2017.

Annotators checked each image for some categories only. A category with an annotation is positive, even if the list
`not_exhaustive_category_ids` says that not every object of it is outlined. A category in `neg_category_ids` was looked
for and not found: it is negative. Every other category is unknown (-1).

Classes are in the order of ascending category id.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mltrain.datasets.coco import positions, read_instances
from mltrain.datasets.reading import check_choice, require_paths
from mltrain.datasets.sources import LVIS_HOW as HOW
from mltrain.datasets.splits import Splits, log_labels, without_train
from mltrain.errors import DataError
from mltrain.labels import LabelSet, compress

IMAGE = re.compile(r"(train|val|test)2017/[^/]+\.jpg")


def lvis(
    *,
    name: str = "lvis",
    root: str,
    annotations: str = "annotations/lvis_v1_{split}.json",
    train_absent: Literal["unknown", "negative"] = "unknown",
    need_train: bool = True,
) -> Splits:
    """LVIS train and val: 100,170 and 19,809 images as commonly quoted; the labels of its test sets are not public.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder with `train2017/` and `val2017/`.
        annotations: annotation file under `root`; ``{split}`` becomes train or val.
        train_absent: target, in train only, of a category that nobody looked for in the image: unknown (-1) or negative
            (0). In val it is always unknown.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken.
    """
    paths = {split: Path(root, annotations.replace("{split}", split)) for split in ("train", "val")}
    if not need_train and not paths["train"].exists():
        del paths["train"]
    images = ["train2017", "val2017"] if need_train else []  # those of val are in both: each is looked for later
    require_paths(name, [*paths.values(), *(Path(root, folder) for folder in images)], HOW)
    val = read_lvis(paths["val"], root=root, name=f"{name}/val")
    if "train" not in paths:
        return Splits(without_train(name, val), val)
    return Splits(read_lvis(paths["train"], root=root, absent=train_absent, name=f"{name}/train"), val)


def read_lvis(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str],
    absent: Literal["unknown", "negative"] = "unknown",
    name: str | None = None,
) -> LabelSet:
    """Return the images of one annotation file, in its order, including those without an annotation.

    Args:
        path: such as ``lvis_v1_val.json``.
        root: folder with `train2017/` and `val2017/`.
        absent: target of a category that nobody looked for in the image.
        name: name of the LabelSet; default: the name of the file.

    Raises:
        DataError: the file is missing or broken, or calls a category of an image both present and absent.
    """
    check_choice("absent", absent, ("unknown", "negative"))
    path = Path(path)
    require_paths(name or path.stem, [path], HOW)
    found = read_instances(path, "the format of LVIS v1", "id, coco_url, neg_category_ids", _describe)
    files, absent_ids = zip(*found.images, strict=True)
    n, c = len(files), len(found.class_names)
    if len(set(files)) < n:
        raise DataError(f"{path}: {n - len(set(files))} images are listed under several ids; get the file again")
    rows = np.repeat(np.arange(n), [len(ids) for ids in absent_ids])
    negative_ids = np.array([key for ids in absent_ids for key in ids], dtype=np.int64)
    missing = np.unique(rows * c + positions(path, "category", found.category_ids, negative_ids))
    both = np.intersect1d(found.present, missing)
    if len(both):
        row, column = divmod(int(both[0]), c)
        raise DataError(
            f"{path}: {len(both)} categories of an image are both annotated and in its neg_category_ids, the first "
            f"{found.class_names[column]!r} of {files[row]} (image {found.image_ids[row]}); get the file again"
        )
    fill = 0 if absent == "negative" else -1
    listed = found.present if fill == 0 else np.concatenate([found.present, missing])
    targets = (np.arange(len(listed)) < len(found.present)).astype(np.int8)
    pairs = compress(listed // c, listed % c, targets, n)
    return log_labels(
        LabelSet(name=name or path.stem, root=root, files=files, class_names=found.class_names, fill=fill, **pairs)
    )


def _describe(image: dict[str, Any]) -> tuple[str, list[int]]:
    """Return the path in COCO's folder and the negative category ids.

    The path is part of the address, such as http://images.cocodataset.org/train2017/000000391895.jpg.
    """
    file = "/".join(image["coco_url"].split("/")[-2:])
    if IMAGE.fullmatch(file) is None:
        raise ValueError(f"coco_url {image['coco_url']!r} of image {image['id']} names no image of COCO 2017")
    return file, [int(key) for key in image["neg_category_ids"]]
