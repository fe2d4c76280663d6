"""Find images that show nearly the same picture in two splits, so that figures are not those of images trained on.

    mltrain find_duplicates dataset=csv dataset.file=my.csv dataset.val_fraction=0.2
    mltrain find_duplicates dataset=coco2017 distance=4 out=pairs.csv
    mltrain find_duplicates dataset=csv dataset.file=my.csv dataset.val_fraction=0.2 groups=groups.csv

Every image is read once, about 1 to 5 ms each. Nothing is removed. The file of `groups` gives near-duplicates the same
group; training with dataset.groups=FILE and a drawn validation set keeps them on one side. docs/datasets.md has the
method.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mltrain import console
from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.config.schema import number
from mltrain.errors import DataError
from mltrain.files import write_text
from mltrain.progress import track
from mltrain.runs.outputs import check_suffix, writing
from mltrain.text import counted, csv_cell, first_lines

logger = logging.getLogger(__name__)

SHOWN = 20


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the data set's."""

    distance: int = number(6, least=0, most=7)
    """bits of 128 that may differ between the hashes of two images"""
    within: bool = False
    """report pairs inside a split, too"""
    out: str | None = None
    """csv file for all pairs; the output shows the nearest 20"""
    groups: str | None = None
    """csv file for the group of each image that has a near-duplicate in any split, for dataset.groups"""

    def __post_init__(self) -> None:
        for key in ("out", "groups"):
            if getattr(self, key) is not None:
                check_suffix(getattr(self, key), ".csv", option=key)


def find_duplicates(cfg: DictConfig, options: Options) -> list[dict[str, Any]]:
    """Compare all images of a data set and return the pairs of near-duplicates, the nearest first.

    Raises:
        ConfigError: a file cannot be written.
        DataError: the data set cannot be read, or no image can.
    """
    from mltrain.pipeline.near_duplicates import Sketches, groups_of_pairs, in_threads, near_pairs, sketch, sketches_of

    splits = instantiate(cfg.dataset, "dataset", need_val=False)
    parts = {part: labels for part, labels in splits._asdict().items() if labels is not None}
    images = [(part, labels.file(i), labels.path(i)) for part, labels in parts.items() for i in range(len(labels))]
    bad: list[str] = []

    def of(path: str) -> Any:
        try:
            return sketch(path)
        except DataError as error:
            return str(error)

    paths = [path for _, _, path in images]
    threads = max(1, (os.cpu_count() or 2) - 1)
    results = track(in_threads(of, paths, threads), "reading images", len(paths), unit="images")
    good, made = [], []
    for k, result in enumerate(results):
        if isinstance(result, str):
            bad.append(result)
        else:
            good.append(k)
            made.append(result)
    if bad:
        logger.warning("%s cannot be read and are left out:%s", counted(len(bad), "image"), first_lines(bad))
    if not good:
        raise DataError("no image could be read, so there is nothing to compare")
    sketches: Sketches = sketches_of([paths[k] for k in good], made)
    pairs = near_pairs(sketches, options.distance)
    found = []
    for a, b, bits in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.distance.tolist(), strict=True):
        (part, file, _), (other_part, other, _) = images[good[a]], images[good[b]]
        if options.within or part != other_part:
            found.append({"distance": bits, "split": part, "image": file, "other_split": other_part, "other": other})
    inside = len(pairs.first) - sum(pair["split"] != pair["other_split"] for pair in found)
    _show(found, len(good), len(bad), inside, options)
    if options.out is not None:
        rows = [[csv_cell(value) for value in pair.values()] for pair in found]
        _write(options.out, "out", [["distance", "split", "image", "other_split", "other"], *rows])
    if options.groups is not None:
        groups = groups_of_pairs(len(good), pairs.first, pairs.second).tolist()
        members = dict.fromkeys(chain(pairs.first.tolist(), pairs.second.tolist()))
        rows = [[images[good[k]][1], f"duplicates-{groups[k]}"] for k in sorted(members)]
        _write(options.groups, "groups", [["image", "group"], *rows])
    return found


def _show(found: list[dict[str, Any]], count: int, unread: int, inside: int, options: Options) -> None:
    across = [pair for pair in found if pair["split"] != pair["other_split"]]
    lines = [
        f"{count:,} images, at most {options.distance} of 128 bits apart: {counted(len(across), 'pair')} of "
        f"near-duplicates across splits, {inside:,} within"
    ]
    lines += [
        f"{pair['distance']:>3}  {pair['split']}: {pair['image']}  {pair['other_split']}: {pair['other']}"
        for pair in found[:SHOWN]
    ]
    if unread:
        lines.append(f"not compared, because they cannot be read: {counted(unread, 'image')}; see the warning")
    if len(found) > SHOWN:
        lines.append(f"... and {len(found) - SHOWN:,} more; out=pairs.csv writes all")
    if across and options.groups is None:
        lines.append(
            "groups=groups.csv writes them as groups, which dataset.groups=groups.csv keeps together when it draws"
        )
    console.write("\n".join(lines) + "\n")


def _write(name: str, option: str, rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    with writing(Path(name), option) as path:
        write_text(path, text.getvalue())
    logger.info("wrote %s", name)


COMMAND = Command(find_duplicates, about=__doc__, takes="dataset", options=Options, unnamed_data="ask")
