"""Docstrings begin with a verb or a noun of the field."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.promises.runs import ROOT

REFUSED = ("What", "Of", "As", "Whether", "Where", "How", "Which", "In place")
MODULES = sorted((ROOT / "mltrain").rglob("*.py"))


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of docstrings, of fields too (a string below an assignment)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            for statement in statements if isinstance(statements, list) else []:
                value = statement.value if isinstance(statement, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield statement.lineno, value.value.strip()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "mltrain")))
def test_a_docstring_begins_with_a_verb_or_a_noun(path: Path) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]}"
        for line, text in docstrings(path)
        if any(text.startswith(f"{word} ") for word in REFUSED)
    ]
    assert not wrong, "\n".join(wrong)
