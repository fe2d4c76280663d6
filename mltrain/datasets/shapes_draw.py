"""Drawing the images of the `shapes` set: 20 outlines, four scenes, and the choice of objects for each image.

All choices come from NumPy generators keyed by (seed, split, purpose); an image depends on no other image.
"""

from __future__ import annotations

import colorsys
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

TAU = 2 * np.pi
SPLIT_KEYS = {"train": 0, "val": 1}
MAX_OBJECTS = 5
NUM_SCENES = 4
SUPERSAMPLE = 3


class Object(NamedTuple):
    """A drawn object, in pixels."""

    class_index: int
    box: tuple[float, float, float, float]
    """x, y, width, height"""
    area: float


def _polar(radius: np.ndarray, start: float = -TAU / 4) -> np.ndarray:
    angle = start + np.arange(len(radius)) * TAU / len(radius)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _regular(corners: int, start: float = -TAU / 4) -> np.ndarray:
    return _polar(np.ones(corners), start)


def _points(*pairs: float) -> np.ndarray:
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def _mirrored(half: np.ndarray) -> np.ndarray:
    """Complete an outline by its reflection in the origin."""
    return np.concatenate([half, -half])


def _outlines() -> dict[str, np.ndarray]:
    """Return the outline of each class in the unit disc, y down; the most frequent class comes first."""
    t = np.arange(48) * TAU / 48
    arc = np.linspace(-TAU / 4, TAU / 4, 24)
    half = np.stack([np.sin(arc), -np.cos(arc)], axis=1)
    right = np.stack([np.cos(arc), np.sin(arc)], axis=1)
    heart = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return {
        "disc": _regular(48),
        "square": _regular(4, TAU / 8),
        "triangle": _regular(3),
        "star": _polar(np.tile([1.0, 0.4], 5)),
        "cross": _mirrored(_points(-0.3, -1, 0.3, -1, 0.3, -0.3, 1, -0.3, 1, 0.3, 0.3, 0.3)),
        "bar": _points(-1, -0.25, 1, -0.25, 1, 0.25, -1, 0.25),
        "crescent": np.concatenate([right * [0.9, 1.0] - [0.3, 0], (right * [0.35, 1.0] - [0.3, 0])[::-1]]),
        "hexagon": _regular(6),
        "heart": np.stack([np.sin(t) ** 3, heart / 17], axis=1),
        "arrow": _points(-1, -0.2, 0.1, -0.2, 0.1, -0.7, 1, 0, 0.1, 0.7, 0.1, 0.2, -1, 0.2),
        "flower": _polar(0.7 + 0.3 * np.cos(5 * t)),
        "bolt": _points(0.2, -1, -0.6, 0.15, -0.05, 0.15, -0.25, 1, 0.6, -0.25, 0.05, -0.25, 0.55, -1),
        "house": _points(0, -1, 0.9, -0.2, 0.65, -0.2, 0.65, 0.9, -0.65, 0.9, -0.65, -0.2, -0.9, -0.2),
        "dome": np.concatenate([half, _points(1, 0.3, -1, 0.3)]) + np.array([0, 0.35]),
        "hourglass": _points(-0.7, -0.9, 0.7, -0.9, 0.12, 0, 0.7, 0.9, -0.7, 0.9, -0.12, 0),
        "corner": _points(-0.8, -0.9, -0.25, -0.9, -0.25, 0.35, 0.8, 0.35, 0.8, 0.9, -0.8, 0.9),
        "tee": _points(
            -0.9, -0.9, 0.9, -0.9, 0.9, -0.35, 0.28, -0.35, 0.28, 0.95, -0.28, 0.95, -0.28, -0.35, -0.9, -0.35
        ),
        "gear": _polar(np.tile([1.0, 1.0, 0.62, 0.62], 8)),
        "kite": _points(0, -1, 0.6, -0.25, 0, 1, -0.6, -0.25),
        "drop": _points(
            *(v for a in np.linspace(-0.12, 0.62, 24) * TAU for v in (0.62 * np.cos(a), 0.35 + 0.62 * np.sin(a))), 0, -1
        ),
    }


OUTLINES = _outlines()
CLASS_NAMES = tuple(OUTLINES)


def class_counts(num_images: int, largest: float, imbalance: float) -> np.ndarray:
    """Return the positives of each class, int64 (C,): they fall geometrically from largest * num_images."""
    ranks = np.arange(len(CLASS_NAMES)) / (len(CLASS_NAMES) - 1)
    counts = np.rint(largest * num_images * imbalance**-ranks).astype(np.int64)
    return np.clip(counts, 1, num_images)


