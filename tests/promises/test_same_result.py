"""What does not count for the identity of a run changes no bit of its weights, and figures by rounding alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mltrain.commands.evaluate import evaluate
from mltrain.config.compose import load_run
from mltrain.pipeline import loader
from tests.promises.runs import TINY, assert_same, fit, state

LOGITS = 1e-5
"""largest difference of a logit, relative to the largest logit (docs/config.md)"""
FIGURES = 0.01
"""largest difference of a figure in percent points"""


def words(folder: Path, data: Path, *options: str) -> list[str]:
    return [*TINY, "metrics.save_predictions=true", f"paths.data={data}", f"paths.runs={folder}/runs", *options]


@pytest.fixture(scope="module", params=["gap", "ml_decoder"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    return fit(words(tmp_path_factory.mktemp("run"), data_folder, f"head={request.param}"))


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (7, 1), (64, 1), (64, 2)])
def test_figures_are_those_of_any_batch_size_and_number_of_threads(run: Path, batch: int, threads: int) -> None:
    expected = json.loads((run / "result.json").read_text())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = evaluate(load_run(run, [f"runner.eval_batch_size={batch}", "metrics.save_predictions=true"]), run)
    finally:
        torch.set_num_threads(before)
    assert found is not None
    for weights in ("val", "ema"):
        for key, value in expected[weights].items():
            assert found[weights][key] == pytest.approx(value, abs=FIGURES, nan_ok=True), key
    files = [np.load(run / name) for name in ("predictions.npz", "evaluation_val_predictions.npz")]
    for key in ("logits_val", "logits_ema"):
        first, second = (file[key].astype(np.float64) for file in files)
        assert np.abs(first - second).max() <= LOGITS * np.abs(first).max()


def test_the_batch_of_an_evaluation_changes_no_weight(
    tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where a curriculum chooses the training images by what the model says of them."""
    sizes: list[tuple[str, int]] = []
    built = loader.EvalLoader.__init__

    def noted(self: Any, labels: Any, *arguments: Any, **named: Any) -> None:
        sizes.append((labels.name, named["batch_size"]))
        built(self, labels, *arguments, **named)

    monkeypatch.setattr(loader.EvalLoader, "__init__", noted)
    curriculum = ["curriculum=spbl", "curriculum.add_ratios=[0.5,1.0]", "runner.epochs=3"]
    runs = [fit(words(tmp_path / size, data_folder, *curriculum, f"runner.eval_batch_size={size}")) for size in "57"]
    assert runs[0].name == runs[1].name, "both are the same run"
    assert {size for name, size in sizes if name.endswith("train")} == {16}
    assert {size for name, size in sizes if name.endswith("val")} == {5, 7}
    first, second = (state(run) for run in runs)
    for key in ("model", "ema", "optimizer", "curriculum"):
        assert_same(first[key], second[key], key)
