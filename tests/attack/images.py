"""Odd images: every one is predicted, or refused with its name."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from tests.attack.children import run
from tests.attack.kinds import BRIEF, run_of
from tests.attack.verdict import Verdict, refusal_problems

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)
MODES = {
    "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"],
    "jpg": ["L", "RGB", "CMYK", "YCbCr"],
    "tif": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"],
    "gif": ["L", "P", "RGB"],
    "bmp": ["1", "L", "P", "RGB", "RGBA"],
    "webp": ["RGB", "RGBA"],
}


def _saved(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def contents() -> dict[str, bytes]:
    """Return files by name."""
    jpeg, png = _saved(RGB), _saved(RGB, "PNG")
    found = {}
    for suffix, modes in MODES.items():
        form = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
        for mode in modes:
            source = RGB.convert("L") if mode in ("I;16", "I", "F", "LA") else RGB
            with suppress(OSError, ValueError):  # Pillow's versions differ in what they save
                found[f"mode-{mode.replace(';', '')}.{suffix}"] = _saved(source.convert(mode), form)
    for k in range(10):
        found[f"orientation-{k}.jpg"] = _saved(RGB, exif=_exif(k))
    frames = [RGB, RGB.rotate(90)]
    for form in ("GIF", "WEBP", "TIFF", "PNG"):
        found[f"frames.{form.lower()}"] = _saved(RGB, form, save_all=True, append_images=frames)
    found |= {
        "progressive.jpg": _saved(RGB, progressive=True),
        "transparent.png": _saved(RGB.convert("P"), "PNG", transparency=3),
        "lossless.webp": _saved(RGB, "WEBP", lossless=True),
        "lzw.tif": _saved(RGB, "TIFF", compression="tiff_lzw"),
        "bad-profile.jpg": _saved(RGB, icc_profile=b"no profile"),
        "bad-exif.jpg": _saved(RGB, exif=b"Exif\0\0MM\0*\0\0\0\xff"),
        "tail.jpg": jpeg + b"garbage" * 100,
        "head.jpg": b"garbage" + jpeg,
        "empty.jpg": b"",
        "zeros.jpg": b"\0" * 1000,
        "text.jpg": b"not an image\n",
        "page.jpg": b"<!DOCTYPE html><html></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "document.jpg": b"%PDF-1.4\n%%EOF",
        "png.jpg": png,
        "jpeg.png": jpeg,
        "no-suffix": jpeg,
        "no-width.png": _png_header(0, 10),
        "bomb.png": _png_header(60000, 60000),
        "few-pixels.png": _png_header(100, 100),
        "end-marker-alone.jpg": b"\xff\xd8\xff\xd9",
        "a b.jpg": jpeg,
        "a=b.jpg": jpeg,
        "été 猫.jpg": jpeg,
        "new\nline.jpg": jpeg,
        "-dash.jpg": jpeg,
        "'quote\".jpg": jpeg,
        "$HOME.jpg": jpeg,
        "[x].jpg": jpeg,
        "x" * 200 + ".jpg": jpeg,
    }
    for size in ((1, 1), (1, 3000), (3000, 1), (2, 2), (3000, 3000)):
        found[f"size-{size[0]}-{size[1]}.png"] = _saved(Image.new("RGB", size), "PNG")
    for part in (10, 50, 90, 99):
        for name, content in (("jpg", jpeg), ("png", png)):
            found[f"cut-{part}.{name}"] = content[: len(content) * part // 100]
    for name, content in (("jpg", jpeg), ("png", png)):
        garbled = bytearray(content)
        garbled[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
        found[f"garbled.{name}"] = bytes(garbled)
    if features.check("jpg_2000"):
        found["wavelets.jp2"] = _saved(RGB, "JPEG2000")
    if features.check("avif"):
        found["new.avif"] = _saved(RGB, "AVIF")
    return found


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe.jpg": os.mkfifo,
    "folder.jpg": Path.mkdir,
    "loop.jpg": lambda path: path.symlink_to(path.name),
    "dangling.jpg": lambda path: path.symlink_to("nowhere.jpg"),
    "device.jpg": lambda path: path.symlink_to("/dev/zero"),
}


class OddImages:
    """One image in a turn."""

    def __init__(self, place: Path) -> None:
        self.work, self._given = place / "work", place / "given"
        self._given.mkdir(parents=True)

    def start(self) -> None:
        """Train a model."""
        done = run(BRIEF, self._given)
        assert done.code == 0, done.log
        (self._folder,) = run_of(self._given)
        self._contents = contents()
        self.cases = [*self._contents, *SPECIAL]

    def turn(self, number: int, chance: random.Random) -> list[Verdict]:
        """Predict the labels of one image."""
        if number >= len(self.cases):
            return []
        name = self.cases[number]
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._given, self.work)
        path = self.work / name
        if name in SPECIAL:
            SPECIAL[name](path)
        else:
            path.write_bytes(self._contents[name])
        ended = run(
            ["predict", self._folder, f"./{name}", "format=csv", "out=found.csv", "topk=2"], self.work, seconds=60
        )
        problems = refusal_problems(ended, name.split("\n")[0])
        if ended.code == 0 and len((self.work / "found.csv").read_text("utf-8").splitlines()) < 3:
            problems.append("no prediction")
        outcome = "wrong" if problems else "right" if ended.code == 0 else "refused"
        return [Verdict(outcome, [repr(name), *problems], log=ended.log)]
