"""Positions of random crops: image size and random numbers -> a box (top, left, height, width)."""

from __future__ import annotations

import math

import torch

Box = tuple[int, int, int, int]

RESIZED_TRIES = 10
SIDES_TRIES = 50


def below(n: int, u: float) -> int:
    """Map u in [0, 1) to an integer in 0..n - 1."""
    return min(int(u * n), n - 1)


def largest(height: int, width: int, shape: tuple[int, int], draws: list[float]) -> Box:
    """Return the largest box of a shape (height, width) at a random place; two draws.

    Of a square it is a square as large as the shorter side.
    """
    h, w = height, width
    if height * shape[1] <= width * shape[0]:
        w = min(width, max(1, round(height * shape[1] / shape[0])))
    else:
        h = min(height, max(1, round(width * shape[0] / shape[1])))
    return below(height - h + 1, draws[0]), below(width - w + 1, draws[1]), h, w


def random_resized(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], draws: list[float]
) -> Box:
    """Return Inception's crop: area within `scale`, aspect ratio within `ratio`; four draws for each of ten tries."""
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for i in range(RESIZED_TRIES):
        u = draws[4 * i : 4 * i + 4]
        area = height * width * (scale[0] + u[0] * (scale[1] - scale[0]))
        aspect = math.exp(log_low + u[1] * (log_high - log_low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return below(height - h + 1, u[2]), below(width - w + 1, u[3]), h, w
    # No draw fits: take the largest centred box whose ratio is allowed.
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def random_sides(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Box:
    """Draw the share of each side within `scale`, up to 50 times until the aspect ratio is within `ratio`.

    If none fits, as for a very long image, the box is the whole image.
    """
    for _ in range(SIDES_TRIES):
        u = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
        h, w = (max(1, round(s * (scale[0] + u[k] * (scale[1] - scale[0])))) for k, s in enumerate((height, width)))
        if ratio[0] <= w / h <= ratio[1]:
            return below(height - h + 1, u[2]), below(width - w + 1, u[3]), h, w
    return 0, 0, height, width
