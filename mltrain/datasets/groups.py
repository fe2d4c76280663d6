"""Groups of images that must stay together, such as those of one patient: a csv file that names the group of each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from mltrain.datasets import cells as in_cells
from mltrain.datasets.names import ImageFinder
from mltrain.datasets.reading import read_csv_rows, require_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import counted, did_you_mean, first_few, first_lines, part_of

log = logging.getLogger(__name__)

ALONE = "\0"
"""first character of the group of an image that has none"""


def read_groups(
    file: str | Path,
    root: str | Path,
    *,
    image_column: str = "image",
    group_column: str = "group",
    delimiter: str = ",",
) -> dict[str, str]:
    """Return image -> group, images as `ImageFinder.key` has them below `root`.

    Args:
        file: csv file with a header. Without the column `image_column` the first one has the images.
        root: folder that the image names are relative to.
        image_column: column with the image.
        group_column: column with the group; an empty cell is no group.
        delimiter: separator of the columns; "tab" is a tab.

    Raises:
        DataError: the file is missing or broken, has no such column, or gives an image two groups.
    """
    path = Path(file)
    require_paths("groups", [path], "Groups are in a csv file with the columns image,group: dataset.groups=FILE")
    if path.is_dir() or path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        raise DataError(f"{path}: no csv file, so it has no column {group_column!r}; name one: dataset.groups=FILE")
    rows = read_csv_rows(path, in_cells.separator_of(delimiter))
    header = [column.strip() for column in next(rows, (0, []))[1]]
    if header.count(group_column) != 1:
        how = "more than one" if group_column in header else "no"
        hint = did_you_mean(group_column, header, "dataset.group_column={}")
        raise DataError(f"{path}: {how} column {group_column!r}{hint}; found {', '.join(header) or 'an empty file'}")
    group_at = header.index(group_column)
    image_at = header.index(image_column) if image_column in header else 0
    if image_at == group_at:
        raise DataError(f"{path}: no column {image_column!r} with the images; found {', '.join(header)}")
    finder = ImageFinder(root)
    groups: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in rows:
        if len(row) <= max(image_at, group_at):
            raise DataError(f"{path}, line {line}: {len(row)} fields, the header has {len(header)}")
        image, group = row[image_at].strip(), row[group_at].strip()
        if not image or not group:
            continue
        key = finder.key(finder.find(image, f"{path}, line {line}"))
        if groups.setdefault(key, group) != group:
            raise DataError(
                f"{path}, line {line}: {image} is of group {group!r} here and of {groups[key]!r} in line {lines[key]}; "
                "an image has one group"
            )
        lines.setdefault(key, line)
    return groups


def groups_of(labels: LabelSet, groups: Mapping[str, str]) -> list[str]:
    """Return the group of each image; an image without one is a group of its own."""
    finder = ImageFinder(labels.root)
    # The first character keeps the name of an image from being the name of a group.
    return [groups.get(finder.key(file), f"{ALONE}{file}") for file in labels.files]


def check_cover(sets: Sequence[LabelSet], groups: Sequence[Sequence[str]], source: str, known: Sequence[str]) -> None:
    """Warn of images without a group.

    Args:
        sets: all images of a data set.
        groups: of each set, see `groups_of`.
        source: file with the groups.
        known: some images that it names.

    Raises:
        DataError: no image has a group.
    """
    names = [name for group in groups for name in group]
    alone = [name.removeprefix(ALONE) for name in names if name.startswith(ALONE)]
    title = sets[0].name.rpartition("/")[0] or sets[0].name
    if alone and len(alone) == len(names):
        raise DataError(
            f"{source}: none of {counted(len(names), 'image')} of {title} is in it; it has "
            f"{first_few(known, 3) or 'no image'}"
            f", the data set has {first_few(alone, 3)}. Image names must be as in the data set, relative to "
            f"{Path(sets[0].root).absolute()}"
        )
    if alone:
        log.warning(
            "%s: of %s, %s no group (the first: %s); each is a group of its own",
            *(source, title, part_of(len(alone), len(names), "image", "have"), alone[0]),
        )


def check_groups(parts: Sequence[tuple[LabelSet, Sequence[str]]], source: str) -> None:
    """Refuse splits that share a group. Raises DataError, which names the first five."""
    for (a, of_a), (b, of_b) in combinations(parts, 2):
        shared = sorted(set(of_a) & set(of_b))
        if shared:
            raise DataError(
                f"{source}: {counted(len(shared), 'group', 'have')} images in {a.name} and in {b.name}; give "
                "all images of a group "
                "to one split, or let it be drawn: dataset.val_fraction, dataset.test_fraction or dataset.folds. "
                f"Shared, for example:{first_lines(shared)}"
            )
