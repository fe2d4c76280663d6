"""Class names in published checkpoints, some of which came through a csv file that was cut up wrongly."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mltrain.errors import DataError

QUOTES = "\"'"


def names_of(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Class names by index: `idx_to_class` of ASL, CSL and ML-Decoder, `meta.CLASSES` of mmcv; None without them."""
    names = meta.get("idx_to_class")
    if isinstance(names, Mapping):
        by_index = {int(key): str(name) for key, name in names.items() if str(key).isdecimal()}
        complete = sorted(by_index) == list(range(len(names)))
        return tuple(by_index[k] for k in range(len(names))) if names and complete else None
    if names is None and isinstance(meta.get("meta"), Mapping):
        names = meta["meta"].get("CLASSES")
    return tuple(map(str, names)) if isinstance(names, list | tuple) and names else None


def repaired(names: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Distinct names without what a csv file has left around them, and what there is to say of them.

    The list of Open Images classes in ASL's file was written to a csv as the text of a Python list and cut at commas: a
    name with an apostrophe came out in three double quotes, and is taken out of them; a name with a comma came out in
    pieces with a quote at one end, which are left as they are.
    """
    notes, plain = [], [_unquoted(" ".join(name.splitlines()).strip()) for name in names]  # kept one a line
    quoted = sum(a != b for a, b in zip(plain, names, strict=True))
    if quoted:
        notes.append(f"{quoted} class names had quotes around them, left by a csv file; these are taken off")
    pieces = [name for name in plain if '"' in name or (name[:1] == "'") != (name[-1:] == "'")]
    if pieces:
        notes.append(
            f"{len(pieces)} class names look like pieces of a longer one (cut at a comma), e.g. {pieces[0]!r}: give "
            "the right ones with classes=FILE"
        )
    seen: dict[str, int] = {}
    distinct = []
    for name in plain:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    if len(seen) < len(plain):
        notes.append(f"{len(plain) - len(seen)} class names appear more than once, and are numbered")
    return tuple(distinct), notes


def _unquoted(name: str) -> str:
    while len(name) > 1 and name[0] == name[-1] and name[0] in QUOTES:
        name = name[1:-1].strip()
    return name


def described(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """Class ids replaced by their names in a csv file of id,name, such as oidv6-class-descriptions.csv.

    Raises:
        DataError: the file cannot be read, or lacks an id.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = {row[0].strip(): row[1].strip() for row in csv.reader(stream) if len(row) == 2}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    missing = [name for name in names if name not in table]
    if missing:
        raise DataError(
            f"{path}: has no name for {len(missing)} of the {len(names)} classes, the first {missing[0]!r}; expected "
            "is a csv with a line id,name for each of them"
        )
    given = [table[name] for name in names]
    twice = {label for label in given if given.count(label) > 1} if len(set(given)) < len(given) else set()
    return tuple(f"{label} ({key})" if label in twice else label for key, label in zip(names, given, strict=True))
