"""RandAugment as the published training code of ASL has it: the package `randaugment` 1.0.2, not the paper's.

Two of 15 operations, drawn alike and with replacement, each applied with probability 1/2, at a magnitude of 1 to 9
tenths of the operation's range. So a quarter of the images stays as it is, and some operations change little. The
operations and ranges are facts of that package; the code is our own, and draws from the numbers it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from mltrain.pipeline.crops import below

GREY = (128, 128, 128)
"""what moves into the picture"""
CUTOUT_COLOUR = (125, 122, 113)
DRAWS = 12
"""numbers in [0, 1) that `policy` takes: per operation its choice, magnitude, application, sign, and two for a place"""
LEVELS = 9

Operation = Callable[[Image.Image, float, float, tuple[float, float]], Image.Image]
"""picture, m (the magnitude 1..9 over 9), sign, and two numbers that choose a place"""


def policy(picture: Image.Image, draws: list[float]) -> Image.Image:
    """Apply two random operations to an RGB picture.

    Args:
        picture: the picture; it is not changed.
        draws: `DRAWS` numbers in [0, 1).
    """
    for choice, level, applied, sign, *place in (draws[:6], draws[6:]):
        if applied < 0.5:
            operation = list(OPERATIONS.values())[below(len(OPERATIONS), choice)]
            magnitude = (1 + below(LEVELS, level)) / LEVELS
            picture = operation(picture, magnitude, -1.0 if sign < 0.5 else 1.0, (place[0], place[1]))
    return picture


def _moved(picture: Image.Image, matrix: tuple[float, ...], resample: Image.Resampling) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample, fillcolor=GREY)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, m, sign, place: kind(picture).enhance(1 + sign * 0.9 * m)


def _cut_out(picture: Image.Image, m: float, sign: float, place: tuple[float, float]) -> Image.Image:
    """Fill a square of up to 20 pixels around a random pixel, clipped at the border."""
    half = round(20 * m) // 2
    (width, height), result = picture.size, picture.copy()
    x, y = below(width, place[0]), below(height, place[1])
    right, bottom = min(width, x + half), min(height, y + half)
    ImageDraw.Draw(result).rectangle((max(0, x - half), max(0, y - half), right - 1, bottom - 1), fill=CUTOUT_COLOUR)
    return result


_NEAREST, _BICUBIC = Image.Resampling.NEAREST, Image.Resampling.BICUBIC
_FARTHEST = 150 / 331  # of the side; AutoAugment's 150 pixels of its 331

OPERATIONS: dict[str, Operation] = {
    "invert": lambda picture, m, sign, place: ImageOps.invert(picture),
    "cutout": _cut_out,
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "autocontrast": lambda picture, m, sign, place: ImageOps.autocontrast(picture),
    "posterize": lambda picture, m, sign, place: ImageOps.posterize(picture, round(8 - 4 * m)),
    "shear_x": lambda picture, m, sign, place: _moved(picture, (1, 0.3 * m * sign, 0, 0, 1, 0), _BICUBIC),
    "translate_x": lambda picture, m, sign, place: _moved(
        picture, (1, 0, _FARTHEST * m * sign * picture.width, 0, 1, 0), _NEAREST
    ),
    "translate_y": lambda picture, m, sign, place: _moved(
        picture, (1, 0, 0, 0, 1, _FARTHEST * m * sign * picture.height), _NEAREST
    ),
    "shear_y": lambda picture, m, sign, place: _moved(picture, (1, 0, 0, 0.3 * m * sign, 1, 0), _BICUBIC),
    "rotate": lambda picture, m, sign, place: picture.rotate(30 * m, fillcolor=GREY),  # one way only, as published
    "equalize": lambda picture, m, sign, place: ImageOps.equalize(picture),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "color": _enhanced(ImageEnhance.Color),
    "solarize": lambda picture, m, sign, place: ImageOps.solarize(picture, math.ceil(256 - 256 * m)),
    "brightness": _enhanced(ImageEnhance.Brightness),
}
