"""Text for messages and files: the nearest valid name, values as the command line writes them, safe characters."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

# Control characters but line end and tab (and but the codes of bold text), and marks that turn the direction of text.
_UNSAFE = re.compile("(?!\x1b\\[[01]m)[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?")
_FORMULA = re.compile("'*[=+@\t\r-]")
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_SINGULAR = {"are": "is", "have": "has", "were": "was"}
_NO_TEXT = frozenset({"true", "false", "null", "nan", "inf", "on", "off", "yes", "no"})


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the most similar of `names`, or None where none is near.

    One that begins with `name` comes first; a name that contains the other counts as near.
    """
    names = list(names)
    longer = [other for other in names if len(name) > 2 and other.startswith(name)]
    if longer:
        return min(longer, key=len)
    close = difflib.get_close_matches(name, names, n=10, cutoff=cutoff)
    if close:
        return max(close, key=lambda other: (_similarity(name, other), other.startswith(name)))
    lowered = name.lower()
    parts = [other for other in names if len(lowered) > 2 and (lowered in other.lower() or other.lower() in lowered)]
    return min(parts, key=len) if parts else None


def _similarity(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, name).ratio()  # the order of `get_close_matches`


def close_matches(name: str, names: Iterable[str], count: int, cutoff: float) -> list[str]:
    """Return up to `count` similar names, the most similar first."""
    return difflib.get_close_matches(name, list(names), n=count, cutoff=cutoff)


def did_you_mean(name: str, names: Iterable[str], form: str = "{}") -> str:
    """Return "; did you mean NEAREST?", with the nearest name put into `form`, or nothing where no name is near."""
    near = nearest(name, names)
    return f"; did you mean {form.format(near)}?" if near is not None else ""


def first_few(names: Sequence[str], shown: int = 5) -> str:
    """Return the first names, separated by commas, with "..." at the end if there are more."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def first_lines(lines: Sequence[str], shown: int = 5) -> str:
    """Return the first lines, each indented on a new line, with "... and N more" at the end if there are more."""
    more = [f"... and {len(lines) - shown} more"] if len(lines) > shown else []
    return "".join(f"\n  {line}" for line in [*lines[:shown], *more])


def spell(value: Any) -> str:
    """Return a value as YAML and the command line write it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(spell(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {spell(v)}" for k, v in value.items()) + "}"
    return str(value) if value != "" else "''"


def quoted(text: str) -> str:
    """Return text in quotes, as the command line reads it."""
    escaped = re.sub(r'(\\*)(")', r'\1\1\\"', text)  # Hydra: backslashes count before a quote only
    escaped += "\\" * (len(escaped) - len(escaped.rstrip("\\")))
    return f'"{escaped}"'


def argument(key: str, value: object) -> str:
    """Return KEY=VALUE as a shell and the command line read it."""
    if not isinstance(value, str):
        return f"{key}={spell(value)}"
    plain = _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT
    return f"{key}={value}" if plain else shlex.quote(f"{key}={quoted(value)}")


def counted(count: int, noun: str, verb: str = "") -> str:
    """Return a number with its noun, and with a verb in its number: "1 run", "3 classes", "1 label is", "2 labels are".

    Args:
        count: the number.
        noun: in the singular.
        verb: in the plural: are, have, share ...
    """
    return f"{count} {agreed(count, noun)}{_verb(verb, count == 1)}"


def agreed(count: int, noun: str) -> str:
    """Return a noun in the number that belongs to a count: "class" for 1, "classes" for 0 and 2."""
    plural = "es" if noun.endswith(("s", "x", "ch", "sh")) and not noun.endswith("epoch") else "s"
    return noun if count == 1 else f"{noun}{plural}"


def part_of(count: int, total: int, noun: str, verb: str = "") -> str:
    """Return a part of a number: "1 of 3 classes has", "2 of 3 classes have", "0 of 1 class has"; see `counted`."""
    return f"{count} of {counted(total, noun)}{_verb(verb, count == 1 or total == 1)}"


def _verb(verb: str, singular: bool) -> str:
    if not verb:
        return ""
    return f" {_SINGULAR.get(verb, f'{verb}s') if singular else verb}"


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: control characters other than line ends become escapes (\\x1b)."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def csv_cell(value: Any) -> Any:
    """Return a value for a CSV file that people open: text that a spreadsheet would run as a formula gets a quote (').

    Such text begins with = + - @ tab or carriage return (OWASP, CSV Injection). `csv_text` takes the quote off.
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value) else value


def csv_text(cell: str) -> str:
    """Return the text that `csv_cell` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
