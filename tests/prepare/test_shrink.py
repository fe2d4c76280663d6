"""Promises of the copy with smaller images."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from mltrain.commands.prepare_data import Options, prepare_data
from mltrain.datasets import read_csv
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet
from mltrain.pipeline.decode import read_image
from mltrain.prepare import shrink as module
from mltrain.prepare.shrink import shrink
from tests.prepare.test_fetch import IMAGES, annotations, jpeg
from tests.prepare.test_unpack import tree

ROTATED = 6
"""EXIF orientation of a photograph taken upright"""
GREY = np.add.outer(np.arange(90), np.arange(160)).astype(np.uint8)


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Images of every kind, and the size (width, height) that a shorter side of 32 gives them."""
    wide = Image.fromarray(GREY).convert("RGB")
    (folder / "deep" / "er").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    wide.save(folder / "wide.jpg", quality=95)
    wide.save(folder / "deep" / "er" / "upright.JPG", quality=95, exif=exif)
    wide.convert("CMYK").save(folder / "print.jpeg")
    wide.save(folder / "sharp.png")
    wide.save(folder / "web.webp")
    wide.save(folder / "old.bmp")
    wide.resize((50, 32)).save(folder / "small.jpg")
    big, tall = (57, 32), (32, 57)
    return {
        "wide.jpg": big, "deep/er/upright.JPG": tall, "print.jpeg": big, "sharp.png": big, "web.webp": big,
        "old.bmp": (160, 90), "small.jpg": (50, 32),
    }  # fmt: skip


