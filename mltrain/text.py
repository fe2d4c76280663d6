"""Text for messages: the nearest valid name, and values as the command line writes them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def nearest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the most similar of `names`, or None where none is near; a name that contains the other counts as near."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    if close:
        return close[0]
    lowered = name.lower()
    parts = [other for other in names if len(lowered) > 2 and (lowered in other.lower() or other.lower() in lowered)]
    return min(parts, key=len) if parts else None


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


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, "1 run" or "2 runs"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
