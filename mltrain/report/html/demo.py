"""Parts of the demo page: the labels of an image as a table, its class maps and the nearest training images."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mltrain.report import palette
from mltrain.report.html.page import render
from mltrain.report.overlays import colours, overlay, peak
from mltrain.report.pictures import jpeg

SIDE = 720
"""pixels, of the longer side of a picture when it is enlarged"""


@dataclass(frozen=True)
class Row:
    """A class in the table."""

    name: str
    score: float
    """probability, 0..1"""
    predicted: bool
    threshold: float | None = None
    """probability; None: there is none"""

    @property
    def score_text(self) -> str:
        """The score with enough digits to tell it from its threshold."""
        return _digits(self.score, self.threshold)

    @property
    def threshold_text(self) -> str:
        """The threshold with the same digits."""
        return "" if self.threshold is None else _digits(self.threshold, self.score)


@dataclass(frozen=True)
class Answer:
    """Text of the page about the labels of an image, or the reason why there is none."""

    rows: Sequence[Row] = ()
    summary: str = ""
    legend: str = ""
    problem: str = ""

    @property
    def thresholds(self) -> bool:
        """Return whether the table has a column of thresholds."""
        return any(row.threshold is not None for row in self.rows)


@dataclass(frozen=True)
class Picture:
    """A picture with its caption."""

    data: str
    """JPEG file, base64"""
    title: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Part:
    """A section with pictures; without any, its lead says why."""

    title: str
    lead: str
    pictures: Sequence[Picture] = ()
    scale: dict[str, str] = field(default_factory=dict)
    """ends and colours of a colour scale"""


def labels_html(answer: Answer) -> str:
    """Return the table of an answer."""
    return _wrapped(f'<div class="card">{render("demo_labels.html", answer=answer)}</div>')


def pictures_html(parts: Sequence[Part]) -> str:
    """Return the sections with pictures."""
    return _wrapped(render("demo_pictures.html", parts=parts))


def heading_html(title: str, facts: Sequence[str]) -> str:
    """Return the head of the page."""
    from markupsafe import escape

    return _wrapped(f'<h1>{escape(title)}</h1><p class="small">{escape(" · ".join(facts))}</p>')


def page_css() -> str:
    """Return the style of the page: light, and dark where Gradio gives its body the class `dark`."""
    style = (Path(__file__).parent / "templates" / "demo.css").read_text(encoding="utf-8")
    sides = ((":root", palette.LIGHT), (".dark", palette.DARK))
    return (
        "".join(f"{side} {{ {' '.join(f'--{k}: {v};' for k, v in found.items())} }}\n" for side, found in sides) + style
    )


def map_part(image: np.ndarray, maps: np.ndarray, kind: str, rows: Sequence[Row]) -> Part:
    """Draw the maps of classes over an image.

    Args:
        image: the part that the model gets, uint8 (H, W, 3).
        maps: (K, h, w), one for each row.
        kind: "evidence" or "attention".
        rows: the classes.
    """
    drawn = [
        Picture(_encoded(overlay(image, values, kind)), row.name, (f"score {row.score_text}", peak(values, kind)))
        for row, values in zip(rows, maps, strict=True)
    ]
    places = " x ".join(str(side) for side in maps.shape[1:])
    means = (
        "how much each place adds to the class's logit, where that is positive"
        if kind == "evidence"
        else "where the class's query looks, which need not be evidence for the class"
    )
    low = "0, or less" if kind == "evidence" else "lowest of the map"
    shades = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in colours(np.linspace(0, 1, 9)))
    scale = {"low": low, "high": "highest of the map", "colours": shades}
    return Part("Class maps", f"{kind.capitalize()}: {means}. Maps of {places} places.", drawn, scale)


def picture_of(image: np.ndarray, title: str, lines: Sequence[str]) -> Picture:
    """Make a picture of an image, uint8 (H, W, 3)."""
    return Picture(_encoded(image), title, lines)


def _encoded(image: np.ndarray) -> str:
    return base64.b64encode(jpeg(Image.fromarray(np.ascontiguousarray(image)), side=SIDE)).decode("ascii")


def _digits(value: float, other: float | None) -> str:
    """Return a probability with two digits, or as many, up to 6, as tell it from another."""
    digits = 2
    while other is not None and value != other and digits < 6 and f"{value:.{digits}f}" == f"{other:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f}"


def _wrapped(content: str) -> str:
    return f'<div class="demo">{content}</div>'
