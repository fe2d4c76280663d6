"""Images with captions, drawn with Pillow: for TensorBoard and for looking at a batch."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mltrain.files import atomic_write
from mltrain.report.palette import LIGHT

Line = tuple[str, str]
"""kind of a line (a key of `COLORS`), and its text"""

COLORS = {
    "title": LIGHT["text"],
    "text": LIGHT["muted"],
    "hit": LIGHT["hit"],
    "missed": LIGHT["missed"],
    "wrong": LIGHT["wrong"],
    "unknown": LIGHT["unseen"],
}
_PAPER = LIGHT["card"]
_SIZE, _LEADING, _MARGIN = 12, 16, 6


def captioned(image: np.ndarray, lines: Sequence[Line], *, width: int = 224, rows: int | None = None) -> Image.Image:
    """Scale an image to `width` and write lines below it.

    Args:
        image: uint8 (H, W, 3).
        lines: kind and text; text that is too long is cut.
        width: pixels.
        rows: number of lines that there is room for, so that all pictures have one height; None: as many as are given.
    """
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    picture = Image.fromarray(np.ascontiguousarray(image))
    kind = Image.Resampling.LANCZOS if width < picture.width else Image.Resampling.BICUBIC
    picture = picture.resize((width, height), kind)
    room = len(lines) if rows is None else rows
    canvas = Image.new("RGB", (width, height + _LEADING * room + 2 * _MARGIN), _PAPER)
    canvas.paste(picture, (0, 0))
    draw, font = ImageDraw.Draw(canvas), _font()
    for k, (kind_of_line, text) in enumerate(lines[:room]):
        at = (_MARGIN, height + _MARGIN + k * _LEADING)
        draw.text(at, _cut(text, width - 2 * _MARGIN), fill=COLORS[kind_of_line], font=font)
    return canvas


def columns_for(count: int, most: int = 8) -> int:
    """Return how many columns leave the fewest places of the last row empty; of these the nearest to a square."""
    square = np.ceil(np.sqrt(count))
    return min(range(min(2, count), min(most, count) + 1), key=lambda k: (-count % k, abs(k - square), -k), default=1)


def tiled(pictures: Sequence[Image.Image], columns: int, *, gap: int = 8) -> Image.Image:
    """Arrange pictures in rows of `columns`; each row is as high as its highest picture."""
    rows = [pictures[k : k + columns] for k in range(0, len(pictures), columns)]
    width = max(sum(p.width + gap for p in row) for row in rows) + gap
    canvas = Image.new("RGB", (width, sum(max(p.height for p in row) + gap for row in rows) + gap), LIGHT["line"])
    top = gap
    for row in rows:
        left = gap
        for picture in row:
            canvas.paste(picture, (left, top))
            left += picture.width + gap
        top += max(p.height for p in row) + gap
    return canvas


def with_scale(picture: Image.Image, colours: np.ndarray, low: str, high: str) -> Image.Image:
    """Write a scale of colours below a picture, with its ends named.

    Args:
        picture: the picture.
        colours: uint8 (1, W, 3), from the lowest to the highest.
        low, high: names of the ends.
    """
    font, height = _font(), _LEADING + 2 * _MARGIN
    bar = Image.fromarray(np.ascontiguousarray(np.repeat(colours, _LEADING - 2, axis=0)))
    before = int(font.getlength(low)) + 3 * _MARGIN
    wide = before + bar.width + int(font.getlength(high)) + 3 * _MARGIN
    canvas = Image.new("RGB", (max(picture.width, wide), picture.height + height), _PAPER)
    canvas.paste(picture, (0, 0))
    draw, top = ImageDraw.Draw(canvas), picture.height + _MARGIN
    draw.text((2 * _MARGIN, top), low, fill=COLORS["text"], font=font)
    canvas.paste(bar, (before, top + 1))
    draw.text((before + bar.width + _MARGIN, top), high, fill=COLORS["text"], font=font)
    return canvas


def jpeg(picture: Image.Image, *, side: int | None = None, quality: int = 85) -> bytes:
    """Encode a picture as a JPEG file, of at most `side` x `side` pixels if given."""
    if side is not None:
        picture = picture.copy()
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG file, or a JPEG file where the name ends so, atomically."""
    with atomic_write(path) as temporary:
        picture.save(temporary, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", quality=92)


def _cut(text: str, width: int) -> str:
    font = _font()
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@functools.lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib  # its font has more alphabets than that of Pillow

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), _SIZE)
