"""VOC-MLT and COCO-MLT, the long-tailed benchmarks of Distribution-Balanced Loss (Wu et al., ECCV 2020).

VOC-MLT trains on 1,142 images of VOC 2012 and is tested on VOC 2007 test; COCO-MLT trains on 1,909 images of COCO 2017
train and is tested on its val. The training set is a folder: one that our tools wrote (labels.csv, classes.txt), or the
published files as they are (`mlt_official`). Ids and labels come from it: no annotation file is needed to train.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path, PurePosixPath

import numpy as np

from mltrain.datasets import coco, voc
from mltrain.datasets.csv import read_csv
from mltrain.datasets.mlt_official import COCO_MLT, VOC_MLT, Benchmark, check_ids, read_official
from mltrain.datasets.sources import mlt_how
from mltrain.datasets.splits import Splits, log_labels, require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)


def voc_mlt(*, name: str = "voc_mlt", root: str, split: str, val_fraction: float = 0.0, split_seed: int = 0) -> Splits:
    """VOC-MLT: a long-tailed part of VOC 2012 for training, VOC 2007 test (4,952 images) for testing.

    An object marked difficult counts as positive, as published. The published protocol has no validation set and its
    followers choose epochs on the test set; here validation is the val part of the split where it has one, else
    `val_fraction` of it, and only where there is neither the test set.

    Args:
        name: of the LabelSets and the run folder.
        root: folder that holds `VOCdevkit/` (or directly `VOC2007/`, `VOC2012/`); of VOC 2012 only the images are used.
        split: folder with the training set (see above).
        val_fraction: above 0, this share of the split's training images becomes the validation set, chosen by a hash
            of `split_seed` and the image id.
        split_seed: of that choice; independent of the run's seed, so that runs of several seeds share their val set.

    Raises:
        DataError: files are missing, broken, or of another data set.
    """
    devkit = voc.find_devkit(root)
    require_paths(
        name,
        [split, devkit / "VOC2012" / "JPEGImages", *voc.part_paths(root, 2007, "test")],
        f"{mlt_how(VOC_MLT.folder)}\nThe images: {voc.HOW}",
    )
    train, val = _read_training(VOC_MLT, split, devkit, name, val_fraction, split_seed)
    test = voc.read_voc(root=root, parts=[(2007, "test")], difficult="positive", name=f"{name}/test")
    return _splits(train, val, test)


def coco_mlt(
    *, name: str = "coco_mlt", root: str, split: str, val_fraction: float = 0.0, split_seed: int = 0
) -> Splits:
    """COCO-MLT: a long-tailed part of COCO 2017 train for training, COCO 2017 val (5,000 images) for testing.

    Crowds count as positive, annotations without area or narrower than a pixel do not, and test images without a label
    are kept, as published. Validation as for `voc_mlt`.

    Args:
        name: of the LabelSets and the run folder.
        root: folder that holds `train2017/`, `val2017/` and `annotations/instances_val2017.json`.
        split: folder with the training set (see above).
        val_fraction: as for `voc_mlt`.
        split_seed: as for `voc_mlt`.

    Raises:
        DataError: files are missing, broken, or of another data set.
    """
    annotations = "annotations/instances_val2017.json"
    require_paths(
        name,
        [split, *(Path(root, place) for place in ("train2017", "val2017", annotations))],
        f"{mlt_how(COCO_MLT.folder)}\nThe images: {coco.HOW}",
    )
    train, val = _read_training(COCO_MLT, split, root, name, val_fraction, split_seed)
    test = coco.read_coco(
        root=root, year=2017, split="val", keep_unlabelled=True, drop_degenerate=True, name=f"{name}/test"
    )
    return _splits(train, val, test)


def _splits(train: LabelSet, val: LabelSet | None, test: LabelSet) -> Splits:
    if val is not None:
        return Splits(train, val, test)
    log.info(
        "%s: no validation set (as published), so %s stands in for it; dataset.val_fraction=0.1 holds one out",
        train.name,
        test.name,
    )
    return Splits(train, test)


# -- the training set ------------------------------------------------------------------------------------------------


def _read_training(
    benchmark: Benchmark,
    split: str,
    root: str | os.PathLike[str],
    name: str,
    val_fraction: float,
    split_seed: int,
) -> tuple[LabelSet, LabelSet | None]:
    """Train and, where there is one, val."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    folder, val = Path(split), None
    whole = f"{name}/{'split' if val_fraction > 0 else 'train'}"
    if (folder / "labels.csv").is_file():
        train, val = _read_ours(benchmark, folder, root, whole, f"{name}/val")
    elif (folder / "class_freq.pkl").is_file():
        official = read_official(folder, root=root, name=whole)
        if official.benchmark is not benchmark:
            raise DataError(f"{folder}: holds {official.benchmark.title}, not {benchmark.title}")
        train = official.labels
    else:
        raise DataError(f"{folder}: holds no split: neither labels.csv nor class_freq.pkl. {mlt_how(benchmark.folder)}")
    if val is None and val_fraction > 0:
        train, val = _hold_out(train, val_fraction, split_seed, name)
    elif val_fraction > 0:
        raise DataError(
            f"{folder}: has a validation part of {len(val or ())} images already; dataset.val_fraction=0 uses it"
        )
    return train, val


def _read_ours(
    benchmark: Benchmark, folder: Path, root: str | os.PathLike[str], train_name: str, val_name: str
) -> tuple[LabelSet, LabelSet | None]:
    """A folder of `mltrain.longtail.write_split`; its class names have no semicolon, so it is plain csv."""
    file, classes = folder / "labels.csv", folder / "classes.txt"
    train = read_csv(file, classes=classes, split="train", name=train_name)
    if not (folder / "val_image_ids.txt").is_file():
        return _place(benchmark, train, file, root), None
    val = read_csv(file, classes=classes, split="val", name=val_name)
    return _place(benchmark, train, file, root), _place(benchmark, val, file, root)


def _place(benchmark: Benchmark, labels: LabelSet, path: Path, root: str | os.PathLike[str]) -> LabelSet:
    """The same images and targets, with the files where the benchmark's images are: only the ids are kept."""
    if labels.class_names != benchmark.class_names:
        raise DataError(
            f"{path}: has {labels.num_classes} classes ({', '.join(labels.class_names[:3])}, ...), {benchmark.title} "
            f"has the {len(benchmark.class_names)} of {benchmark.source}; for a split of other data: dataset=csv "
            f"dataset.file={path} dataset.root=FOLDER"
        )
    ids = [PurePosixPath(labels.file(i)).stem for i in range(len(labels))]
    check_ids(benchmark, ids, path)
    return LabelSet.from_dense(
        name=labels.name,
        root=root,
        files=[benchmark.file(image_id) for image_id in ids],
        class_names=labels.class_names,
        targets=labels.dense(),
    )


def _hold_out(labels: LabelSet, fraction: float, seed: int, name: str) -> tuple[LabelSet, LabelSet]:
    count = round(len(labels) * fraction)
    if not 0 < count < len(labels):
        raise DataError(f"{name}: dataset.val_fraction={fraction} of {len(labels)} images leaves train or val empty")
    ids = [PurePosixPath(labels.file(i)).stem for i in range(len(labels))]
    ranked = sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"{seed}\0{ids[i]}".encode()).digest())
    held = np.zeros(len(labels), dtype=bool)
    held[ranked[:count]] = True
    train = log_labels(labels.select(np.flatnonzero(~held), f"{name}/train"))
    return train, log_labels(labels.select(np.flatnonzero(held), f"{name}/val"))
