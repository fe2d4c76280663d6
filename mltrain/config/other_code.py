"""Names of published code, and what does the same here (other_code.yaml): hints for those who type them, and a page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("other_code.yaml")
PAGE = "docs/from_other_code.md"


@dataclass(frozen=True)
class Row:
    """A name of other code, or several of one meaning."""

    code: str
    theirs: tuple[str, ...]
    ours: str | None
    """arguments here, with {} for the value; None: there is nothing that does the same"""
    eg: str = ""
    """an example value"""
    note: str = ""


@dataclass(frozen=True)
class Code:
    """A published repository."""

    name: str
    title: str
    recipe: str
    """command that trains by its recipe"""
    rows: tuple[Row, ...]


@cache
def codes() -> tuple[Code, ...]:
    """Return the tables of other_code.yaml."""

    def row(code: str, entry: dict[str, Any]) -> Row:
        names = tuple(name.strip() for name in entry["theirs"].split(","))
        return Row(code, names, entry["ours"], entry.get("eg", ""), entry.get("note", ""))

    content = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return tuple(
        Code(c["code"], c["title"], c["recipe"], tuple(row(c["code"], entry) for entry in c["rows"])) for c in content
    )


def hint(name: str, value: str = "") -> str:
    """Return a sentence that says what a name of other code is here; empty for an unknown name.

    Args:
        name: as it was typed: `--model-name`, `model_name`, `lr_config.step`.
        value: its value, which is put into the answer.
    """
    wanted = _plain(name)
    rows = [row for code in codes() for row in code.rows if wanted in map(_plain, row.theirs)]
    row = next((row for row in rows if name in row.theirs), rows[0] if rows else None)
    if row is None:
        return ""
    spelled = name if name in row.theirs else next(text for text in row.theirs if _plain(text) == wanted)
    if row.ours is None:
        return f"{row.code}'s {spelled} has no counterpart here: {row.note} ({PAGE})"
    ours = row.ours.format(shlex.quote(value) if value else "VALUE")
    return f"{row.code}'s {spelled} is {ours} here{f' ({row.note})' if row.note else ''}; {PAGE} has more"


def hints(argv: Sequence[str]) -> list[str]:
    """Return the sentences of `hint` for the flags with a dash among arguments, which have their values behind them."""
    found = []
    for flag, after in zip(argv, [*argv[1:], "-"], strict=True):
        name, _, value = flag.partition("=")
        if name.startswith("-") and (line := hint(name, value or ("" if after.startswith("-") else after))):
            found.append(line)
    return found


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def markdown() -> str:
    """Return the tables of the page."""
    parts = []
    for code in codes():
        lines = [f"## {code.title}", "", f"Its recipe: `{code.recipe}`", "", "| theirs | ours | |", "|---|---|---|"]
        for row in code.rows:
            theirs = ", ".join(f"`{name}`" for name in row.theirs)
            ours = "-" if row.ours is None else f"`{row.ours.format(row.eg)}`"
            lines.append(f"| {theirs} | {ours} | {row.note} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
