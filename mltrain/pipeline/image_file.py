"""Opening of image files: regular files only, of listed formats only. Imports no torch."""

from __future__ import annotations

import functools
import os
import stat
from io import BytesIO

import numpy as np
from PIL import Image

from mltrain import storage
from mltrain.errors import DataError
from mltrain.files import kind_of

FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF", "ICO", "PCX", "PSD", "QOI",
    "SGI", "TGA",
)  # fmt: skip
"""Formats that Pillow decodes itself; for others it starts a program (EPS: Ghostscript), or has no decoder."""


def read_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the bytes of a regular file or of a member of an archive, uint8, writable.

    Raises:
        DataError: there is no such file, it is empty, or it is a folder, a pipe, a socket or a device (reading could
            block), or a member of an archive that cannot be read.  The message has the path and the reason.
    """
    inside = storage.locate(path)
    data = _read_regular(path) if inside is None else storage.read_member(*inside)
    if not len(data):
        raise DataError(f"{os.fspath(path)}: the file is empty (0 bytes)")
    return data


def _read_regular(path: str | os.PathLike[str]) -> np.ndarray:
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb", buffering=0) as file:
            regular = stat.S_ISREG(os.fstat(handle).st_mode)
            data = np.fromfile(file, dtype=np.uint8) if regular else None
    except OSError as error:
        kind = kind_of(path)
        reason = error.strerror or error if kind is None else f"it is {kind}"
        raise DataError(f"{os.fspath(path)}: cannot read the file: {reason}") from error
    if data is None:
        raise DataError(f"{os.fspath(path)}: cannot read the file: it is {kind_of(path) or 'no file'}")
    return data


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open an image file with Pillow; its pixels are decoded later.

    Raises:
        DataError: see `read_file`.
        Exception: of Pillow; nearly every type, if the file is damaged or of another format.
    """
    return identify(read_file(path))


def identify(data: np.ndarray) -> Image.Image:
    """Open the bytes of an image file, uint8. Raises exceptions of Pillow."""
    return Image.open(BytesIO(data.data), formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
