"""Looks of compared rows: one setting is the colour, another the shape, dash or pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mltrain.report.compare import Comparison, Row
from mltrain.report.html.page import plot_text
from mltrain.report.palette import SERIES
from mltrain.report.runs import spelled

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PATTERNS = ("", "/", "x", ".", "-", "+")
MOST = 20
"""Rows in bars and curves where two settings tell them apart."""

Kind = Literal["marker", "line", "bar"]


@dataclass(frozen=True)
class Look:
    """Colour, and number of the shape, dash or pattern, of a row."""

    color: str
    shape: int = 0
    value: str = ""
    """value of the setting that the colour stands for"""

    @property
    def symbol(self) -> str:
        """Symbol of its points."""
        return SYMBOLS[self.shape]

    @property
    def dash(self) -> str:
        """Dash of its lines."""
        return DASHES[self.shape]

    @property
    def pattern(self) -> dict[str, Any]:
        """Pattern of its bars."""
        return {
            "shape": PATTERNS[self.shape],
            "solidity": 0.35,
            "fillmode": "overlay",
            "fgcolor": "rgba(255,255,255,.75)",
        }


@dataclass(frozen=True)
class Looks:
    """The looks of the rows of a table."""

    rows: dict[int, Look]
    """by id of the row; a row without one is drawn in grey"""
    hue: str | None = None
    """setting that the colour stands for; None: each row has its own colour"""
    shape: str | None = None
    """setting that the shape stands for"""
    values: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """values of both, in the order of colours and of shapes"""

    def of(self, row: Row) -> Look:
        """Return the look of a row."""
        return self.rows.get(id(row), Look("--neutral"))

    @property
    def most(self) -> int:
        """Rows that bars and curves can tell apart."""
        return MOST if self.shape is not None else len(SERIES)

    @property
    def text(self) -> str:
        """Sentence that says what colour and shape stand for; empty where each row has its own colour."""
        return f" Colour: {self.hue}; shape: {self.shape}." if self.shape is not None else ""

    def legend(self, kind: Kind) -> list[dict[str, Any]]:
        """Return traces without points that explain colours and shapes; none where the rows name themselves."""
        if self.shape is None:
            return []
        entries = [(f"{self.hue}={v}", Look(SERIES[k]), v) for k, v in enumerate(self.values[0])]
        entries += [(f"{self.shape}={v}", Look("--muted", k), "") for k, v in enumerate(self.values[1])]
        traces = []
        for name, look, group in entries:
            trace: dict[str, Any] = {"x": [None], "y": [None], "name": plot_text(name), "hoverinfo": "skip"}
            if group:
                trace["legendgroup"] = group
            if kind == "bar":
                # In the place of the first row, so that they take none of their own.
                style = {"color": look.color, "pattern": look.pattern}
                trace |= {"type": "bar", "marker": style, "offsetgroup": "row 0"}
            elif kind == "line":
                trace |= {"type": "scatter", "mode": "lines", "line": {"color": look.color, "dash": look.dash}}
            else:
                marker = {"color": look.color, "symbol": look.symbol, "size": 10}
                trace |= {"type": "scatter", "mode": "markers", "marker": marker}
            traces.append(trace)
        return traces


def looks_of(table: Comparison) -> Looks:
    """Choose the looks of rows: of two settings the one with more values is the colour, the other the shape.

    With one setting, or where there are too many values, each of the best rows has a colour of its own.
    """
    keys = table.columns[:2]
    if len(keys) == 2:
        values = [_values(table.rows, key) for key in keys]
        order = sorted((0, 1), key=lambda k: (-len(values[k]), k))
        (hue, colours), (shape, shapes) = ((keys[k], values[k]) for k in order)
        if 1 < len(shapes) <= len(SYMBOLS) and len(colours) <= len(SERIES):
            found = {}
            for row in table.rows:
                value = _text(row, hue)
                found[id(row)] = Look(SERIES[colours.index(value)], shapes.index(_text(row, shape)), value)
            return Looks(found, hue, shape, (tuple(colours), tuple(shapes)))
    return Looks({id(row): Look(color) for color, row in zip(SERIES, table.rows, strict=False)})


def _values(rows: Sequence[Row], key: str) -> list[str]:
    """Return the values of a setting, numbers by their size."""

    def order(text: str) -> list[Any]:
        parts = re.split(r"(\d+\.?\d*)", text)
        return [(0, float(part), "") if part[:1].isdigit() else (1, 0.0, part) for part in parts]

    return sorted({_text(row, key) for row in rows}, key=order)


def _text(row: Row, key: str) -> str:
    return spelled(row.settings[key]) if key in row.settings else "–"
