"""What a run keeps of its predictions, and how it is read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mltrain.commands.evaluate import evaluate
from mltrain.config.compose import load_run
from mltrain.engine.evaluator import Evaluation, Predictions
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.metrics import average_precision
from mltrain.report.predictions import keep_predictions, load_predictions, write_predictions
from tests.promises.runs import TINY, fit


def evaluated(n: int = 7, c: int = 3) -> tuple[Evaluation, LabelSet]:
    generator = torch.Generator().manual_seed(0)
    logits = {name: torch.randn(n, c, generator=generator) for name in ("val", "ema")}
    targets = torch.randint(-1, 2, (n, c), generator=generator, dtype=torch.int8)
    labels = LabelSet.from_dense(
        name="some",
        root=Path(),
        files=[f"é {k}.png" for k in range(n)],
        class_names=["a", "b", "ç"],
        targets=targets.numpy(),
    )
    return Evaluation(Predictions(logits, targets), {}), labels


def finished(folder: Path, *, weights: str = "ema", test: bool = False) -> Path:
    result = {"best": {"weights": weights}} | ({"test": {"val": {}}} if test else {})
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_predictions_come_back_bit_for_bit(tmp_path: Path) -> None:
    evaluation, labels = evaluated()
    write_predictions(tmp_path / "predictions.npz", evaluation, labels)
    kept = load_predictions(finished(tmp_path))
    assert evaluation.predictions is not None
    np.testing.assert_array_equal(kept.logits, evaluation.predictions.logits["ema"].numpy())
    np.testing.assert_array_equal(kept.targets, evaluation.predictions.targets.numpy())
    assert kept.logits.dtype == np.float32 and kept.targets.dtype == np.int8
    assert kept.files == tuple(labels.file(i) for i in range(7)) and kept.class_names == ("a", "b", "ç")
    assert (kept.split, kept.weights) == ("val", "ema")
    raw = load_predictions(tmp_path, weights="val")
    np.testing.assert_array_equal(raw.logits, evaluation.predictions.logits["val"].numpy())


@pytest.mark.parametrize(
    ("save", "limit_mb", "kept"),
    [(None, 1.0, {"logits_ema"}), (None, 1e-9, None), (False, 1.0, None), (True, 0.0, {"logits_ema", "logits_val"})],
)
def test_what_is_kept_follows_size_and_option(
    tmp_path: Path, save: bool | None, limit_mb: float, kept: set[str] | None
) -> None:
    evaluation, labels = evaluated()
    keep_predictions(tmp_path, "val", evaluation, labels, best="ema", save=save, limit_mb=limit_mb)
    path = tmp_path / "predictions.npz"
    if kept is None:
        assert not path.exists()
    else:
        assert set(np.load(path)) == kept | {"files", "class_names", "targets"}


def test_the_test_split_comes_first_and_an_evaluation_of_later_stands_in(tmp_path: Path) -> None:
    evaluation, labels = evaluated()
    finished(tmp_path, test=True)
    write_predictions(tmp_path / "predictions.npz", evaluation, labels)
    with pytest.raises(DataError, match=r"no predictions of the test split; .*save_predictions=true"):
        load_predictions(tmp_path)
    write_predictions(tmp_path / "evaluation_test_predictions.npz", evaluation, labels)
    assert load_predictions(tmp_path).split == "test"
    assert load_predictions(tmp_path, split="val").split == "val"


def test_what_cannot_be_loaded_is_said_with_the_way_out(tmp_path: Path) -> None:
    evaluation, labels = evaluated()
    with pytest.raises(DataError, match="it has no result"):
        load_predictions(tmp_path)
    write_predictions(tmp_path / "predictions.npz", evaluation, labels, weights="val")
    with pytest.raises(DataError, match="no logits of the weights 'ema'"):
        load_predictions(finished(tmp_path))
    (tmp_path / "predictions.npz").write_bytes((tmp_path / "predictions.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        load_predictions(tmp_path)
    with pytest.raises(ValueError, match="split must be"):
        load_predictions(tmp_path, split="train")
    with pytest.raises(ValueError, match="weights must be"):
        load_predictions(tmp_path, weights="raw")


def test_a_run_keeps_the_predictions_of_its_figures_and_so_does_an_evaluation(tmp_path: Path) -> None:
    folder = fit([*TINY, f"paths.runs={tmp_path}", f"paths.data={tmp_path}", "runner.max_steps=2"])
    result = json.loads((folder / "result.json").read_text())
    best = result["best"]["weights"]
    kept = load_predictions(folder)
    ap = average_precision(torch.from_numpy(kept.logits), torch.from_numpy(kept.targets)).numpy()
    assert 100 * np.nanmean(ap) == pytest.approx(result[best]["map"], abs=1e-9)
    assert set(np.load(folder / "predictions.npz")) == {"files", "class_names", "targets", f"logits_{best}"}
    (folder / "predictions.npz").unlink()
    evaluate(load_run(folder, ["metrics.save_predictions=true"]), folder)
    again = load_predictions(folder)
    np.testing.assert_array_equal(again.logits, kept.logits)
    assert again.files == kept.files
