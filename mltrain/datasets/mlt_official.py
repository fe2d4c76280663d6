"""The published training sets of VOC-MLT and COCO-MLT (Wu et al., ECCV 2020, arXiv:2007.09654).

    class_freq.pkl     gt_labels (0/1 targets of each image), class_freq, neg_class_freq, condition_prob
    class_split.pkl    head, middle, tail: class indices
    img_id.txt         one image id per line, in the order of gt_labels; COCO's is called img_id.pkl, and is text too

The files hold ids and labels; this module adds class names and image files. It reads the pickles without unpickling
them (`safe_pickle`), and checks every number in them against the labels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mltrain.datasets import sources, voc
from mltrain.datasets.reading import require_paths
from mltrain.datasets.safe_pickle import read_pickle
from mltrain.datasets.splits import log_labels
from mltrain.errors import DataError
from mltrain.labels import LabelSet, LabelStats

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
    labels = LabelSet.from_dense(
        name=name or benchmark.title,
        root=root,
        files=[benchmark.file(image_id) for image_id in ids],
        class_names=benchmark.class_names,
        targets=targets,
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
            f"{path}: {len(wrong)} of {len(ids)} image ids are none of {benchmark.source}'s, the first "
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
    rows = content["gt_labels"]
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
    with np.errstate(divide="ignore", invalid="ignore"):
        conditional = together / stats.positives[:, None]
    for key, expected in (
        ("class_freq", stats.positives),
        ("neg_class_freq", stats.negatives),
        ("condition_prob", conditional),
    ):
        found = frequencies[key]
        if not isinstance(found, np.ndarray) or found.shape != expected.shape:
            problems.append(f"class_freq.pkl: {key} is no array of the shape {expected.shape}")
            continue
        wrong = np.argwhere(~np.isclose(found, expected, rtol=0, atol=1e-6, equal_nan=True))
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
