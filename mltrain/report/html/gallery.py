"""Pictures of predictions: small JPEGs in the page, with true and predicted labels."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mltrain.errors import DataError
from mltrain.pipeline.image_file import open_image
from mltrain.report.html.analysis import Entry, extremes

SIDE = 288
"""Longer side of a picture of a section in pixels; a picture has about 10 kB."""
SMALL = 160
"""Longer side of a picture that only the view of a class has; about 4 kB."""
SMALLS = 240
"""Most pictures of the views of classes."""
COUNT = 10
"""Pictures of a section."""
LINES = 6
"""Labels under a picture."""
OF_CLASS = 4
"""Images of a kind in the view of a class."""
MANY = 200
"""Classes above which a view has two images of a kind."""
VIEWED = 1000
"""Classes that have a view: the most frequent ones."""

Card = dict[str, Any]
"""An image with its caption: `image` (number in `Gallery.pictures`), `caption`, `kind` of the prediction that it is
shown for (hit, wrong, missed or nothing), and `labels`, each (name, probability in percent, kind)."""


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
    _sides: dict[int, int] = field(default_factory=dict)
    """image -> size of its picture; 0: none"""
    _places: dict[int, int] = field(default_factory=dict)
    """image -> number in `pictures`"""
    _ranked: dict[int, list[int]] = field(default_factory=dict)
    """image -> its true and predicted classes, the most probable first"""

    def wrong(self) -> list[Card]:
        """Return cards of the wrong predictions with the highest probability."""
        entries = extremes(self.probability, (self.targets == 0) & self.predicted, highest=True, count=COUNT)
        return [self._card(e, f"{self.names[e.label]} {percent(e.probability)}", "wrong", SIDE) for e in entries]

    def missed(self) -> list[Card]:
        """Return cards of the labels with the lowest probability that were not predicted."""
        entries = extremes(self.probability, (self.targets == 1) & ~self.predicted, highest=False, count=COUNT)

        def rank(entry: Entry) -> int:
            return int((self.probability[entry.image] > entry.probability).sum()) + 1

        of = f"of {len(self.names):,}"
        return [self._card(e, f"{self.names[e.label]}, ranked {rank(e):,} {of}", "missed", SIDE) for e in entries]

    def examples(self) -> list[Card]:
        """Return cards of random images, the same ones each time."""
        n = len(self.files)
        chosen = np.sort(np.random.default_rng(0).permutation(n)[:COUNT])
        cards = []
        for i in chosen:
            true = self.targets[i] == 1
            found = int((true & self.predicted[i]).sum())
            wrong = int((self.predicted[i] & (self.targets[i] == 0)).sum())
            caption = f"{found} of {int(true.sum())} found, {wrong} wrong"
            cards.append(self._card(Entry(int(i), -1, 0.0), caption, "", SIDE))
        return cards

    def of_classes(self, classes: Sequence[int]) -> dict[int, dict[str, list[Card]]]:
        """Return cards of each class: `best` found, `worst` (wrong predictions, the surest first), `missed`.

        At most `OF_CLASS` of each; where there are many classes, fewer, so that `SMALLS` pictures do for all. Every
        class keeps its first image of each kind, without a picture if need be.
        """
        chosen: dict[int, dict[str, np.ndarray]] = {}
        for k in classes:
            p, true, predicted = self.probability[:, k], self.targets[:, k] == 1, self.predicted[:, k]
            chosen[k] = {
                "best": _first(np.flatnonzero(true & predicted), -p),
                "worst": _first(np.flatnonzero((self.targets[:, k] == 0) & predicted), -p),
                "missed": _first(np.flatnonzero(true & ~predicted), p),
            }
        cards: dict[int, dict[str, list[Card]]] = {k: {kind: [] for kind in found} for k, found in chosen.items()}
        left, kinds = SMALLS, {"best": "hit", "worst": "wrong", "missed": "missed"}
        for place in range(OF_CLASS if len(chosen) <= MANY else 2):
            for k, found in chosen.items():
                for kind, images in found.items():
                    if place >= len(images):
                        continue
                    i, fresh = int(images[place]), not self._sides.get(int(images[place]))
                    if fresh and not left and place:
                        continue
                    side = SMALL if left else 0
                    left -= fresh and side > 0
                    entry = Entry(i, k, float(self.probability[i, k]))
                    cards[k][kind].append(self._card(entry, percent(entry.probability), kinds[kind], side))
        return cards

    def pictures(self) -> list[dict[str, Any]]:
        """Return file and picture (a `data:` address, or None) of the images of all cards made so far."""
        return [
            {
                "file": self.files[i],
                "picture": thumbnail(self.root / self.files[i], side) if side and self.root is not None else None,
            }
            for i, side in self._sides.items()
        ]

    def _card(self, entry: Entry, caption: str, kind: str, side: int) -> Card:
        i = entry.image
        self._sides[i] = max(side, self._sides.get(i, 0))
        place = self._places.setdefault(i, len(self._places))
        return {"image": place, "caption": caption, "kind": kind, "labels": self._labels(i, entry.label)}

    def _labels(self, i: int, shown_for: int) -> list[tuple[str, str, str]]:
        """Return true and predicted labels of an image, the most probable first; `shown_for` is among them."""
        p, true, predicted = self.probability[i], self.targets[i] == 1, self.predicted[i]
        if i not in self._ranked:  # once an image, because many classes may show it
            order = np.argsort(-p, kind="stable")
            self._ranked[i] = order[true[order] | predicted[order]].tolist() or order[:3].tolist()
        listed = self._ranked[i]
        if len(listed) > LINES:
            # True labels come before wrongly predicted ones.
            first = sorted(listed, key=lambda k: (k != shown_for, not true[k]))[:LINES]
            listed = sorted(first, key=lambda k: -p[k])

        def kind(k: int) -> str:
            if true[k]:
                return "hit" if predicted[k] else "missed"
            return "wrong" if predicted[k] and self.targets[i, k] == 0 else ""

        return [(self.names[k], percent(float(p[k])), kind(k)) for k in listed]


def _first(images: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return the first `OF_CLASS` of the images in the order of their keys."""
    return images[np.argsort(key[images], kind="stable")[:OF_CLASS]]


def thumbnail(path: Path, side: int = 200) -> str | None:
    """Return the `data:` address of a small JPEG, upright and on white; None if the file cannot be read."""
    try:
        with open_image(path) as image:
            image.draft("RGB", (2 * side, 2 * side))
            small = ImageOps.exif_transpose(image)
            small.thumbnail((side, side), Image.Resampling.BILINEAR)
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
