"""The label tables of Distribution-Balanced Loss, from which its authors made VOC-MLT and COCO-MLT.

`terse_gt_2012.pkl` (VOC 2012 trainval, 11,540 images, 20 classes) and `terse_gt_2017.pkl` (COCO 2017 train, 80 classes)
are pickles of a dict:

    gt_labels        0/1 targets of each image
    idx2img_id       image ids, in the order of gt_labels
    img_id2idx       image id -> position
    test_gt_labels   targets of the test images, without their ids (COCO only); not read

They are read without unpickling (`safe_pickle`).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from mltrain.datasets import mlt, sources, voc
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits, check_fraction, log_labels, make_splits
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.safe_pickle import read_pickle

log = logging.getLogger(__name__)

KEYS = ("gt_labels", "idx2img_id", "img_id2idx")
MAX_BYTES = 2**30
MAX_INSTRUCTIONS = 20_000_000
"""COCO's table has 118,287 arrays, of some 30 instructions each"""
HOW = (
    "terse_gt_2012.pkl (VOC) and terse_gt_2017.pkl (COCO) are linked in the README of "
    f"{sources.MLT_PAGE}. To use another place: dataset.file=FILE, and dataset.root=FOLDER of the images"
)


def terse_gt(
    *,
    name: str = "terse_gt",
    file: str,
    root: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_val: bool = True,
) -> Splits:
    """Images of a table as train, of which `val_fraction` are held out as val; made for `method=published`.

    Args:
        name: name of the LabelSets and the run folder.
        file: terse_gt_2012.pkl or terse_gt_2017.pkl.
        root: folder of the images, with `VOCdevkit/` or `train2017/`; None: the folder of `file`.
        val_fraction: above 0, val is this share of the images, chosen by a hash of `split_seed` and the path.
        split_seed: seed of that choice.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.

    Raises:
        DataError: the file is missing, holds more than plain data, or contradicts itself; or there is no val.
    """
    check_fraction(val_fraction)
    require_paths(name, [file], HOW)
    labels = read_terse_gt(file, root=root, name=f"{name}/train")
    if val_fraction == 0 and need_val:
        raise DataError(f"{file}: has training images only; dataset.val_fraction=0.1 holds some of them out")
    if val_fraction == 0:
        return Splits(log_labels(labels), labels.select([], f"{name}/val"))
    return make_splits(name, {"train": labels}, val_fraction=val_fraction, split_seed=split_seed)


def read_terse_gt(file: str | Path, *, root: str | Path | None = None, name: str | None = None) -> LabelSet:
    """Return the images of a table in its order; arguments as for `terse_gt`.

    Raises:
        DataError: the file cannot be read, holds more than plain data, or contradicts itself.
    """
    path = Path(file)
    content = read_pickle(path, MAX_BYTES, MAX_INSTRUCTIONS)
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}; a table has {', '.join(KEYS)}")
    targets = mlt.targets_of(path, content["gt_labels"])
    n, c = targets.shape
    benchmark = next((known for known in (mlt.VOC_MLT, mlt.COCO_MLT) if len(known.class_names) == c), None)
    if benchmark is None:
        raise DataError(f"{path}: {c} classes; VOC has 20 and COCO 80")
    ids, places = content["idx2img_id"], content["img_id2idx"]
    if not isinstance(ids, list) or len(ids) != n:
        raise DataError(f"{path}: idx2img_id is no list of the ids of the {n} images of gt_labels")
    ids = [str(image) for image in ids]
    expected = {image: k for k, image in enumerate(ids)}
    if len(expected) < n:
        raise DataError(f"{path}: {n - len(expected)} ids of idx2img_id are there twice")
    if not isinstance(places, dict) or {str(image): int(k) for image, k in places.items()} != expected:
        raise DataError(f"{path}: img_id2idx contradicts idx2img_id, so which labels are whose is not clear")
    mlt.check_ids(benchmark, ids, path)
    if "test_gt_labels" in content:
        log.info("%s: its test_gt_labels name no images, and are left out", path)
    folder = Path(root) if root is not None else path.parent
    return LabelSet.from_dense(
        name=name or path.stem,
        root=voc.find_devkit(folder) if benchmark is mlt.VOC_MLT else folder,
        files=[benchmark.file(image) for image in ids],
        class_names=benchmark.class_names,
        targets=targets.astype(np.int8),
    )