def place_classes(seed: int, split: str, num_images: int, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose the classes of each image, bool (N, C), and its scene, int64 (N,).

    A class is 3 times as likely in its own scene, so classes co-occur; no image has more than 5 classes.
    """
    rng = np.random.default_rng([seed, SPLIT_KEYS[split], 0])
    scenes = rng.integers(0, NUM_SCENES, num_images)
    present = np.zeros((num_images, len(counts)), dtype=bool)
    for k in range(len(counts)):
        # Taking the images with the largest log weight + Gumbel noise is a weighted draw without replacement.
        score = (
            np.log(3.0) * (scenes == k % NUM_SCENES) - 0.5 * present.sum(1) - np.log(-np.log(rng.random(num_images)))
        )
        score[present.sum(1) >= MAX_OBJECTS] = -np.inf
        present[np.argsort(-score, kind="stable")[: counts[k]], k] = True
    return present & (present.cumsum(1) <= MAX_OBJECTS), scenes


def draw(
    seed: int, split: str, index: int, classes: np.ndarray, scene: int, image_size: int
) -> tuple[np.ndarray, list[Object]]:
    """Draw image `index`, uint8 (H, W, 3), with one object of each class; return it and its objects back to front."""
    rng = np.random.default_rng([seed, SPLIT_KEYS[split], 1 + index])
    width = image_size
    height = round(image_size * (0.75 + 0.25 * rng.random()))
    pixels = _background(rng, scene, height, width)
    objects: list[Object] = []
    centres: list[tuple[float, float, float]] = []
    for k in classes:
        radius, x, y = _free_place(rng, centres, width, height)
        centres.append((x, y, radius))
        outline = OUTLINES[CLASS_NAMES[k]]
        angle = (rng.random() - 0.5) * 0.7
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        polygon = (outline * (0.9 + 0.2 * rng.random(2))) @ turn.T * radius + [x, y]
        low, high = polygon.min(0).clip(0), polygon.max(0).clip(max=(width, height))
        left, top = (int(v) for v in np.floor(low))
        right, bottom = (int(v) for v in np.ceil(high))
        mask = _fill(polygon - [left, top], right - left, bottom - top)
        paint = _paint(rng, int(k), right - left, bottom - top, radius)
        patch = pixels[top:bottom, left:right]
        patch += mask[..., None] * (paint - patch)
        box = (*low.round(1).tolist(), *(high - low).round(1).tolist())
        objects.append(Object(int(k), box, round(float(mask.sum()), 1)))
    pixels += 6.0 * rng.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None]
    return pixels.clip(0, 255, out=pixels).astype(np.uint8), objects


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _background(rng: np.random.Generator, scene: int, height: int, width: int) -> np.ndarray:
    """Draw a gradient in the scene's tint with soft waves, float32 (H, W, 3)."""
    hue = scene / NUM_SCENES + 0.1 * (rng.random() - 0.5)
    top, bottom = (
        _colour(hue + 0.1 * rng.random(), 0.1 + 0.4 * rng.random(), 0.25 + 0.7 * rng.random()) for _ in range(2)
    )
    down = np.arange(height)[:, None]
    along = 0.6 * (rng.random() - 0.5) * np.arange(width)
    down_wave = 0.6 * (rng.random() - 0.5) * down + TAU * rng.random()
    wave = np.sin(along) * np.cos(down_wave) + np.cos(along) * np.sin(down_wave)  # sin(along + down), two short sines
    ramp = top + (bottom - top) * (down / height)
    return ramp.astype(np.float32)[:, None] + (14 * wave).astype(np.float32)[..., None]


def _free_place(
    rng: np.random.Generator, taken: list[tuple[float, float, float]], width: int, height: int
) -> tuple[float, float, float]:
    """Return (radius, x, y) of an object that hides little of the others: the best of 12 draws."""
    best, least = (0.0, 0.0, 0.0), np.inf
    radius = min(width, height) * (0.18 + 0.1 * rng.random())
    for across, down in rng.random((12, 2)).tolist():
        x, y = 0.8 * radius + across * (width - 1.6 * radius), 0.8 * radius + down * (height - 1.6 * radius)
        hidden = sum(max(0.0, radius + r - math.hypot(x - a, y - b)) for a, b, r in taken)
        if hidden < least:
            best, least = (radius, x, y), hidden
    return best


def _fill(polygon: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the coverage of each pixel, float (H, W) in 0..1."""
    canvas = Image.new("L", (width * SUPERSAMPLE, height * SUPERSAMPLE))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in (polygon * SUPERSAMPLE).tolist()], fill=255)
    return np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float64) / 255


def _paint(rng: np.random.Generator, k: int, width: int, height: int, radius: float) -> np.ndarray:
    """Return the surface of an object of class k, float (H, W, 3), usually in the colour and texture of its class."""
    typical_hue, typical_texture = (k * 0.618034 + 0.05) % 1.0, k % 3
    hue = typical_hue + 0.05 * (rng.random() - 0.5) if rng.random() < 0.96 else rng.random()
    texture = typical_texture if rng.random() < 0.92 else int(rng.integers(0, 3))
    value = 0.55 + 0.45 * rng.random()
    light, dark = _colour(hue, 0.85, value), _colour(hue, 0.9, value * 0.45)
    if texture == 0:
        return np.broadcast_to(light, (height, width, 3))
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    period = TAU / max(4.0, 0.55 * radius)
    stripes = np.broadcast_to(np.sin(x * period), (height, width))
    pattern = stripes if texture == 1 else stripes * np.sin(y * period) * 2
    return light + (dark - light) * (0.5 + 0.5 * np.tanh(3 * pattern))[..., None]
