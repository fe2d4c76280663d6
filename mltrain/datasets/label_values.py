"""Labels as tables and shards hold them: a class index, a name, a list of either, or a 1 or 0 per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mltrain.datasets.names import Spellings, distinct_spellings, one_spelling, warn_of_case
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import did_you_mean

NO_LABEL = -1
"""class index that Hugging Face gives an image without a label"""


class Rows(NamedTuple):
    """The images of a split, and the labels of each."""

    root: str
    files: list[str]
    """relative to `root`, or absolute"""
    values: list[Any]
    """int, text, a list of either, or None"""
    where: str
    """what holds them, for messages"""


def label_sets(
    name: str, parts: Mapping[str, Rows], *, classes: Sequence[str] | None, separator: str
) -> dict[str, LabelSet]:
    """Return one LabelSet per split; they share their classes. A class that an image does not list is negative.

    Args:
        name: name of the data set.
        parts: images and labels by split.
        classes: names of the classes, in the order of their indices; None: the labels are names, and the classes are
            all of them, sorted, or they are indices, and the classes are class_0, class_1, ...
        separator: separates names in one text.

    Raises:
        DataError: a label is of another type, no class, or indices and names are mixed; the message names the image.
    """
    read = {part: [_items(rows, k, separator) for k in range(len(rows.files))] for part, rows in parts.items()}
    _from_ones(parts, read)
    used = {item for lists in read.values() for items in lists for item in items}
    if {type(item) for item in used} == {int, str}:
        texts, numbers = (sorted(item for item in used if isinstance(item, kind)) for kind in (str, int))
        raise DataError(
            f"{name}: some labels are class indices ({numbers[0]}) and others are names ({texts[0]!r}); use one of them"
        )
    are_names = bool(used) and all(isinstance(item, str) for item in used)
    if classes is None and not used:
        raise DataError(f"{name}: no image has a label ({', '.join(rows.where for rows in parts.values())})")
    found = Spellings()
    keys = {item: found.add(item) if isinstance(item, str) else item for item in used}
    if classes is not None:
        names = list(classes)
        distinct_spellings(names, name)
    elif are_names:
        names = sorted(found[str(key)] for key in set(keys.values()))
    else:
        names = [f"class_{k}" for k in range(1 + max(int(item) for item in used))]
    warn_of_case(names, name)
    index: dict[Any, int] = {one_spelling(label) if are_names else k: k for k, label in enumerate(names)}
    made = {}
    for part, rows in parts.items():
        for file, items in zip(rows.files, read[part], strict=True):
            for item in items:
                if keys[item] not in index:
                    hint = did_you_mean(item, names, "'{}'") if isinstance(item, str) else ""
                    raise DataError(
                        f"{rows.where}: {file} has the label {item!r}, none of the {len(names)} classes{hint}"
                    )
        positives = [{index[keys[item]] for item in items} for items in read[part]]
        made[part] = LabelSet.from_lists(
            name=f"{name}/{part}", root=rows.root, files=rows.files, class_names=names, positives=positives
        )
    return made


def _items(rows: Rows, k: int, separator: str) -> list[int | str]:
    """Return the labels of an image."""
    value = rows.values[k]
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    values = value if isinstance(value, (list, tuple)) else [value]
    items: list[int | str] = []
    for item in values:
        if isinstance(item, float) and item.is_integer():
            item = int(item)
        if item is None or item == NO_LABEL or (isinstance(item, float) and math.isnan(item)):
            continue
        if isinstance(item, str) and item.strip():
            items.append(item.strip())
        elif isinstance(item, int) and not isinstance(item, bool) and item >= 0:
            items.append(item)
        else:
            raise DataError(
                f"{rows.where}: {rows.files[k]} has the label {item!r}; expected a class index, a name, or a list of "
                "either"
            )
    return items


def _from_ones(parts: Mapping[str, Rows], read: dict[str, list[list[int | str]]]) -> None:
    """Replace lists of a 1 or 0 per class by the indices of the ones, if all labels are such lists.

    Lists of one length above 2 that hold 0 and 1 only name a class twice, so they are no lists of indices.
    """
    lists = [items for items_of in read.values() for items in items_of]
    lengths = {len(items) for items in lists}
    if len(lengths) == 1 and min(lengths) > 2 and all(item in (0, 1) for items in lists for item in items):
        for part in parts:
            read[part] = [[k for k, item in enumerate(items) if item == 1] for items in read[part]]
