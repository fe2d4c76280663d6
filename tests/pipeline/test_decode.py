from __future__ import annotations

import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mltrain.errors import DataError
from mltrain.pipeline import decode
from mltrain.pipeline.decode import read_image
from mltrain.pipeline.image_file import open_image
from mltrain.report.html.gallery import thumbnail

from .conftest import photograph

PICTURE = photograph(1, 24, 40)


def saved(folder: Path, image: Image.Image, name: str, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


def _read_and_check(path: Path) -> np.ndarray:
    result = read_image(path)
    assert result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3
    assert result.flags.c_contiguous and result.flags.writeable
    return result


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_gives_the_pixels_of_pillow(tmp_path, progressive, subsampling):
    for size in ((40, 24), (33, 17), (1, 1)):
        image = Image.fromarray(PICTURE).resize(size)
        path = saved(tmp_path, image, "a.jpg", progressive=progressive, subsampling=subsampling)
        assert decode._is_plain_jpeg(Image.open(path))
        np.testing.assert_array_equal(_read_and_check(path), np.array(Image.open(path)))


def test_real_photographs_give_the_pixels_of_pillow(shared_data):
    for path in sorted((shared_data / "coco_tiny" / "val2017").glob("*.jpg"))[:12]:
        np.testing.assert_array_equal(_read_and_check(path), np.array(Image.open(path).convert("RGB")))


def test_grey_jpeg_has_three_equal_channels(tmp_path):
    path = saved(tmp_path, Image.fromarray(PICTURE).convert("L"), "a.jpg")
    expected = np.repeat(np.array(Image.open(path))[..., None], 3, axis=2)
    np.testing.assert_array_equal(_read_and_check(path), expected)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.tga"])
def test_lossless_formats_give_the_pixels_that_were_saved(tmp_path, name):
    np.testing.assert_array_equal(_read_and_check(saved(tmp_path, Image.fromarray(PICTURE), name)), PICTURE)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(tmp_path, mode):
    image = Image.fromarray(PICTURE).convert(mode)
    alpha = np.zeros((24, 40), np.uint8)
    alpha[:, 10:20], alpha[:, 20:] = 128, 255
    image.putalpha(Image.fromarray(alpha))
    result = _read_and_check(saved(tmp_path, image, "a.png"))
    colours = np.array(Image.fromarray(PICTURE).convert("RGB" if mode == "RGBA" else "L").convert("RGB")).astype(int)
    assert (result[:, :10] == 255).all()
    np.testing.assert_allclose(result[:, 10:20], 255 + (colours[:, 10:20] - 255) * 128 / 255, atol=1)
    np.testing.assert_array_equal(result[:, 20:], colours[:, 20:])


def test_palette_is_looked_up_and_its_transparent_entry_is_white(tmp_path):
    image = Image.new("P", (4, 2))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1, 0, 1, 1, 1, 0, 0])
    opaque = np.where(np.array(image)[..., None] == 0, [10, 20, 30], [200, 100, 50])
    np.testing.assert_array_equal(_read_and_check(saved(tmp_path, image, "a.png")), opaque)
    clear = np.where(np.array(image)[..., None] == 0, [10, 20, 30], [255, 255, 255])
    np.testing.assert_array_equal(_read_and_check(saved(tmp_path, image, "b.png", transparency=1)), clear)
    np.testing.assert_array_equal(_read_and_check(saved(tmp_path, image, "b.gif", transparency=1)), clear)


def test_colour_key_of_an_rgb_png_is_white(tmp_path):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 8, 7))
    path = saved(tmp_path, image, "a.png", transparency=(9, 8, 7))
    np.testing.assert_array_equal(_read_and_check(path), [[[1, 2, 3], [255, 255, 255]]])


