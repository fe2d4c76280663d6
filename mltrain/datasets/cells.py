"""Cells of a csv file that hold labels: lists, separators that were not told, targets in numbers."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter

from mltrain import text
from mltrain.text import first_few

_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_QUOTED_LIST = re.compile(rf"[\[({{]\s*(?:{_ITEM}(?:[\s,]+{_ITEM})*)?[\s,]*[\])}}]")
_QUOTED = re.compile(_ITEM)
_PLAIN_LIST = re.compile(r"\[[^\[\]]*\]")

WORDS = {"true": 1, "false": 0, "yes": 1, "no": 0, "x": 1, "\N{CHECK MARK}": 1, "\N{HEAVY CHECK MARK}": 1}
"""targets in a column of one class that are no numbers, by text in lower case"""
TARGETS = {"1": 1, "0": 0, "-1": -1, **WORDS, "": None, "nan": None}
"""targets in a column of one class, by text in lower case; None: blank"""
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_SPELLED = {"\\t": "\t", "tab": "\t"}
_MARKS_OF_LISTS = ("|", ";", ",")
_OTHERS = ("/", "+", "&", " ")


def separator_of(text: str) -> str:
    r"""Return a separator as a character: ``tab`` and ``\t`` mean a tab."""
    return _SPELLED.get(text, text)


def argument(key: str, value: object) -> str:
    """Return `dataset.key=value` as a shell and the command line read it."""
    return text.argument(f"dataset.{key}", "tab" if value == "\t" else value)


def target_of(cell: str) -> int | None:
    """Return 1, 0, -1, or None for a blank cell. ValueError: the cell is none of these."""
    text = cell.strip().lower()
    if text in TARGETS:
        return TARGETS[text]
    number = float(text)
    if number not in (1, 0, -1):
        raise ValueError(text)
    return int(number)


def about_number(cell: str) -> str | None:
    """Say why a number in a cell is no target and what to write instead; None for other text."""
    try:
        float(cell.replace(",", ".", 1))
    except ValueError:
        return None
    comma = "a number with a decimal comma" if _DECIMAL_COMMA.fullmatch(cell.strip()) else "a number"
    return f"{comma}, such as a score. Write 1 where an image has the label and 0 where it does not"


def quoted_list(cell: str) -> list[str] | None:
    """Return the items of a list as Python, NumPy or JSON write it, such as ``['cat', 'dog']``; None for other text.

    ``{"choices": ["cat", "dog"]}``, which Label Studio writes, is such a list too.
    """
    if cell[:1] not in ("[", "(", "{"):
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and len(found) == 1 and isinstance(next(iter(found.values())), list):
        (found,) = found.values()
    if isinstance(found, list) and all(isinstance(item, str) for item in found):
        return [item.strip() for item in found]
    if not _QUOTED_LIST.fullmatch(cell):
        return None
    return [str(ast.literal_eval(item)).strip() for item in _QUOTED.findall(cell)]


def plain_list(cell: str) -> list[str] | None:
    """Return the items of a list without quotes, such as ``[cat, dog]``; None for other text."""
    return [item.strip() for item in cell[1:-1].split(",")] if _PLAIN_LIST.fullmatch(cell) else None


def better_separator(labels: Counter[str], separator: str) -> tuple[str, int, bool] | None:
    """Look for a separator that splits labels into fewer classes which recur.

    Args:
        labels: labels as read so far, with their number of images.
        separator: the separator that they were read with.

    Returns:
        (separator, number of classes it gives, whether there is hardly another reading), or None.
    """
    for candidate in (*_MARKS_OF_LISTS, *_OTHERS):
        joined = [label for label in labels if candidate in label.strip(candidate)]
        if candidate == separator or not joined:
            continue
        parts = {label: [part for part in map(str.strip, label.split(candidate)) if part] for label in labels}
        uses = Counter(part for split in parts.values() for part in set(split))
        if any(label.count(candidate) != len(parts[label]) - 1 for label in joined):
            continue
        recur = sum(any(uses[part] > 1 for part in parts[label]) for label in joined)
        alone = all(part in labels for label in joined for part in parts[label])
        if candidate in _MARKS_OF_LISTS:
            if candidate == "|" or len(labels) == 1 or (2 * recur >= len(joined) and len(uses) <= len(labels)):
                return candidate, len(uses), True
            continue
        # Words and slashes are common within names: "big sea", "red car" and "blue car" are no lists.
        firsts, lasts = ({parts[label][k] for label in joined} for k in (0, -1))
        ordered = len({len(parts[label]) for label in joined}) == 1 and not firsts & lasts and not alone
        all_recur = sum(uses[part] > 1 for label in joined for part in parts[label])
        enough = all_recur >= 0.8 * sum(len(parts[label]) for label in joined)
        if 3 * len(joined) >= len(labels) and len(uses) <= len(labels) and enough and not ordered:
            nearly_all_own = 2 * len(labels) >= sum(labels.values())
            return candidate, len(uses), alone or nearly_all_own or 2 * len(uses) <= len(labels)
    return None


def shown(labels: Counter[str], separator: str) -> str:
    """Return the first labels that contain a separator, for a message."""
    return first_few([repr(label) for label in sorted(labels) if separator in label], 3)
