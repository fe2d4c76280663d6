"""Maps of classes drawn over an image: one picture per class, and a sheet of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mltrain.report.pictures import captioned, tiled

STRENGTH = 0.75
"""share of the colour where a map is highest"""
TILE = 256
"""pixels, width of a picture in a sheet"""
COLUMNS = 4


def strength(values: np.ndarray, kind: str) -> np.ndarray:
    """Scale a map (h, w) to 0..1: attention from its lowest to its highest value, evidence from 0 to its highest.

    Returns zeros where there is nothing to show: attention that is the same everywhere, or no evidence for the class.
    """
    values = np.asarray(values, dtype=np.float64)
    low = values.min() if kind == "attention" else 0.0
    high = values.max()
    if not high - low > 1e-9 * abs(high):
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)


def overlay(image: np.ndarray, values: np.ndarray, kind: str) -> np.ndarray:
    """Stretch a map (h, w) over an image, uint8 (H, W, 3), and blend its colours in; returns uint8 (H, W, 3)."""
    import matplotlib

    height, width = image.shape[:2]
    small = Image.fromarray(strength(values, kind).astype(np.float32))
    share = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
    colours = matplotlib.colormaps["inferno"](share)[..., :3] * 255
    alpha = STRENGTH * share[..., None]
    return np.rint(image * (1 - alpha) + colours * alpha).astype(np.uint8)


def sheet(image: np.ndarray, overlays: Sequence[tuple[str, float, np.ndarray, np.ndarray]], kind: str) -> Image.Image:
    """Arrange an image and the overlays of its classes with captions.

    Colours show where attention is highest, not how high: the caption tells that, as a multiple of the mean.

    Args:
        image: uint8 (H, W, 3).
        overlays: name of the class, probability, overlay uint8 (H, W, 3), map (h, w).
        kind: "evidence" or "attention".
    """
    places = " x ".join(str(side) for side in overlays[0][3].shape)  # a coarse map looks as smooth as a fine one
    first = captioned(image, [("title", "image"), ("text", f"maps: {kind}, {places}")], width=TILE, rows=2)
    others = [
        captioned(drawn, [("title", name), ("text", f"{score:.2f}{_peak(values, kind)}")], width=TILE, rows=2)
        for name, score, drawn, values in overlays
    ]
    return tiled([first, *others], COLUMNS)


def _peak(values: np.ndarray, kind: str) -> str:
    return f"   peak {values.max() / values.mean():.1f} x mean" if kind == "attention" else ""
