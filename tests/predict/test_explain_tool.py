"""`mltrain explain` as a user meets it."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from mltrain.commands.explain import Options, explain
from mltrain.config.compose import load_run
from mltrain.errors import ConfigError, DataError
from mltrain.pipeline.augment import EvalResize
from mltrain.report.overlays import overlay, sheet, strength
from mltrain.runs.folder import load_finished
from mltrain.runs.predictor import Predictor
from tests.promises.runs import ROOT, execute


def test_each_predicted_class_gets_its_picture_and_the_image_a_sheet(run: Path, images: Path, tmp_path: Path) -> None:
    file = images / "1.jpg"
    tool = [sys.executable, str(ROOT / "tools" / "explain.py"), str(run), str(file), "topk=3", f"out={tmp_path}/seen"]
    done = execute(tool)
    names = [label.name for label in Predictor.from_run(run, topk=3)(file)]
    made = sorted(path.name for path in (tmp_path / "seen" / "1").iterdir())
    assert made == [f"0{k}_{name}.png" for k, name in enumerate(names, 1)]
    with Image.open(tmp_path / "seen" / "1" / made[0]) as picture, Image.open(file) as original:
        assert picture.size == original.size
    assert str(tmp_path / "seen" / "1.png") in done.stderr and names[0] in done.stderr


def test_classes_are_those_asked_for_or_else_the_best(
    run: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = load_finished(run).class_names
    words = [str(images / "0.png")]
    explain(load_run(run), run, Options(out=str(tmp_path), classes=[names[4], names[2]]), words)
    made = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert made == [f"01_{names[4]}.png", f"02_{names[2]}.png"]
    with caplog.at_level("INFO", "mltrain"):
        (sheet,) = explain(load_run(run), run, Options(out=str(tmp_path / "none"), threshold=1.0), words)
    assert len(list(sheet.with_suffix("").iterdir())) == 1
    assert "no class is above its threshold: the best one" in caplog.text


def test_bad_images_are_left_out_and_mistakes_named(run: Path, images: Path, tmp_path: Path) -> None:
    good = str(images / "0.png")
    with pytest.raises(DataError, match="1 of 2 images could not be read"):
        explain(load_run(run), run, Options(out=str(tmp_path), topk=1), ["none.png", good])
    assert len(list(tmp_path.rglob("*.png"))) == 2
    name = load_finished(run).class_names[0]
    for options, message in (
        (Options(classes=[name[:-1] + "x"]), f"the run has no such class; did you mean {name}"),
        (Options(classes=[name], topk=2), "leave out threshold and topk"),
    ):
        with pytest.raises(ConfigError, match=message):
            explain(load_run(run), run, options, [good])


@pytest.mark.parametrize("size", [(64, 64), (100, 40), (33, 80)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_the_region_is_what_the_model_sees(size: tuple[int, int], crop_pct: float) -> None:
    """An image whose value is its position: the corners of what the model gets are those of the region."""
    height, width = size
    rows, columns = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
    image = np.stack([rows, columns, rows], axis=2).round().astype(np.uint8)
    resize = EvalResize(image_size=32, resize="crop", crop_pct=crop_pct)
    seen = resize(image).float()
    top, left, tall, wide = resize.region(height, width)
    pixel = max(height, width) / 32
    for channel, low, extent, side in ((0, top, tall, height), (1, left, wide, width)):
        values = seen[channel] / 255 * (side - 1)
        assert float(values.min()) == pytest.approx(low, abs=1.5 * pixel)
        assert float(values.max()) == pytest.approx(low + extent - 1, abs=1.5 * pixel)
    assert EvalResize(image_size=32).region(*size) == (0, 0, height, width)


def test_an_overlay_is_brightest_where_the_map_is_highest_and_leaves_the_rest() -> None:
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    values = np.zeros((4, 6))
    values[1, 4] = 3.0
    drawn = overlay(image, values, "evidence").astype(int)
    change = np.abs(drawn - 100).sum(2)
    assert np.unravel_index(change.argmax(), change.shape)[0] in range(10, 20)
    assert np.unravel_index(change.argmax(), change.shape)[1] in range(40, 50)
    assert (change[25:, :25] == 0).all()
    assert not strength(np.full((2, 2), 0.25), "attention").any()
    assert not strength(np.array([[-1.0, -2.0]]), "evidence").any()
    assert strength(np.array([[-1.0, 0.0, 4.0]]), "evidence").tolist() == [[0, 0, 1]]
    assert strength(np.array([[0.1, 0.3, 0.2]]), "attention") == pytest.approx(np.array([[0, 1, 0.5]]))


def test_a_sheet_has_the_scale_of_its_colours() -> None:
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    drawn = overlay(image, np.eye(4), "evidence")
    picture = np.asarray(sheet(image, [("a", 0.9, drawn, np.eye(4))], "evidence"))
    ends = matplotlib.colormaps["inferno"]([0.0, 1.0])[:, :3] * 255
    below = picture[-28:].reshape(-1, 3).astype(int)  # the strip under the tiles
    for end in ends:
        assert np.abs(below - np.rint(end)).sum(axis=1).min() == 0


def test_no_picture_takes_the_place_of_an_image_or_of_another_s(run: Path, images: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    before = (tmp_path / "b.png").read_bytes()
    for out in (tmp_path, tmp_path / "b.png"):
        with pytest.raises(ConfigError, match=r"is one of the images; name another folder|File exists"):
            explain(load_run(run), run, Options(out=str(out), topk=1), [str(tmp_path / "b.png")])
    assert (tmp_path / "b.png").read_bytes() == before
    words = [str(tmp_path / name) for name in ("a.png", "a.jpg", "b.png", "a.png")]
    sheets = explain(load_run(run), run, Options(out=str(tmp_path / "out"), topk=1), words)
    assert [sheet.name for sheet in sheets] == ["a.png.png", "a.jpg.png", "b.png", "a.png.png"]
