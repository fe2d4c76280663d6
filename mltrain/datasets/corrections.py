"""Corrections of labels: a csv file that names image, class, the given label and the right one.

    image,class,given,suggested
    photos/0001.jpg,sea,0,1

`mltrain find_label_errors` writes such files; `dataset.corrections=FILE` applies one to the labels of train and val.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mltrain.datasets.names import ImageFinder, one_spelling
from mltrain.datasets.reading import read_csv_rows, require_paths
from mltrain.datasets.splits import Splits
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import counted, csv_text, did_you_mean, first_few, first_lines

log = logging.getLogger(__name__)

COLUMNS = ("image", "class", "given", "suggested")
"""columns that a file must have, in any order; others are passed over"""
VALUES = {"1": 1, "0": 0, "-1": -1}
_HOW = "mltrain find_label_errors RUN writes such files; dataset.corrections=null leaves the labels as they are"
NAMES = {1: "positive", 0: "negative", -1: "unknown"}


@dataclass(frozen=True)
class Correction:
    """A row of the file."""

    line: int
    image: str
    label: str
    given: int
    """target in the data: 1, 0 or -1"""
    suggested: int
    """target after the correction"""


def read_corrections(path: Path) -> list[Correction]:
    """Read a file of corrections; a row that repeats another one counts once.

    Raises:
        DataError: the file is missing or broken, lacks a column, has a value other than 1, 0 and -1, changes nothing in
            a row, or corrects a label in two ways.
    """
    require_paths("corrections", [path], _HOW)
    rows = read_csv_rows(path)
    header = [column.strip() for column in next(rows, (0, []))[1]]
    if missing := [name for name in COLUMNS if header.count(name) != 1]:
        raise DataError(
            f"{path}: needs one column of each name {', '.join(COLUMNS)}; not so: {', '.join(missing)}. "
            f"Found: {', '.join(header) or 'an empty file'}"
        )
    places = [header.index(name) for name in COLUMNS]
    found: dict[tuple[str, str], Correction] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(f"{path}, line {line}: {len(cells)} fields, the header has {len(header)}")
        image, label, *texts = (csv_text(cells[place].strip()) for place in places)
        if not image or not label:
            raise DataError(f"{path}, line {line}: {'no class' if image else 'no image'}; every row needs both")
        for column, text in zip(COLUMNS[2:], texts, strict=True):
            if text not in VALUES:
                allowed = "1 (positive), 0 (negative) or -1 (unknown)"
                raise DataError(f"{path}, line {line}: {column} is {text!r}; it must be {allowed}")
        made = Correction(line, image, label, VALUES[texts[0]], VALUES[texts[1]])
        if made.given == made.suggested:
            raise DataError(f"{path}, line {line}: given and suggested are both {made.given}; delete this row")
        before = found.setdefault((image, label), made)
        if (before.given, before.suggested) != (made.given, made.suggested):
            raise DataError(_twice(path, made, before))
    return list(found.values())


def correct(splits: Splits, file: str | Path, *, whole: bool = True) -> Splits:
    """Return the splits with the corrections of a file in the labels of train and val, and log their number.

    Args:
        splits: labels as they are read, divided.
        file: the csv file.
        whole: False if the reader may have left out images of train or val, because a command does not need them;
            corrections of images that are not there are then passed over.

    Raises:
        DataError: the file is broken, or a correction names an image or a class that is not there, an image of the test
            split, or another given label than that of the data.
    """
    path = Path(file)
    corrections = read_corrections(path)
    if not corrections:
        log.warning("%s: holds no correction", path)
        return splits
    columns = _columns(corrections, splits.train.class_names, path)
    parts = {part: labels for part, labels in splits._asdict().items() if labels is not None}
    rows = {part: _rows(corrections, labels, path) for part, labels in parts.items()}
    if whole:
        _check_images(corrections, parts, rows, path)
    changed: dict[str, LabelSet] = {}
    counts: dict[str, int] = {}
    for part in ("train", "val"):
        changes: dict[tuple[int, int], Correction] = {}
        for c, found in zip(corrections, rows[part], strict=True):
            for row in found:
                before = changes.setdefault((row, columns[c.label]), c)
                if before.suggested != c.suggested:
                    raise DataError(_twice(path, c, before))
        counts[part] = len(changes)
        changed[part] = _corrected(parts[part], changes, path) if changes else parts[part]
    applied = [c for c, train, val in zip(corrections, rows["train"], rows["val"], strict=True) if train or val]
    kinds = [(name, sum(c.suggested == value for c in applied)) for value, name in NAMES.items()]
    log.info(
        "%s: %s corrected: %s; now %s",
        *(path, counted(sum(counts.values()), "label")),
        ", ".join(f"{part} {count:,}" for part, count in counts.items()),
        ", ".join(f"{name} {count:,}" for name, count in kinds if count) or "as before",
    )
    return splits._replace(**changed)


def _twice(path: Path, correction: Correction, before: Correction) -> str:
    c = correction
    return f"{path}, line {c.line}: {c.image}, {c.label}: another correction than in line {before.line}; keep one"


def _columns(corrections: Iterable[Correction], names: Sequence[str], path: Path) -> dict[str, int]:
    """Return the class of each name. Raises DataError for a name that is none."""
    place = {one_spelling(name): k for k, name in enumerate(names)} | {name: k for k, name in enumerate(names)}
    found = {}
    for c in corrections:
        k = place.get(c.label, place.get(one_spelling(c.label)))
        if k is None:
            hint = did_you_mean(c.label, names, "{!r}")
            raise DataError(f"{path}, line {c.line}: there is no class {c.label!r}{hint}")
        found[c.label] = k
    return found


def _rows(corrections: Sequence[Correction], labels: LabelSet, path: Path) -> list[list[int]]:
    """Return the rows of a split that have the image of each correction; none where the split lacks it."""
    finder = ImageFinder(labels.root)
    rows: dict[str, list[int]] = {}
    found = []
    for c in corrections:
        key = finder.key(finder.find(c.image, f"{path}, line {c.line}"))
        found.append(rows.setdefault(key, []))
    for i in range(len(labels)):
        here = rows.get(finder.key(labels.file(i)))
        if here is not None:
            here.append(i)
    return found


def _check_images(
    corrections: Sequence[Correction],
    parts: Mapping[str, LabelSet],
    rows: Mapping[str, Sequence[Sequence[int]]],
    path: Path,
) -> None:
    """Refuse corrections of images in no split, or in test. Raises DataError."""
    of_test = [c for c, found in zip(corrections, rows.get("test", ()), strict=False) if found]
    if of_test:
        raise DataError(
            f"{path}: {counted(len(of_test), 'correction')} of images in the test split:{_listed(of_test)}\n"
            "Test labels stay as they are: delete these rows, or change the files of the data set"
        )
    nowhere = [c for c, *found in zip(corrections, *rows.values(), strict=True) if not any(found)]
    if nowhere:
        known = [labels.file(0) for labels in parts.values() if len(labels)]
        raise DataError(
            f"{path}: {counted(len(nowhere), 'correction')} of images that are in no split:{_listed(nowhere)}\n"
            f"Image names must be as in the data set, such as {first_few(known)}"
        )


def _listed(corrections: Sequence[Correction]) -> str:
    return first_lines([f"line {c.line}: {c.image}" for c in corrections])


def _corrected(labels: LabelSet, changes: Mapping[tuple[int, int], Correction], path: Path) -> LabelSet:
    """Return the labels with corrections by (row, column). Raises DataError where the given label is another."""
    rows, columns, values = labels.listed()
    listed = rows * labels.num_classes + columns  # in ascending order
    wanted = np.array([row * labels.num_classes + column for row, column in changes], dtype=np.int64)
    place = np.minimum(np.searchsorted(listed, wanted), max(len(listed) - 1, 0))
    is_listed = listed[place] == wanted if len(listed) else np.zeros(len(wanted), dtype=bool)
    given = np.full(len(wanted), labels.fill, dtype=np.int8)
    given[is_listed] = values[place[is_listed]]
    wrong = [
        f"line {c.line}: {c.image}, {c.label}: given is {c.given}, the data have {int(value)}"
        for c, value in zip(changes.values(), given, strict=True)
        if c.given != value
    ]
    if wrong:
        raise DataError(
            f"{path}: {counted(len(wrong), 'correction')} of {len(changes)} in {labels.name} "
            f"contradict{'s' if len(wrong) == 1 else ''} the data:{first_lines(wrong)}\n"
            "The file was made for other labels, or the data have these corrections already: delete these rows"
        )
    kept = np.ones(len(listed), dtype=bool)
    kept[place[is_listed]] = False
    new = np.array([c.suggested for c in changes.values()], dtype=np.int8)
    added = new != labels.fill
    return labels.with_targets(
        np.concatenate([rows[kept], wanted[added] // labels.num_classes]),
        np.concatenate([columns[kept], wanted[added] % labels.num_classes]),
        np.concatenate([values[kept], new[added]]),
        fill=labels.fill,
    )
