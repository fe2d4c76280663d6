"""Image files to RGB arrays."""

from __future__ import annotations

import contextlib
import os
import struct

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps

from mltrain.errors import DataError
from mltrain.pipeline.image_file import identify, read_file
from mltrain.pipeline.jpeg_damage import decode_watched

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # deprecated since torchvision 0.29; Pillow gives the same pixels, more slowly
    decode_jpeg = None

_ORIENTATION = 0x0112
# Exceptions of Pillow for metadata that it cannot parse.
_BAD_METADATA = (SyntaxError, ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, struct.error)


def read_image(path: str | os.PathLike[str], damage: list[str] | None = None) -> np.ndarray:
    """Read an image as RGB, uint8 (H, W, 3), C-contiguous and writable, upright (EXIF orientation applied).

    - transparency (RGBA, LA, palette or colour-key) is composited on white;
    - 16-bit grey is scaled to 8 bits (``round(v / 257)``), not clipped; 32-bit integer grey is taken as 16-bit grey if
      its values fit, float grey as 0..1 if they fit; otherwise they are refused, because their range is not defined;
    - CMYK (Adobe's inverted kind too), YCbCr, HSV and LAB are converted, ICC profiles are not applied;
    - of an animation, the first frame is read.

    torchvision's libjpeg-turbo, if present, decodes ordinary JPEG files: the same pixels as Pillow, 15 % faster.

    Args:
        path: the file.
        damage: gets a line (path and reason) if libjpeg finds an ordinary JPEG file damaged and decodes it
            nevertheless (`decode_watched`).

    Raises:
        DataError: no regular file, not an image of `image_file.FORMATS`, truncated, damaged, or a decompression bomb
            (more than twice ``PIL.Image.MAX_IMAGE_PIXELS``). The message has the path and the reason.
    """
    data = read_file(path)
    try:
        with identify(data) as image:
            if decode_jpeg is not None and _is_plain_jpeg(image):
                # It fails on damaged files, and if torchvision was built without libjpeg: then Pillow decides.
                with contextlib.suppress(RuntimeError, AttributeError):
                    if damage is None:
                        return _decode_jpeg(data)
                    pixels, warning = decode_watched(lambda: _decode_jpeg(data))
                    if warning is not None:
                        damage.append(f"{os.fspath(path)}: {warning}")
                    return pixels
            return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise DataError(f"{os.fspath(path)}: cannot decode the image: {_reason(error)}") from error


def _decode_jpeg(data: np.ndarray) -> np.ndarray:
    pixels: torch.Tensor = decode_jpeg(torch.from_numpy(data), mode=ImageReadMode.RGB)
    return pixels.permute(1, 2, 0).numpy()


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image of a format that is read (PostScript and other vector formats are not)"
    return str(error) or type(error).__name__


def _is_plain_jpeg(image: Image.Image) -> bool:
    """Return whether an opened file is an upright grey or three-component JPEG, which torchvision decodes equally."""
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB"):
        return False
    try:
        return image.getexif().get(_ORIENTATION, 1) == 1
    except _BAD_METADATA:
        return False


def to_rgb(image: Image.Image) -> np.ndarray:
    """Convert a Pillow image as `read_image` does. ValueError: its values have no defined meaning."""
    image.load()
    with contextlib.suppress(*_BAD_METADATA):  # the pixels are fine
        ImageOps.exif_transpose(image, in_place=True)
    mode = image.mode
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or (mode in ("1", "L", "P", "RGB") and "transparency" in image.info):
        return _on_white(image)
    if mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.int64))
    if mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"32-bit grey values {values.min()}..{values.max()}; only 0..65535 has a meaning")
        return _grey(values)
    if mode == "F":
        floats = np.asarray(image)
        if not (np.isfinite(floats).all() and floats.min() >= 0 and floats.max() <= 1):
            raise ValueError(f"float grey values {floats.min()}..{floats.max()}; only 0..1 has a meaning")
        return _grey(np.rint(floats * 65535.0).astype(np.int64))
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
        assert converted is not None
        return np.array(converted)
    return np.array(image if mode == "RGB" else image.convert("RGB"))


def _on_white(image: Image.Image) -> np.ndarray:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, rgba).convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    """Convert 16-bit grey, int64 (H, W), to uint8 (H, W, 3)."""
    grey = ((values + 128) // 257).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))
