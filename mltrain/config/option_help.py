"""Help on the options of a dataclass: its fields with their defaults, meanings and allowed values."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap

from mltrain.config.schema import Option, section_options
from mltrain.config.types import Choice, OneOf
from mltrain.text import spell

WIDTH = 120
INDENT = 4
HARD_SPACE = "\N{NO-BREAK SPACE}"  # keeps a range on one line


def described_options(section: type) -> dict[str, str]:
    """Return `key=default` of each option of a dataclass with its meaning and the allowed choices or range."""
    meanings, options = field_meanings(section), section_options(section).items()
    return {f"{key}={spell(option.default)}": _with_allowed(meanings.get(key, ""), option) for key, option in options}


def aligned(rows: dict[str, str]) -> str:
    """Return terms and their descriptions in two columns, wrapped."""
    column = INDENT + max(map(len, rows)) + 3
    lines: list[str] = []
    for term, text in rows.items():
        first = (" " * INDENT + term).ljust(column)
        lines += textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * column)
    return "\n".join(lines).replace(HARD_SPACE, " ")


def field_meanings(section: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass and of its bases, read from their source."""
    meanings: dict[str, str] = {}
    for owner in reversed(section.__mro__[:-1]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in itertools.pairwise(definition.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                meanings[field.target.id] = " ".join(below.value.value.split())
    return meanings


def _with_allowed(meaning: str, option: Option) -> str:
    """Return a meaning with the option's range after it, or its choices before it where it does not explain each."""
    kinds = option.kind.options if isinstance(option.kind, OneOf) else (option.kind,)
    choices = [spell(value) for kind in kinds if isinstance(kind, Choice) for value in kind.values]
    if choices and not all(f"{choice}:" in meaning for choice in choices):
        return f"{' | '.join(choices)}: {meaning}"
    if option.least is None:
        return meaning
    bounds = f"at least {option.least}" if option.most is None else f"{option.least} to {option.most}"
    return f"{meaning} ({bounds.replace(' ', HARD_SPACE)})"
