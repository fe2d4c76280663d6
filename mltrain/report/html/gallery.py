"""Pictures of predictions: small JPEGs in the page, with true and predicted labels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mltrain.errors import DataError
from mltrain.pipeline.image_file import open_image
from mltrain.report.html.analysis import Entry, extremes

SIDE = 200
"""Longer side of a picture in pixels; a picture has about 6 kB."""
COUNT = 10
"""Pictures of a section."""
LINES = 6
"""Labels under a picture."""


@dataclass(frozen=True)
class Card:
    """A picture with its caption and labels."""

    picture: str | None
    """`data:` address; None if the file cannot be read"""
    file: str
    caption: str
    """the prediction that the picture is shown for"""
    kind: str
    """kind of this prediction: hit, wrong, missed or nothing"""
    labels: list[tuple[str, str, str]]
    """(name, probability in percent, kind)"""


@dataclass(eq=False, kw_only=True)
class Gallery:
    """Maker of the cards of one set of predictions."""

    probability: np.ndarray
    """fp32 (N, C)"""
    targets: np.ndarray
    """int8 (N, C) of 1, 0, -1"""
    predicted: np.ndarray
    """bool (N, C)"""
    files: Sequence[str]
    """N paths relative to `root`"""
    names: Sequence[str]
    """C class names"""
    root: Path | None
    """folder of the images; None: cards have no picture"""
    _pictures: dict[int, str | None] = field(default_factory=dict)

    def wrong(self) -> list[Card]:
        """Return cards of the wrong predictions with the highest probability."""
        entries = extremes(self.probability, (self.targets == 0) & self.predicted, highest=True, count=COUNT)
        return [self._card(e, f"{self.names[e.label]} {percent(e.probability)}", "wrong") for e in entries]

    def missed(self) -> list[Card]:
        """Return cards of the labels with the lowest probability that were not predicted."""
        entries = extremes(self.probability, (self.targets == 1) & ~self.predicted, highest=False, count=COUNT)

        def rank(entry: Entry) -> int:
            return int((self.probability[entry.image] > entry.probability).sum()) + 1

        of = f"of {len(self.names):,}"
        return [self._card(e, f"{self.names[e.label]}, ranked {rank(e):,} {of}", "missed") for e in entries]

    def examples(self) -> list[Card]:
        """Return cards of random images, the same ones each time."""
        n = len(self.files)
        chosen = np.sort(np.random.default_rng(0).permutation(n)[:COUNT])
        cards = []
        for i in chosen:
            true = self.targets[i] == 1
            found = int((true & self.predicted[i]).sum())
            wrong = int((self.predicted[i] & (self.targets[i] == 0)).sum())
            cards.append(self._card(Entry(int(i), -1, 0.0), f"{found} of {int(true.sum())} found, {wrong} wrong", ""))
        return cards

    @property
    def pictures(self) -> int:
        """Number of images that could be read so far."""
        return sum(picture is not None for picture in self._pictures.values())

    def _card(self, entry: Entry, caption: str, kind: str) -> Card:
        i = entry.image
        if i not in self._pictures:
            self._pictures[i] = None if self.root is None else thumbnail(self.root / self.files[i])
        return Card(self._pictures[i], self.files[i], caption, kind, self._labels(i, entry.label))

    def _labels(self, i: int, shown_for: int) -> list[tuple[str, str, str]]:
        """Return true and predicted labels of an image, the most probable first; `shown_for` is among them."""
        p, true, predicted = self.probability[i], self.targets[i] == 1, self.predicted[i]
        order = np.argsort(-p, kind="stable")
        listed = list(order[true[order] | predicted[order]])
        if len(listed) > LINES:
            # True labels come before wrongly predicted ones.
            first = sorted(listed, key=lambda k: (k != shown_for, not true[k]))[:LINES]
            listed = sorted(first, key=lambda k: -p[k])
        listed = listed or list(order[:3])
        kinds = np.where(
            true, np.where(predicted, "hit", "missed"), np.where(predicted & (self.targets[i] == 0), "wrong", "")
        )
        return [(self.names[k], percent(float(p[k])), str(kinds[k])) for k in listed]


def thumbnail(path: Path) -> str | None:
    """Return the `data:` address of a small JPEG, upright and on white; None if the file cannot be read."""
    try:
        with open_image(path) as image:
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            small = ImageOps.exif_transpose(image)
            small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
            if small.mode in ("RGBA", "LA", "P", "PA"):
                small = small.convert("RGBA")
                small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small)
            buffer = io.BytesIO()
            small.convert("RGB").save(buffer, "JPEG", quality=72, optimize=True)
    except (DataError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def percent(p: float) -> str:
    """Return a probability in percent, with more digits where it is small."""
    if p >= 0.995:
        return "100 %" if p > 0.9995 else f"{100 * p:.1f} %"
    return f"{100 * p:.0f} %" if p >= 0.095 else f"{100 * p:.1f} %" if p >= 0.001 else "<0.1 %"
