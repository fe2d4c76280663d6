"""Where a random crop lies: image size and random numbers -> a box (top, left, height, width)."""

from __future__ import annotations

import math

import torch

Box = tuple[int, int, int, int]

RESIZED_TRIES = 10
SIDES_TRIES = 50


def below(n: int, u: float) -> int:
    """An integer in 0..n - 1 from u in [0, 1)."""
    return min(int(u * n), n - 1)


def shorter_side(height: int, width: int, draws: list[float]) -> Box:
    """A square as large as the shorter side; two draws."""
    side = min(height, width)
    return below(height - side + 1, draws[0]), below(width - side + 1, draws[1]), side, side


def random_resized(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], draws: list[float]
) -> Box:
    """Inception's crop: an area within `scale`, an aspect ratio within `ratio`; four draws for each of ten tries."""
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for i in range(RESIZED_TRIES):
        u = draws[4 * i : 4 * i + 4]
        area = height * width * (scale[0] + u[0] * (scale[1] - scale[0]))
        aspect = math.exp(log_low + u[1] * (log_high - log_low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return below(height - h + 1, u[2]), below(width - w + 1, u[3]), h, w
    # No draw fits: the largest centred part whose ratio is allowed.
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def random_sides(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Box:
    """Each side a share within `scale` of the image's, drawn again up to 50 times for a ratio within `ratio`.

    Where none fits, as for a very long image, all of it is kept.
    """
    for _ in range(SIDES_TRIES):
        u = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
        h, w = (max(1, round(s * (scale[0] + u[k] * (scale[1] - scale[0])))) for k, s in enumerate((height, width)))
        if ratio[0] <= w / h <= ratio[1]:
            return below(height - h + 1, u[2]), below(width - w + 1, u[3]), h, w
    return 0, 0, height, width