def test_one_bit_becomes_black_and_white(tmp_path):
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    expected = np.repeat(np.array([[0, 255], [255, 0]], np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(_read_and_check(saved(tmp_path, image, "a.png")), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    result = _read_and_check(saved(tmp_path, Image.fromarray(values), name))
    np.testing.assert_array_equal(result[..., 0], np.rint(values / 257.0))
    assert (result == result[..., :1]).all()


def test_float_and_integer_grey_are_scaled_or_refused(tmp_path):
    unit = np.array([[0.0, 0.5, 1.0]], np.float32)
    np.testing.assert_array_equal(
        _read_and_check(saved(tmp_path, Image.fromarray(unit), "a.tif"))[0, :, 0], [0, 128, 255]
    )
    wide = np.array([[0, 65535]], np.int32)
    np.testing.assert_array_equal(_read_and_check(saved(tmp_path, Image.fromarray(wide), "b.tif"))[0, :, 0], [0, 255])
    for name, array in (("c.tif", unit * 7), ("d.tif", wide * 3)):
        with pytest.raises(DataError, match=rf"{name}.*grey values"):
            read_image(saved(tmp_path, Image.fromarray(array), name))


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_has_the_right_colours(tmp_path, name):
    # Pillow writes CMYK JPEG files as Adobe does: inverted, with an APP14 marker.
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(_read_and_check(saved(tmp_path, image, name)), np.full((16, 16, 3), [255, 0, 0]), atol=3)


def test_lab_has_the_right_colours(tmp_path):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.applyTransform(Image.fromarray(PICTURE), ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
    np.testing.assert_allclose(_read_and_check(saved(tmp_path, image, "a.tif")).astype(int), PICTURE, atol=4)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, name, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24], upright[:16, 24:], upright[16:, :24] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    result = _read_and_check(saved(tmp_path, stored, name, exif=exif))
    assert result.shape == upright.shape
    assert np.abs(result.astype(int) - upright).mean() < 8


def test_unreadable_exif_does_not_cost_the_image(tmp_path):
    path = saved(tmp_path, Image.fromarray(PICTURE), "a.jpg", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert _read_and_check(path).shape == PICTURE.shape


def test_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(_read_and_check(path)[0, 0], [255, 0, 0])


def _png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def _jpeg(folder: Path) -> bytes:
    return saved(folder, Image.fromarray(PICTURE), "whole.jpg").read_bytes()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: b"", "empty"),
        (lambda folder: b"GIF? no, a text file", "not an image"),
        (lambda folder: b"\xff\xd8\xff", "not an image|truncated|cannot decode"),
        (lambda folder: _jpeg(folder)[:400], "cannot decode"),
        (lambda folder: _jpeg(folder)[:-40], "truncated"),
        (lambda folder: saved(folder, Image.fromarray(PICTURE), "b.png").read_bytes()[:-200], "cannot decode"),
        (lambda folder: _png_of_size(40000, 40000), "decompression bomb"),
        (lambda folder: _jpeg(folder).replace(b"\x00\x18\x00\x28\x03", b"\xff\xff\xff\xff\x03"), "decompression bomb"),
    ],
    ids=["empty", "text", "stub", "header", "truncated-jpeg", "truncated-png", "bomb-png", "bomb-jpeg"],
)
def test_a_damaged_file_is_refused_with_its_path_and_the_reason(tmp_path, make, reason):
    path = tmp_path / "broken.jpg"
    path.write_bytes(make(tmp_path))
    with pytest.raises(DataError, match=f"broken.jpg: .*({reason})"):
        read_image(path)


@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a device"])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / "0.jpg"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    for read in (read_image, open_image):
        with pytest.raises(DataError, match=rf"0\.jpg: cannot read the file: it is {kind}"):
            read(path)


def test_no_external_program_is_started(tmp_path, monkeypatch):
    """Pillow would give PostScript to Ghostscript."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail(f"started {args}"))
    monkeypatch.setattr(os, "system", lambda text: pytest.fail(f"started {text}"))
    assert Image.open(path).format == "EPS"
    with pytest.raises(DataError, match=r"photo\.jpg: cannot decode the image: not an image of a format that is read"):
        read_image(path)
    assert thumbnail(path) is None


def test_a_missing_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jpg: cannot read the file: No such file"):
        read_image(tmp_path / "absent.jpg")
