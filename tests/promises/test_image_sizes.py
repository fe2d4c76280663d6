"""Whole runs on images that are not square, evaluated at another size than trained, grey, or with a class token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mltrain.commands.evaluate import evaluate
from mltrain.commands.explain import Options as ExplainOptions
from mltrain.commands.explain import explain
from mltrain.commands.export import Options as ExportOptions
from mltrain.commands.export import export
from mltrain.config.compose import load_run
from mltrain.engine.run_folder import read_result
from mltrain.errors import ConfigError
from mltrain.pipeline.augment import EvalResize
from mltrain.runs.facts import facts
from mltrain.runs.folder import load_finished
from mltrain.runs.predictor import Predictor
from tests.promises.runs import coloured_run

SIZES = ("model.image_size=[32,48]", "eval_resize.image_size=[48,64]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*SIZES, "model.in_chans=1", "augment=standard", "data.cache=true"]
    place = tmp_path_factory.mktemp("wide")
    return coloured_run(place, *words, f"data.cache_dir={place}/cache")


def test_a_run_is_evaluated_and_predicted_with_at_the_size_of_its_evaluation(run: Path) -> None:
    result, found = read_result(run), load_finished(run)
    assert result is not None and found.model.backbone.image_size == (32, 48) and found.image_size == (48, 64)
    assert len(found.model.backbone.mean) == 1 and facts(found)["image_size"] == [48, 64]
    evaluated = evaluate(load_run(run), run)
    assert evaluated is not None and evaluated["val"]["map"] == pytest.approx(result["val"]["map"], abs=1e-3)
    image = run.parents[3] / "0.png"
    predictor = Predictor.from_run(run, topk=3)
    assert isinstance(predictor.resize, EvalResize) and predictor.resize.image_size == (48, 64)
    pixels = predictor.resize(torch.zeros(40, 40, 3, dtype=torch.uint8).numpy())
    with torch.inference_mode():
        expected = found.model(pixels[None])
    torch.testing.assert_close(predictor.logits(pixels[None]), expected, rtol=1e-3, atol=1e-4)
    for tta in ("five_crop", "sizes"):
        assert len(Predictor.from_run(run, topk=3, tta=tta)(image)) == 3  # type: ignore[arg-type]


def test_the_size_of_the_evaluation_can_change_afterwards(run: Path) -> None:
    at_own = load_finished(run, overrides=["eval_resize.image_size=null"])
    assert at_own.image_size == (32, 48)
    assert load_finished(run, overrides=["eval_resize.image_size=64"]).eval_transform.image_size == 64
    with pytest.raises(ConfigError, match=r"eval_resize.image_size=0: must be a positive number of pixels"):
        _ = load_finished(run, overrides=["eval_resize.image_size=0"]).image_size


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.parametrize("kind", ["uint8", "normalised"])
def test_exported_files_take_that_size(run: Path, tmp_path: Path, suffix: str, kind: str) -> None:
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    path = export(load_run(run), run, ExportOptions(out=str(tmp_path / f"m.{suffix}"), input=kind))  # type: ignore[arg-type]
    assert path.stat().st_size > 10_000


def test_maps_lie_on_the_wide_image(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (90, 40), (200, 10, 10)).save(tmp_path / "wide.png")
    explain(load_run(run), run, ExplainOptions(out=str(tmp_path / "out"), topk=1), [str(tmp_path / "wide.png")])
    (overlay,) = (tmp_path / "out" / "wide").iterdir()
    with Image.open(overlay) as picture:
        assert picture.size == (90, 40)


@pytest.mark.slow
def test_a_vit_is_trained_by_its_class_token_and_a_fixed_one_refuses_other_sizes(tmp_path: Path) -> None:
    vit = ["model.name=deit_tiny_patch16_224", "model.timm_kwargs={depth: 1}"]
    folder = coloured_run(tmp_path, *vit, "model.image_size=[32,48]")
    cfg = load_run(folder)
    assert cfg.head.tokens == "cls" and load_finished(folder).model.head.tokens == "cls"
    with pytest.raises(ConfigError, match=r"head.tokens=cls: the class token belongs to no place"):
        explain(cfg, folder, ExplainOptions(out=str(tmp_path / "out")), [str(tmp_path / "0.png")])
    with pytest.raises(ConfigError, match=r"built for 32 x 48 px.*add model.timm_kwargs=\{dynamic_img_size: true\}"):
        _ = load_finished(folder, overrides=["eval_resize.image_size=64"]).image_size
    pooled = coloured_run(tmp_path, "model.name=mobilenetv3_small_050", "model.pool=timm", "model.image_size=32")
    assert load_finished(pooled).model.backbone.num_features == 1024
