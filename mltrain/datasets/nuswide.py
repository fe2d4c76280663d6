"""NUS-WIDE (Chua et al., CIVR 2009): 269,648 Flickr images, 81 concepts labelled by people, 1,000 tags by users.

The official files are text: lists of images, one file of 0 and 1 per concept and split, and a table of 0 and 1 for the
tags. Papers differ in how they treat the images without any concept, a fifth of all: see the option `unlabelled`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np

from mltrain.datasets.reading import check_choice, read_class_names, read_image_list, read_lines, require_paths
from mltrain.datasets.sources import NUSWIDE_HOW as HOW
from mltrain.datasets.splits import Splits, make_splits, treat_unlabelled
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import counted

log = logging.getLogger(__name__)

PARTS = {"train": "Train", "val": "Test"}
DEFECT = ("Labels_lake_Train.txt", 78372, "-1130179")
"""file, line and text of the one official entry that is neither 0 nor 1; the right value is not known"""


def nuswide(
    *,
    name: str = "nuswide",
    root: str,
    images: str = "Flickr",
    labels: Literal["concepts", "tags", "zero_shot"] = "concepts",
    unlabelled: Literal["drop", "negative", "unknown"] = "drop",
    need_train: bool = True,
) -> Splits:
    """Return the official train (161,789 images) and test (107,859, as commonly quoted), which stands in for val.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder with `ImageList/`, `Groundtruth/TrainTestLabels/`, `Concepts81.txt` (or `ConceptsList/` with it)
            and, for the tags, `NUS_WID_Tags/`.
        images: folder of the images below `root`; the lists name them as ``actor\\0001_2124494179.jpg``.
        labels: concepts: the 81, in the order of Concepts81.txt. tags: the 1,000 of TagList1k.txt; tags that users did
            not give are negative, as published. zero_shot: the 925 tags that are no concept, then the 81 concepts,
            which are unknown (-1) in train; in test their targets are those of the concepts, not of the tags.
        unlabelled: images without any positive: drop leaves them out (with zero_shot, all test images without a
            concept), negative keeps their targets, unknown keeps them with all targets -1.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken; the message names the line.
    """
    check_choice("labels", labels, ("concepts", "tags", "zero_shot"))
    folder = Path(root)
    concepts_file = folder / "Concepts81.txt"
    if not concepts_file.is_file() and (folder / "ConceptsList").is_dir():
        concepts_file = folder / "ConceptsList" / "Concepts81.txt"
    tags_folder = folder / "NUS_WID_Tags"
    parts = dict(PARTS)
    if not need_train and not _list_file(folder, parts["train"]).exists():
        del parts["train"]
    needed = [_list_file(folder, part) for part in parts.values()] + [folder / images]
    if labels != "tags":
        needed += [concepts_file, folder / "Groundtruth" / "TrainTestLabels"]
    if labels != "concepts":
        needed += [tags_folder / "TagList1k.txt", *(tags_folder / f"{part}_Tags1k.dat" for part in parts.values())]
    require_paths(name, needed, HOW)
    concepts = [] if labels == "tags" else list(read_class_names(concepts_file))
    tags = [] if labels == "concepts" else list(read_class_names(tags_folder / "TagList1k.txt"))
    require_paths(name, [_concept_file(folder, concept, part) for part in parts.values() for concept in concepts], HOW)
    own_tags = [k for k, tag in enumerate(tags) if tag not in concepts]
    made = {}
    for part, official in parts.items():
        list_file = _list_file(folder, official)
        files = list(read_image_list(list_file, lambda line: line.replace("\\", "/")))
        kept = np.ones(len(files), dtype=bool)
        columns: list[np.ndarray] = []
        if tags:
            columns.append(_tags(tags_folder / f"{official}_Tags1k.dat", len(tags), len(files), list_file)[:, own_tags])
        if concepts:
            paths = [_concept_file(folder, concept, official) for concept in concepts]
            truth = np.stack([_column(path, len(files), list_file) for path in paths], axis=1)
            if labels == "zero_shot" and part == "train":
                truth[:] = -1
            elif labels == "zero_shot" and unlabelled == "drop":
                kept = (truth == 1).any(axis=1)
            columns.append(truth)
        labelled = LabelSet.from_dense(
            name=f"{name}/{part}",
            root=folder / images,
            files=[file for file, keep in zip(files, kept, strict=True) if keep],
            class_names=[*(tags[k] for k in own_tags), *concepts],
            targets=np.concatenate(columns, axis=1)[kept],
        )
        if not kept.all():
            left_out = counted(len(files) - int(kept.sum()), "image")
            log.info("%s: %s without a concept left out", labelled.name, left_out)
        made[part] = treat_unlabelled(labelled, unlabelled)
    return make_splits(name, made)


def _list_file(folder: Path, part: str) -> Path:
    return folder / "ImageList" / f"{part}Imagelist.txt"


def _concept_file(folder: Path, concept: str, part: str) -> Path:
    return folder / "Groundtruth" / "TrainTestLabels" / f"Labels_{concept}_{part}.txt"


def _check_count(path: Path, found: int, images: int, list_file: Path) -> None:
    if found != images:
        raise DataError(
            f"{path}: {found} lines, but {list_file} lists {images} images; the two are of different versions, or a "
            "download is incomplete"
        )


def _column(path: Path, images: int, list_file: Path) -> np.ndarray:
    """Return the targets of one concept, int8 (images,)."""
    # The usual case at once: one character, 0 or 1, per line.
    data = path.read_bytes().strip()
    tokens = data.split()
    joined = b"".join(tokens)
    if len(joined) == len(tokens) == data.count(b"\n") + 1 and not joined.translate(None, b"01"):
        _check_count(path, len(tokens), images, list_file)
        return np.frombuffer(joined, dtype=np.int8) - ord("0")
    values: list[int] = []
    for number, text in read_lines(path):
        if text in ("0", "1"):
            values.append(int(text))
        elif (path.name, number, text) == DEFECT:
            log.info("%s, line %d: %s, a known defect of the official file; that target is unknown", path, number, text)
            values.append(-1)
        else:
            raise DataError(f"{path}, line {number}: expected 0 or 1, found {text[:40]!r}; get the file again")
    _check_count(path, len(values), images, list_file)
    return np.array(values, dtype=np.int8)


def _tags(path: Path, tags: int, images: int, list_file: Path) -> np.ndarray:
    """Return the targets of the tags, int8 (images, tags), from one line of 0 and 1 per image."""
    table = np.zeros((images, tags), dtype=np.int8)
    number = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            digits = np.frombuffer(line.translate(None, b" \t\r\n"), dtype=np.uint8) - ord("0")
            if len(digits) != tags or digits.max() > 1 or len(line.split()) != tags:
                raise DataError(
                    f"{path}, line {number}: expected {tags} values of 0 or 1, found {len(line.split())}: "
                    f"{line[:40].decode('utf-8', 'replace')!r}"
                )
            if number <= images:
                table[number - 1] = digits
    _check_count(path, number, images, list_file)
    return table
