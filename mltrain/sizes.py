"""Sizes of images: one number for a square, or height and width, as options and attributes `image_size` have them."""

from __future__ import annotations

from collections.abc import Sequence

ImageSize = int | tuple[int, int]
"""pixels: the side of a square, or (height, width)"""


def height_width(size: ImageSize | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a size.

    Raises:
        ValueError: it is neither one positive number nor two.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        shown = size if isinstance(size, int) else list(size)
        raise ValueError(f"image_size={shown}: must be a positive number of pixels, or two: [height,width]")
    return sides[0], sides[1]


def simplest(size: ImageSize | Sequence[int]) -> ImageSize:
    """Return the size as one number if it is a square, and else as (height, width). ValueError: as `height_width`."""
    height, width = height_width(size)
    return height if height == width else (height, width)


def area(size: ImageSize) -> int:
    """Return the number of pixels of an image."""
    height, width = height_width(size)
    return height * width


def scaled(size: ImageSize, factor: float) -> ImageSize:
    """Return a size whose sides are `factor` times as long, rounded."""
    height, width = height_width(size)
    return simplest((max(1, round(height * factor)), max(1, round(width * factor))))


def in_pixels(size: ImageSize) -> str:
    """Return a size for people: `224 px`, or `320 x 640 px` (height x width)."""
    height, width = height_width(size)
    return f"{height} px" if height == width else f"{height} x {width} px"


def spelled(size: ImageSize) -> str:
    """Return a size as the command line takes it: `224` or `[320,640]`."""
    height, width = height_width(size)
    return str(height) if height == width else f"[{height},{width}]"
