"""VOC-MLT and COCO-MLT, the long-tailed benchmarks of Distribution-Balanced Loss (Wu et al., ECCV 2020,
arXiv:2007.09654).

VOC-MLT trains on 1,142 images of VOC 2012 and is tested on VOC 2007 test; COCO-MLT trains on 1,909 images of COCO 2017
train and is tested on its val. The training set comes from a folder, which holds either a split that our tools wrote
(labels.csv, classes.txt) or the published files:

    class_freq.pkl     gt_labels (0/1 targets of each image), class_freq, neg_class_freq, condition_prob
    class_split.pkl    head, middle, tail: class indices
    img_id.txt         one image id per line, in the order of gt_labels; COCO's is called img_id.pkl, and is text too

Either has ids and labels, so training needs no annotation file; this module adds class names and image files. The
pickles are read without unpickling (`safe_pickle`), and every number in them is checked against the labels.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mltrain.datasets import coco, sources, voc
from mltrain.datasets.csv import read_csv
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits, check_fraction, hold_out, log_labels
from mltrain.errors import DataError
from mltrain.labels import LabelSet, LabelStats, differences
from mltrain.safe_pickle import read_pickle
from mltrain.text import part_of

log = logging.getLogger(__name__)

# fmt: off
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on

OFFICIAL_KEYS = ("gt_labels", "class_freq", "neg_class_freq", "condition_prob")
OFFICIAL_GROUPS = {"head": "head", "medium": "middle", "tail": "tail"}  # our name -> that of class_split.pkl
OFFICIAL_BOUNDS = (100, 20)  # head: at least 100 training positives, medium: at least 20
PUBLISHED = sources.MLT_PAGE


@dataclass(frozen=True)
class Benchmark:
    """Class names and image files of a benchmark, which the published files leave out."""

    title: str
    class_names: tuple[str, ...]
    source: str
    """data set that the images come from"""
    image_id: re.Pattern[str]
    example: str
    image: str
    """image file of an id, relative to the root of the source; a number is padded"""
    folder: str
    """folder of the published files in their repository"""

    def file(self, image_id: str) -> str:
        """Return the image file of an id."""
        return self.image.format(int(image_id) if image_id.isdigit() else image_id)


VOC_MLT = Benchmark(
    title="VOC-MLT",
    class_names=voc.CLASSES,
    source="VOC 2012",
    image_id=re.compile(r"[0-9]{4}_[0-9]{6}"),
    example="2008_000023",
    image="VOC2012/JPEGImages/{}.jpg",
    folder=sources.VOC_MLT_FOLDER,
)
COCO_MLT = Benchmark(
    title="COCO-MLT",
    class_names=COCO_CLASSES,
    source="COCO 2017",
    image_id=re.compile(r"[0-9]{1,12}"),
    example="554625",
    image="train2017/{:012d}.jpg",
    folder=sources.COCO_MLT_FOLDER,
)


def voc_mlt(
    *,
    name: str = "voc_mlt",
    root: str,
    split: str,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
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
        need_train: the program sets it to False to evaluate; the training images may then be missing. Without `split`
            there is no training set then, and classes are in no group (head, medium, tail).

    Raises:
        DataError: files are missing, broken, or belong to another data set.
    """
    devkit = voc.find_devkit(root)
    without = not need_train and not Path(split).exists()
    require_paths(
        name,
        [
            *([] if without else [split]),
            *([devkit / "VOC2012" / "JPEGImages"] if need_train else []),
            *voc.part_paths(root, 2007, "test"),
        ],
        f"{sources.mlt_how(VOC_MLT.folder)}\nThe images: {voc.HOW}",
    )
    test = voc.read_voc(root=root, parts=[(2007, "test")], difficult="positive", name=f"{name}/test")
    if without:
        return _test_alone(VOC_MLT, test, split, name)
    return _splits(*_read_training(VOC_MLT, split, devkit, name, val_fraction, split_seed), test)


