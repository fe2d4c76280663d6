"""Thresholds of a run: found on validation, kept in its folder, never reported on the images they were found on."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mltrain.commands.evaluate import evaluate
from mltrain.commands.tune_thresholds import Options, tune_thresholds
from mltrain.config.compose import load_run
from mltrain.errors import ConfigError
from mltrain.metrics.counts import count_above
from mltrain.metrics.thresholds import best_cut, best_cuts
from mltrain.runs.folder import load_finished
from mltrain.runs.thresholds import load_thresholds, thresholds_of
from tests.promises.runs import ROOT, coloured_run, execute

CLASSES = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a dataset of 24 training, 12 validation and 12 test images."""
    return coloured_run(tmp_path_factory.mktemp("data"), "metrics.save_predictions=true")


def tuned(run: Path, **options: object) -> dict:
    content = tune_thresholds(load_run(run), run, Options(**options))  # type: ignore[arg-type]
    assert content == json.loads((run / "thresholds.json").read_text())
    return content


def saved(run: Path, split: str, weights: str) -> tuple[torch.Tensor, torch.Tensor]:
    found = np.load(run / f"predictions{'_test' if split == 'test' else ''}.npz")
    return torch.from_numpy(found[f"logits_{weights}"]), torch.from_numpy(found["targets"])


@pytest.mark.parametrize("weights", ["val", "ema"])
@pytest.mark.parametrize("per", ["class", "all"])
def test_thresholds_are_those_of_the_validation_split_and_figures_those_of_the_test_split(
    run: Path, per: str, weights: str
) -> None:
    content = tuned(run, per=per, weights=weights, min_positives=1 if per == "class" else None)
    logits, targets = saved(run, "val", weights)
    cuts = best_cuts(logits, targets, min_positives=1).cuts if per == "class" else best_cut(logits, targets).cut
    np.testing.assert_allclose(content["thresholds"], 1 / (1 + np.exp(-cuts * np.ones(CLASSES))), rtol=1e-12)
    assert (content["tuned_on"]["split"], content["reported_on"]["split"]) == ("val", "test")

    found = load_thresholds(load_finished(run, weights=weights))  # type: ignore[arg-type]
    assert found is not None and found.weights == weights
    # the way over probabilities moves no entry across its cut
    assert torch.equal(logits > found.cuts, logits > torch.as_tensor(cuts))
    test, labels = saved(run, "test", weights)
    assert content["figures"]["macro_F1"] == pytest.approx(100 * np.mean(count_above(test, labels, cuts=found.cuts).f1))


def test_evaluate_reports_them_on_the_test_split_only(run: Path) -> None:
    content = tuned(run, weights="best")
    result = evaluate(load_run(run), run)
    assert result is not None
    written = json.loads((run / "evaluation.json").read_text())
    assert written["thresholds"]["test"] == pytest.approx(content["figures"], nan_ok=True)
    assert set(written["thresholds"]) == {"chosen_by", "weights", "tuned_on", "test"}
    assert written["test"][content["weights"]] == pytest.approx(content["figures_before"])


def without_test(table: Path) -> str:
    """Write a copy of a csv without the rows called test."""
    copy = table.with_name("without_test.csv")
    lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
    copy.write_text("".join(line for line in lines if not line.rstrip().endswith(",test")), encoding="utf-8")
    return str(copy)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"test_split": "val"}, "of 12 images of .*, 12 can be found in"),
        ({"file": "without_test.csv", "test_split": None}, "no test split"),
        ({"val_split": "train", "train_split": "val"}, "not the validation split here"),
    ],
)
def test_evaluate_does_not_report_them_where_they_may_have_been_found(
    run: Path, change: dict, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    tuned(run)
    cfg = load_run(run)
    for key, value in change.items():
        cfg.dataset[key] = without_test(Path(cfg.dataset.file)) if key == "file" else value
    with caplog.at_level("INFO", "mltrain"):
        evaluate(cfg, run)
    assert "thresholds" not in json.loads((run / "evaluation.json").read_text())
    assert [r for r in caplog.records if "not used for these figures" in r.message]
    assert re.search(reason, caplog.text)


def test_without_a_test_split_the_figures_are_across_folds(run: Path) -> None:
    cfg = load_run(run)
    cfg.dataset.file, cfg.dataset.test_split = without_test(Path(cfg.dataset.file)), None
    content = tune_thresholds(cfg, run, Options(min_positives=1))
    assert content is not None and content["folds"] == 5
    assert content["reported_on"] == content["tuned_on"]
    # the thresholds are those of all validation images all the same
    logits, targets = saved(run, "val", content["weights"])
    cuts = best_cuts(logits, targets, min_positives=1).cuts
    np.testing.assert_allclose(content["thresholds"], 1 / (1 + np.exp(-cuts)), rtol=1e-12)


def test_the_tool_keeps_the_recall_that_it_is_asked_for(run: Path) -> None:
    tool = [sys.executable, str(ROOT / "tools" / "tune_thresholds.py"), str(run)]
    done = execute([*tool, "recall=0.9", "min_positives=1"])
    found = load_thresholds(load_finished(run))
    assert found is not None and "precision at a recall of 0.9" in found.chosen_by
    assert found.chosen_by in done.stderr and str(run / "thresholds.json") in done.stderr
    logits, targets = saved(run, "val", found.weights)
    assert (count_above(logits, targets, cuts=found.cuts).recall >= 0.9).all()


def test_thresholds_that_are_not_this_model_s_are_refused(run: Path) -> None:
    content = tuned(run, weights="val")
    finished = load_finished(run, weights="val")
    assert thresholds_of(finished).tolist() == content["thresholds"]
    with pytest.raises(ConfigError, match=r"of the raw weights .weights=val., not the EMA.*mltrain tune_thresholds"):
        load_thresholds(load_finished(run, weights="ema"))
    file = run / "thresholds.json"
    for change, message in (
        ({"best": {"epoch": 7, "step": 8}}, "the run has gone on since"),
        ({"class_names": ["x", "y", "z"]}, "of other classes"),
        ({"thresholds": [0.5, 0.5]}, "2 thresholds for 3 classes"),
        ({"thresholds": [0.5, 0.5, 1.5]}, "a threshold is no probability"),
    ):
        file.write_text(json.dumps(content | change))
        with pytest.raises(ConfigError, match=message):
            load_thresholds(finished)
    file.unlink()
    assert load_thresholds(finished) is None
    assert thresholds_of(finished).tolist() == [0.5] * CLASSES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 0.5, "precision": 0.5}, "give one"),
        ({"per": "all", "min_positives": 3}, "with per=all there is one threshold"),
        ({"folds": 99}, "has 12 images"),
        ({"recall": 0.0}, "recall=0.0: must be above 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(run: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tune_thresholds(load_run(run), run, Options(**options))


def test_single_label_runs_have_no_thresholds(run: Path) -> None:
    cfg = load_run(run)
    cfg.task = "single_label"
    with pytest.raises(ConfigError, match="there is nothing to tune"):
        tune_thresholds(cfg, run, Options())
