"""Predictions, tuned thresholds and an exported file give the same labels; `evaluate` repeats the training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mltrain.commands.evaluate import evaluate
from mltrain.commands.export import Options as ExportOptions
from mltrain.commands.export import export
from mltrain.commands.tune_thresholds import Options, tune_thresholds
from mltrain.config.compose import inference_amp, load_run
from mltrain.config.identity import run_id
from mltrain.pipeline.decode import read_image
from mltrain.runs.evaluation import open_on_data
from mltrain.runs.folder import load_finished
from mltrain.runs.predictor import Predictor
from tests.promises.runs import coloured_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained in bf16, with tuned thresholds."""
    folder = coloured_run(tmp_path_factory.mktemp("bf16"), "runner.amp=bf16", "model.image_size=64")
    tune_thresholds(load_run(folder), folder, Options(min_positives=1))
    return folder


def evaluated(run: Path, *overrides: str) -> tuple[list[str], torch.Tensor]:
    """Files and logits of the test split, as `mltrain tune_thresholds` computes them."""
    with open_on_data(load_run(run, overrides), run) as opened:
        assert opened.splits.test is not None
        found = opened.evaluate(opened.splits.test, "best", keep_all=True)
        assert found is not None and found.predictions is not None
        (logits,) = found.predictions.logits.values()
        return opened.splits.test.image_paths, logits.double()


def put_thresholds_where_rounding_matters(run: Path, full: torch.Tensor, rounded: torch.Tensor) -> None:
    """Replace each class's threshold by one between the logits that an image has in full precision and in bf16."""
    images = (full - rounded).abs().argmax(0, keepdim=True)
    cuts = (full.gather(0, images) + rounded.gather(0, images))[0] / 2
    path = run / "thresholds.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"thresholds": cuts.sigmoid().tolist()}))


def label_sets(predictor: Predictor, files: list[str]) -> list[set[str]]:
    return [{label.name for label in found.labels} for found in predictor.predict(files)]


def test_labels_near_their_thresholds_are_the_same_from_every_command(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    files, logits = evaluated(run)
    _, rounded = evaluated(run, "runner.amp=bf16")
    put_thresholds_where_rounding_matters(run, logits, rounded)
    names = load_finished(run).class_names
    thresholds = np.array(json.loads((run / "thresholds.json").read_text())["thresholds"])
    cuts = torch.logit(torch.from_numpy(thresholds))
    expected = [{name for name, above in zip(names, row, strict=True) if above} for row in (logits > cuts).tolist()]

    predictor = Predictor.from_run(run)
    assert label_sets(predictor, files) == expected
    exported = export(load_run(run), run, ExportOptions(out=str(tmp_path / "model.onnx")))
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    described = json.loads(session.get_modelmeta().custom_metadata_map["thresholds"])
    for file, labels in zip(files, expected, strict=True):
        pixels = predictor.resize(read_image(file))[None].contiguous().numpy()
        (probabilities,) = session.run(["probabilities"], {"images": pixels})[0]
        assert {n for n, p, t in zip(names, probabilities, described, strict=True) if p > t} == labels

    assert all(((rounded > cuts) != (logits > cuts)).any(0)), "in the precision of the training labels are others"


def test_evaluate_repeats_the_figures_of_the_training_in_its_precision(run: Path) -> None:
    content = evaluate(load_run(run), run)
    result = json.loads((run / "result.json").read_text())
    assert content is not None and content["val"] == result["val"] and content["test"] == result["test"]


def test_the_precision_of_a_finished_run_is_full_unless_an_override_asks(run: Path) -> None:
    cfg = load_run(run)
    assert (cfg.runner.amp, inference_amp(cfg)) == ("bf16", "off"), "the config keeps what the training had"
    assert run_id(cfg) == run.name
    assert inference_amp(load_run(run, ["runner.amp=bf16"])) == "bf16"
    assert inference_amp(load_run(run, ["runner.device=cpu"])) == "off"
    assert Predictor.from_run(run).amp_dtype is None
    assert Predictor.from_run(load_finished(run, overrides=["runner.amp=bf16"])).amp_dtype is torch.bfloat16
    _, full = evaluated(run)
    _, again = evaluated(run, "runner.amp=off")
    _, rounded = evaluated(run, "runner.amp=bf16")
    assert torch.equal(full, again) and not torch.equal(full, rounded)