def coco_mlt(
    *,
    name: str = "coco_mlt",
    root: str,
    split: str,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
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
        need_train: as for `voc_mlt`.

    Raises:
        DataError: files are missing, broken, or belong to another data set.
    """
    annotations = "annotations/instances_val2017.json"
    without = not need_train and not Path(split).exists()
    require_paths(
        name,
        [
            *([] if without else [split]),
            *(Path(root, place) for place in ("train2017", "val2017", annotations)[not need_train :]),
        ],
        f"{sources.mlt_how(COCO_MLT.folder)}\nThe images: {coco.HOW}",
    )
    test = coco.read_coco(
        root=root, year=2017, split="val", keep_unlabelled=True, drop_degenerate=True, name=f"{name}/test"
    )
    if without:
        return _test_alone(COCO_MLT, test, split, name)
    return _splits(*_read_training(COCO_MLT, split, root, name, val_fraction, split_seed), test)


def _test_alone(benchmark: Benchmark, test: LabelSet, split: str, name: str) -> Splits:
    """Return the test set in the place of val, with the classes of the benchmark and a training set without images."""
    if not {*test.class_names} <= {*benchmark.class_names}:
        found = differences(test.class_names, benchmark.class_names, "the annotations", benchmark.title)
        raise DataError(f"{test.name}: {found}")
    test = test.with_classes(benchmark.class_names)
    log.info(
        "%s: no %s, so there is no training set, which evaluation does not need: no figures of head, medium and tail",
        *(name, split),
    )
    return Splits(test.select([], f"{name}/train"), test)


def _splits(train: LabelSet, val: LabelSet | None, test: LabelSet) -> Splits:
    if val is not None:
        return Splits(train, val, test)
    stand_in = f"no validation set (as published), so {test.name} stands in for it"
    log.info("%s: %s; dataset.val_fraction=0.1 holds one out", train.name, stand_in)
    return Splits(train, test)


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
        raise DataError(
            f"{folder}: holds no split: neither labels.csv nor class_freq.pkl. {sources.mlt_how(benchmark.folder)}"
        )
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
    files = [benchmark.file(image_id) for image_id in ids]
    names, targets = labels.class_names, labels.dense()
    return LabelSet.from_dense(name=labels.name, root=root, files=files, class_names=names, targets=targets)


class Official(NamedTuple):
    """The published training set of a benchmark."""

    benchmark: Benchmark
    ids: list[str]
    """as published, one per image"""
    labels: LabelSet
    files: tuple[Path, ...]
    """the files that were read"""


def read_official(
    folder: str | os.PathLike[str], *, root: str | os.PathLike[str] = "", name: str | None = None
) -> Official:
    """Read the published files of VOC-MLT or COCO-MLT, which differ in their number of classes; nothing is unpickled.

    Args:
        folder: folder with class_freq.pkl, class_split.pkl and img_id.txt or img_id.pkl.
        root: folder that the image files are relative to: the one with `VOC2012/` or `train2017/`.
        name: name of the LabelSet.

    Raises:
        DataError: a file is missing or holds more than plain data, or the files contradict each other; the message
            lists all contradictions.
    """
    place = Path(folder)
    id_file = next((place / file for file in ("img_id.txt", "img_id.pkl") if (place / file).is_file()), None)
    require_paths(
        "a published split",
        [place / "class_freq.pkl", place / "class_split.pkl", id_file or place / "img_id.txt (or img_id.pkl)"],
        f"They are in {VOC_MLT.folder} and {COCO_MLT.folder} of {PUBLISHED}",
    )
    assert id_file is not None
    frequencies, groups = read_pickle(place / "class_freq.pkl"), read_pickle(place / "class_split.pkl")
    targets = _targets(place / "class_freq.pkl", frequencies)
    n, c = targets.shape
    benchmark = next((known for known in (VOC_MLT, COCO_MLT) if len(known.class_names) == c), None)
    if benchmark is None:
        raise DataError(f"{place}/class_freq.pkl: {c} classes; VOC-MLT has 20 and COCO-MLT 80")
    ids = _read_ids(id_file)
    check_ids(benchmark, ids, id_file)
    if len(ids) != n:
        raise DataError(f"{id_file}: {len(ids)} image ids, but class_freq.pkl has the labels of {n} images")
    files = [benchmark.file(image_id) for image_id in ids]
    labels = LabelSet.from_dense(
        name=name or benchmark.title, root=root, files=files, class_names=benchmark.class_names, targets=targets
    )
    problems = _contradictions(LabelStats.from_labels(labels, *OFFICIAL_BOUNDS), frequencies, groups)
    if problems:
        raise DataError(
            f"{place}: the files contradict each other, so they are not one split:\n  "
            + "\n  ".join(problems)
            + f"\nGet all of them again from one version of {PUBLISHED}"
        )
    return Official(benchmark, ids, log_labels(labels), (place / "class_freq.pkl", place / "class_split.pkl", id_file))


def check_ids(benchmark: Benchmark, ids: Sequence[str], path: Path) -> None:
    """Raise DataError if an id cannot be one of the benchmark's source."""
    wrong = [image_id for image_id in ids if not benchmark.image_id.fullmatch(image_id)]
    if wrong:
        raise DataError(
            f"{path}: {part_of(len(wrong), len(ids), 'image id', 'are')} none of {benchmark.source}'s, the first "
            f"{wrong[0][:40]!r}; expected such as {benchmark.example}"
        )


def _read_ids(path: Path) -> list[str]:
    """Read a text file with one id per line, even if it is called img_id.pkl."""
    try:
        ids = path.read_text(encoding="ascii").split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no text; the published file has one image id per line, whatever its name") from error
    twice = len(ids) - len(set(ids))
    if twice or not ids:
        raise DataError(f"{path}: {f'{twice} image ids are listed twice' if ids else 'is empty'}")
    return ids


def _targets(path: Path, content: Any) -> np.ndarray:
    """Return the targets in class_freq.pkl, int8 (N, C)."""
    missing = [key for key in OFFICIAL_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}; the published file has {', '.join(OFFICIAL_KEYS)}")
    return targets_of(path, content["gt_labels"])


def targets_of(path: Path, rows: Any) -> np.ndarray:
    """Return the value of gt_labels, a list of one array per image or of lists, as targets, int8 (N, C).

    Raises:
        DataError: it is no such list, or has other values than 0 and 1.
    """
    if isinstance(rows, list) and all(isinstance(row, list) for row in rows):
        rows = [np.array(row) for row in rows]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, np.ndarray) and row.ndim == 1 for row in rows):
        raise DataError(f"{path}: gt_labels is not a list of one array per image")
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{path}: the arrays of gt_labels differ in length")
    targets = np.stack(rows)
    if not np.isin(targets, (0, 1)).all():
        raise DataError(f"{path}: gt_labels has other values than 0 and 1")
    return targets.astype(np.int8)


