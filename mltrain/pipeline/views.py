"""Views of an image: one resized in several ways at once, flips and crops, for test-time augmentation and ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from mltrain.pipeline.augment import EvalResize
from mltrain.pipeline.batch import Transform
from mltrain.sizes import ImageSize, area, height_width, in_pixels, scaled, simplest

Tta = Literal["flip", "five_crop", "sizes"]
Resize = Callable[[ImageSize], Transform]
"""size in pixels -> the transform that gives images of that size"""


class SeveralResizes:
    """The transform that gives an image in several sizes, packed into the pixels of one square.

    Batches have images of one shape. Here the pixels of all sizes follow each other in that shape, row by row; unused
    pixels at its end are 0. `unpack` gives the sizes back, as views of the batch where its memory allows that.
    """

    def __init__(self, resizes: Sequence[Transform]) -> None:
        self._resizes = tuple(resizes)
        self._ends = np.cumsum([3 * area(resize.image_size) for resize in resizes]).tolist()
        self.image_size: ImageSize = math.isqrt(self._ends[-1] // 3 - 1) + 1

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        packed = torch.zeros(3 * area(self.image_size), dtype=torch.uint8)
        start = 0
        for resize, end in zip(self._resizes, self._ends, strict=True):
            packed[start:end] = resize(image).permute(1, 2, 0).reshape(-1)
            start = end
        return packed.view(*height_width(self.image_size), 3).permute(2, 0, 1)

    def unpack(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the batches (B, 3, h, w) of each size in packed images (B, 3, image_size, image_size)."""
        pixels = images.permute(0, 2, 3, 1).reshape(len(images), -1)
        found, start = [], 0
        for resize, end in zip(self._resizes, self._ends, strict=True):
            size = height_width(resize.image_size)
            found.append(pixels[:, start:end].reshape(-1, *size, 3).permute(0, 3, 1, 2))
            start = end
        return found

    def __repr__(self) -> str:
        return f"SeveralResizes({', '.join(map(repr, self._resizes))})"


def resizes_for(tta: Tta | None, resize: Resize, size: ImageSize, step: tuple[int, int]) -> list[Transform]:
    """Return the transforms that give what the views of an image are made of.

    Args:
        tta: the views; None: the image as the model was evaluated in training.
        resize: the transform of evaluation, by its size.
        size: that of the model's input, in pixels.
        step: pixels between two places of the model's last feature map, down and across; sizes are multiples of it.

    Raises:
        ValueError: the model's input is too small to have a smaller one.
    """
    if tta == "five_crop":
        return [_larger(resize, size)]
    if tta == "sizes":
        sides = height_width(size)
        # 0.875 and 1.125 of each side, as near as the steps allow
        change = [unit * max(1, round(side / 8 / unit)) for side, unit in zip(sides, step, strict=True)]
        if any(less >= side for less, side in zip(change, sides, strict=True)):
            raise ValueError(
                f"the input of {in_pixels(size)} is one step of the feature map, so there is no smaller one"
            )
        smaller, larger = ((sides[0] + k * change[0], sides[1] + k * change[1]) for k in (-1, 1))
        return [resize(simplest(smaller)), resize(size), resize(simplest(larger))]
    return [resize(size)]


def _larger(resize: Resize, size: ImageSize) -> Transform:
    """Return the transform whose corners and centre are taken: 8/7 of the size, 256 for 224 as Krizhevsky et al. did.

    An evaluation that resizes to S / crop_pct and takes the centre keeps its own ratio, and its view is the centre.
    """
    usual = resize(size)
    if not isinstance(usual, EvalResize):
        return resize(scaled(size, 8 / 7))
    kept = usual.crop_pct if usual.crop_pct < 1 else 7 / 8
    height, width = (math.floor(side / kept) for side in height_width(size))
    return EvalResize(image_size=(height, width), resize=usual.resize, interpolation=usual.interpolation)


def views(tta: Tta | None, images: Sequence[torch.Tensor], size: ImageSize) -> list[torch.Tensor]:
    """Return the views of a batch, each (B, 3, h, w), from what the transforms of `resizes_for` gave.

    - flip: the image, and its mirror image.
    - five_crop: top left, top right, bottom left, bottom right and centre (Krizhevsky et al. 2012, without mirroring).
    - sizes: the image in three sizes.
    """
    if tta == "flip":
        return [images[0], images[0].flip(-1)]
    if tta == "five_crop":
        height, width = height_width(size)
        low, right = images[0].shape[-2] - height, images[0].shape[-1] - width
        places = [(0, 0), (0, right), (low, 0), (low, right), (round(low / 2), round(right / 2))]
        return [images[0][..., top : top + height, left : left + width] for top, left in places]
    return list(images)