def labelled(folder: Path, names: list[str]) -> LabelSet:
    return LabelSet.from_lists(
        name="mine/train", root=folder, files=names, class_names=["a", "b"], positives=[[0] for _ in names]
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_names_and_formats_stay_and_the_shorter_side_is_as_asked(folder: Path, tmp_path: Path) -> None:
    sizes = pictures(folder)
    out = tmp_path / "out"
    shrink([labelled(folder, list(sizes))], folder, out, size=32, workers=2)
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == {*sizes, "shrunk.json"}
    for name, size in sizes.items():
        with Image.open(out / name) as made, Image.open(folder / name) as original:
            assert made.format == original.format and made.size == size, name
        pixels = read_image(out / name)
        assert pixels.shape == (size[1], size[0], 3), name
    for name in ("small.jpg", "old.bmp"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_pixels_are_those_of_a_resized_original(folder: Path, tmp_path: Path) -> None:
    pictures(folder)
    shrink([labelled(folder, ["sharp.png", "wide.jpg"])], folder, tmp_path / "out", size=32, quality=95)
    expected = np.asarray(Image.fromarray(read_image(folder / "sharp.png")).resize((57, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "sharp.png"), expected)
    difference = read_image(tmp_path / "out" / "wide.jpg").astype(int) - expected
    assert np.abs(difference).mean() < 2.0


def test_finished_copies_are_kept_and_a_changed_original_is_copied_again(folder: Path, tmp_path: Path) -> None:
    names = list(pictures(folder))
    out = tmp_path / "out"
    shrink([labelled(folder, names)], folder, out, size=32)
    before = {name: (out / name).stat().st_ino for name in names}
    (out / "web.webp").unlink()
    Image.new("RGB", (100, 100), "red").save(folder / "wide.jpg")
    os.utime(folder / "wide.jpg", (1e9, 1e9))
    shrink([labelled(folder, names)], folder, out, size=32)
    again = {name for name in names if (out / name).stat().st_ino == before[name]}
    assert {*names} - again <= {"web.webp", "wide.jpg"}
    assert read_image(out / "wide.jpg").shape == (32, 32, 3) and (out / "web.webp").exists()


def test_broken_images_are_listed_after_all_others_are_done(folder: Path, tmp_path: Path) -> None:
    sizes = pictures(folder)
    (folder / "bad.jpg").write_bytes((folder / "wide.jpg").read_bytes()[:900])
    (folder / "empty.png").touch()
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"(?s)2 of 9 images cannot be decoded.*bad.jpg: .*empty.png: .*0 bytes"):
        shrink([labelled(folder, ["bad.jpg", *sizes, "empty.png"])], folder, out, size=32)
    assert all((out / name).exists() for name in sizes)
    assert not (out / "bad.jpg").exists() and not list(out.rglob("*.part"))
    assert len((out / "broken_images.txt").read_text().splitlines()) == 2
    (folder / "bad.jpg").write_bytes((folder / "wide.jpg").read_bytes())
    shrink([labelled(folder, ["bad.jpg", *sizes])], folder, out, size=32)
    assert not (out / "broken_images.txt").exists()


def test_a_folder_of_other_options_or_of_other_things_is_refused(folder: Path, tmp_path: Path) -> None:
    pictures(folder)
    images, out = labelled(folder, ["wide.jpg"]), tmp_path / "out"
    shrink([images], folder, out, size=32)
    with pytest.raises(DataError, match=r"made with other options .*out=DIR"):
        shrink([images], folder, out, size=48)
    with pytest.raises(DataError, match=r"no folder that this tool made"):
        shrink([images], folder, folder / "deep", size=32)


def test_an_image_outside_the_root_is_refused(folder: Path, tmp_path: Path) -> None:
    pictures(folder)
    with pytest.raises(DataError, match="is not below"):
        shrink([labelled(folder, ["wide.jpg"])], folder / "deep", tmp_path / "out", size=32)


def test_a_folder_that_cannot_be_written_is_reported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match=r"out: cannot be written \(File exists\).*out=DIR"):
        shrink([], folder, tmp_path / "out", size=32)


def test_wrong_arguments_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size=0"):
        shrink([], folder, tmp_path / "out", size=0)


def cfg_of(folder: Path, **options: str | None) -> object:
    section = OmegaConf.load(Path(__file__).resolve().parents[2] / "configs" / "dataset" / "csv.yaml")
    return OmegaConf.create(
        {"paths": {"data": "."}, "dataset": OmegaConf.merge(section, {"file": str(folder / "labels.csv"), **options})}
    )


def test_the_config_works_with_the_copy_as_its_root(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = list(pictures(folder))
    rows = [f"{name},a;b,{'val' if name.startswith('w') else 'train'}" for name in names]
    (folder / "labels.csv").write_text("\n".join(["image,labels,split", *rows]) + "\n")
    prepare_data(cfg_of(folder), Options(shrink=32))  # type: ignore[arg-type]
    out = tmp_path / "data_32"
    assert f"dataset.root={out}" in caplog.text
    copy = read_csv(folder / "labels.csv", root=out, split="train")
    assert copy.fingerprint() == read_csv(folder / "labels.csv", split="train").fingerprint()
    assert max(min(read_image(copy.path(i)).shape[:2]) for i in range(len(copy)) if "old" not in copy.file(i)) == 32
    with pytest.raises(ConfigError, match="folder of the originals"):
        prepare_data(cfg_of(folder), Options(shrink=32, out=str(folder)))  # type: ignore[arg-type]


def test_annotations_come_along_where_they_are_below_the_root(folder: Path, tmp_path: Path) -> None:
    for split, images in IMAGES.items():
        for name, data in (
            *((f"{split}2017/{k:012d}.jpg", jpeg(k)) for k in images),
            (f"annotations/instances_{split}2017.json", annotations(images)),
            ("downloads/train.zip", b"not to be carried"),
            (".hidden/file", b"neither"),
        ):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    section = OmegaConf.load(Path(__file__).resolve().parents[2] / "configs" / "dataset" / "coco2017.yaml")
    section.annotations = "annotations/instances_{split}2017.json"  # not the official pattern: data of one's own
    section.root = str(folder)
    cfg = OmegaConf.create({"paths": {"data": "."}, "dataset": section})
    out = folder / "small"
    for _ in range(2):
        prepare_data(cfg, Options(shrink=20, out=str(out)))
    copied = set(tree(out)) - {"shrunk.json"}
    assert copied == {name for name in tree(folder) if name.startswith(("train2017", "val2017", "annotations"))}
    section.root = str(out)
    prepare_data(cfg, Options(download=False))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
@pytest.mark.parametrize("place", ["its note", "an image"])
def test_a_killed_call_can_be_repeated_and_leaves_nothing(folder: Path, tmp_path: Path, place: str) -> None:
    labels, out = labelled(folder, list(pictures(folder))), tmp_path / "small"
    pid = os.fork()
    if pid == 0:
        try:
            owner, name = (Path, "replace") if place == "its note" else (module.Image.Image, "save")

            def kill(*args: object, **kwargs: object) -> None:
                if place == "an image":
                    Path(str(args[1])).write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)

            setattr(owner, name, kill)
            shrink([labels], folder, out, size=32)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert list(out.rglob(".*.tmp"))
    shrink([labels], folder, out, size=32)
    assert not list(out.rglob(".*.tmp")) and len([path for path in out.rglob("*.*") if path.suffix != ".json"]) == 7