def _contradictions(stats: LabelStats, frequencies: dict[str, Any], groups: Any) -> list[str]:
    """List the numbers in the files that differ from those of the labels, one line each."""
    names = stats.class_names
    problems = []
    together = stats.cooccurrence.toarray()
    conditional = together / np.maximum(stats.positives, 1)[:, None]
    for key, expected in (
        ("class_freq", stats.positives),
        ("neg_class_freq", stats.negatives),
        ("condition_prob", conditional),
    ):
        found = frequencies[key]
        if not isinstance(found, np.ndarray) or found.shape != expected.shape:
            problems.append(f"class_freq.pkl: {key} is no array of the shape {expected.shape}")
            continue
        defined = found
        if key == "condition_prob":  # of a class without images, nan or 0
            defined = np.where((stats.positives[:, None] == 0) & np.isnan(found), 0, found)
        wrong = np.argwhere(~np.isclose(defined, expected, rtol=0, atol=1e-6))
        if len(wrong):
            at = tuple(int(k) for k in wrong[0])
            where = " and ".join(names[k] for k in at)
            problems.append(
                f"class_freq.pkl: {key} differs from gt_labels in {len(wrong)} of {expected.size} entries, first "
                f"{where}: {found[at]:g}, by the labels {expected[at]:g}"
            )
    for ours, theirs in OFFICIAL_GROUPS.items():
        expected_classes = set(stats.group_indices()[ours].tolist())
        found_classes = groups.get(theirs) if isinstance(groups, dict) else None
        if not isinstance(found_classes, set):
            problems.append(f"class_split.pkl: has no set {theirs!r}")
        elif found_classes != expected_classes:
            differing = sorted(found_classes ^ expected_classes, key=str)
            shown = ", ".join(names[k] if isinstance(k, int) and 0 <= k < len(names) else str(k) for k in differing[:5])
            problems.append(
                f"class_split.pkl: {theirs!r} differs from the rule (head: at least {stats.head_min} images, medium: "
                f"at least {stats.medium_min}) in {len(differing)} classes: {shown}"
            )
    return problems
