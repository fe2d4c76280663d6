"""YAML files of people we need not trust, and numbers that YAML 1.1 reads in a surprising way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a safe loader builds plain values only
MOST_REPEATED = 10_000
DEEPEST = 64
_SURPRISES = {
    re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"): "a number to base 60",
    re.compile(r"[-+]?0[0-7_]+"): "an octal number",
}


def check_yaml(text: str) -> None:
    """Raise ValueError, with the line, for a text that a loader should not be given.

    It refuses aliases that expand to a huge tree (the loader shares their values, but whoever walks the tree visits
    each), deep nesting, and plain numbers that YAML 1.1 does not read as people do: ``1:30`` is 90, ``010`` is 8. Takes
    time in proportion to the length of the text. Raises yaml.YAMLError for other mistakes.
    """
    count = repeated = 0
    sizes: dict[str | None, int] = {}
    opened: list[tuple[str | None, int]] = []  # anchor and count at the start of each open list and mapping
    for event in yaml.parse(text, Loader=LOADER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"line {line}: *{event.anchor} refers to what contains it, or to nothing")
            count += sizes[event.anchor]
            repeated += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            if event.implicit[0]:
                _check_number(event.value, line)
            size = 1 + len(event.value) // 100
            count += size
            sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = opened.pop()
            sizes[anchor] = count - start
        if repeated > MOST_REPEATED:
            raise ValueError(f"line {line}: its aliases repeat more than {MOST_REPEATED:,} values; write them out")
        if len(opened) > DEEPEST:
            raise ValueError(f"line {line}: nested more than {DEEPEST} levels deep")


def read_yaml(path: Path) -> Any:
    """Return the plain values of a file. Raises ValueError, yaml.YAMLError or OSError."""
    text = path.read_text(encoding="utf-8")
    check_yaml(text)
    return yaml.load(text, Loader=LOADER)


def _check_number(text: str, line: int) -> None:
    for pattern, name in _SURPRISES.items():
        if pattern.fullmatch(text):
            raise ValueError(
                f"line {line}: {text} is {name} in YAML, which is {yaml.load(text, Loader=LOADER)}; write the number "
                f'itself, or quote the text: "{text}"'
            )
