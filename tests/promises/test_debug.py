"""The presets of debug=: what they promise, on a tiny network."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mltrain.engine.run_folder import read_result
from mltrain.report.runs import read_runs
from mltrain.runs.settings import load_settings
from tests.promises.runs import fit

KEEP = ("runner.epochs", "runner.batch_size")


def tried(overrides: list[str], preset: str, *more: str) -> Path:
    """Run a preset with the tiny network of the other promises, but with its own epochs and batches."""
    return fit([*(word for word in overrides if not word.startswith(KEEP)), f"debug={preset}", *more])


@pytest.mark.slow
def test_overfit_learns_its_images_by_heart(overrides: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mltrain"):
        folder = tried(overrides, "overfit", "runner.epochs=30", "runner.evaluate_every=30")
    result = read_result(folder)
    assert result is not None and result["val"]["map"] == 100.0
    assert "mAP 100.00 on the training images, as it should be" in caplog.text
    assert json.loads((folder / "stats.json").read_text())["num_images"] == 16


@pytest.mark.slow
def test_profile_writes_a_table_and_a_trace(overrides: list[str], caplog: pytest.LogCaptureFixture) -> None:
    options = ["runner.max_steps=3", "runner.batch_size=16"]
    callbacks = "callbacks=[{_target_: mltrain.callbacks.Profile, wait: 1, steps: 1}]"
    with caplog.at_level(logging.INFO, logger="mltrain"):
        folder = tried(overrides, "profile", *options, callbacks)
    assert "profile of 1 steps, up to step 2" in caplog.text
    assert "aten::" in (folder / "profile.txt").read_text()
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]


def test_fast_dev_takes_a_few_steps_and_is_no_result(overrides: list[str], tmp_path: Path) -> None:
    folder = tried(overrides, "fast_dev", "data.limit=20", "runner.batch_size=10")
    result = read_result(folder)
    assert result is not None and result["steps"] == 4
    assert json.loads((folder / "stats.json").read_text())["num_images"] == 20
    assert folder.is_relative_to(tmp_path / "runs/debug")
    assert read_runs([tmp_path / "runs"], load_settings) == []
    assert [record.folder for record in read_runs([tmp_path / "runs/debug"], load_settings)] == [folder]
    fit_again = tried(overrides, "fast_dev", "data.limit=20", "runner.batch_size=10")  # compares the data of then
    assert fit_again == folder
