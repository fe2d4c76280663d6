"""Maps of classes drawn over an image: one picture per class, and a sheet of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mltrain.report.pictures import captioned, tiled, with_scale

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
    height, width = image.shape[:2]
    small = Image.fromarray(strength(values, kind).astype(np.float32))
    share = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
    alpha = STRENGTH * share[..., None]
    return np.rint(image * (1 - alpha) + colours(share) * alpha).astype(np.uint8)


def sheet(image: np.ndarray, overlays: Sequence[tuple[str, float, np.ndarray, np.ndarray]], kind: str) -> Image.Image:
    """Arrange an image and the overlays of its classes with captions, above the scale of their colours.

    Colours show where a map is highest, not how high. The caption tells that: evidence in logits, attention as a
    multiple of its mean.

    Args:
        image: uint8 (H, W, 3).
        overlays: name of the class, probability, overlay uint8 (H, W, 3), map (h, w).
        kind: "evidence" or "attention".
    """
    places = " x ".join(str(side) for side in overlays[0][3].shape)  # a coarse map looks as smooth as a fine one
    first = captioned(image, [("title", "image"), ("text", f"maps: {kind}, {places}")], width=TILE, rows=2)
    others = [
        captioned(drawn, [("title", name), ("text", f"{score:.2f}   {peak(values, kind)}")], width=TILE, rows=2)
        for name, score, drawn, values in overlays
    ]
    low = "0, or less" if kind == "evidence" else "lowest of the map"
    scale = np.rint(colours(np.linspace(0, 1, 160)[None])).astype(np.uint8)
    return with_scale(tiled([first, *others], COLUMNS), scale, f"{kind}: {low}", "highest of the map")


def colours(share: np.ndarray) -> np.ndarray:
    """Return the colours of shares 0..1 (...), as float64 (..., 3) in 0..255."""
    import matplotlib

    found: np.ndarray = matplotlib.colormaps["inferno"](share)[..., :3] * 255
    return found


def peak(values: np.ndarray, kind: str) -> str:
    """Say how high a map is, which its colours do not: evidence in logits, attention as a multiple of its mean."""
    if kind == "attention":
        return f"peak {values.max() / values.mean():.1f} x mean"
    return f"peak {values.max():+.2g} logit" if values.max() > 0 else "no evidence"
