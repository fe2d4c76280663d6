"""VOC-MLT and COCO-MLT, the long-tailed benchmarks of Distribution-Balanced Loss (Wu et al., ECCV 2020).

VOC-MLT trains on 1,142 images of VOC 2012 and is tested on VOC 2007 test; COCO-MLT trains on 1,909 images of COCO 2017
train and is tested on its val. The training set comes from a folder, which holds either a split that our tools wrote
(labels.csv, classes.txt) or the published files (`mlt_official`). The folder has ids and labels, so training needs no
annotation file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath

from mltrain.datasets import coco, voc
from mltrain.datasets.csv import read_csv
from mltrain.datasets.mlt_official import COCO_MLT, VOC_MLT, Benchmark, check_ids, read_official
from mltrain.datasets.reading import require_paths
from mltrain.datasets.sources import mlt_how
from mltrain.datasets.splits import Splits, check_fraction, hold_out, log_labels
from mltrain.errors import DataError
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)


def voc_mlt(*, name: str = "voc_mlt", root: str, split: str, val_fraction: float = 0.0, split_seed: int = 0) -> Splits:
    """VOC-MLT: a long-tailed part of VOC 2012 for training, VOC 2007 test (4,952 images) for testing.

    An object marked difficult counts as positive, as published. The published protocol has no validation set; papers
    that follow it choose epochs on the test set. Here val is the val part of the split if it has one, or else
    `val_fraction` of its training images, or else the test set.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that holds `VOCdevkit/` (or directly `VOC2007/`, `VOC2012/`); VOC 2012 needs its images only.
        split: folder with the training set (see above).
        val_fraction: above 0, val is this share of the split's training images, chosen by a hash of `split_seed` and
            the image id.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.

    Raises:
        DataError: files are missing, broken, or belong to another data set.
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

    As published, crowds count as positive, annotations without area or narrower than a pixel do not count, and test
    images without a label are kept. Validation as for `voc_mlt`.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that holds `train2017/`, `val2017/` and `annotations/instances_val2017.json`.
        split: folder with the training set (see above).
        val_fraction: as for `voc_mlt`.
        split_seed: as for `voc_mlt`.

    Raises:
        DataError: files are missing, broken, or belong to another data set.
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
    benchmark: Benchmark, split: str, root: str | os.PathLike[str], name: str, val_fraction: float, split_seed: int
) -> tuple[LabelSet, LabelSet | None]:
    """Return train and, if there is one, val."""
    check_fraction(val_fraction)
    folder, val = Path(split), None
    train_name = f"{name}/{'split' if val_fraction > 0 else 'train'}"
    if (folder / "labels.csv").is_file():
        # The class names of the benchmarks have no semicolon, so a folder of `longtail.write_split` is plain csv.
        file, classes = folder / "labels.csv", folder / "classes.txt"
        train = _place(benchmark, read_csv(file, classes=classes, split="train", name=train_name), file, root)
        if (folder / "val_image_ids.txt").is_file():
            val = _place(benchmark, read_csv(file, classes=classes, split="val", name=f"{name}/val"), file, root)
    elif (folder / "class_freq.pkl").is_file():
        official = read_official(folder, root=root, name=train_name)
        if official.benchmark is not benchmark:
            raise DataError(f"{folder}: holds {official.benchmark.title}, not {benchmark.title}")
        train = official.labels
    else:
        raise DataError(f"{folder}: holds no split: neither labels.csv nor class_freq.pkl. {mlt_how(benchmark.folder)}")
    if val_fraction == 0:
        return train, val
    if val is not None:
        raise DataError(f"{folder}: has a validation part of {len(val)} images already; dataset.val_fraction=0 uses it")
    train, val = hold_out(train, val_fraction, split_seed, name, keys=_ids(train))
    return log_labels(train), log_labels(val)


def _ids(labels: LabelSet) -> list[str]:
    return [PurePosixPath(file).stem for file in labels.files]


def _place(benchmark: Benchmark, labels: LabelSet, path: Path, root: str | os.PathLike[str]) -> LabelSet:
    """Return the same images and targets with the image files of the benchmark, which follow from the ids."""
    if labels.class_names != benchmark.class_names:
        raise DataError(
            f"{path}: has {labels.num_classes} classes ({', '.join(labels.class_names[:3])}, ...), {benchmark.title} "
            f"has the {len(benchmark.class_names)} of {benchmark.source}; for a split of other data: dataset=csv "
            f"dataset.file={path} dataset.root=FOLDER"
        )
    ids = _ids(labels)
    check_ids(benchmark, ids, path)
    return LabelSet.from_dense(
        name=labels.name,
        root=root,
        files=[benchmark.file(image_id) for image_id in ids],
        class_names=labels.class_names,
        targets=labels.dense(),
    )
