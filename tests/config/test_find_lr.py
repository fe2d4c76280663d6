"""Promises of tools/find_lr.py."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mltrain.cli import read
from mltrain.commands.find_lr import COMMAND, find_lr
from mltrain.engine.step import TrainStep
from mltrain.errors import ConfigError, MltrainError
from tests.promises.runs import ROOT, TINY, environment

WORDS = [*TINY, "optimizer.lr=0.01", "runner.batch_size=40", "steps=60", "start=1e-5", "end=1"]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "find_lr.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment())


def test_a_line_to_paste_is_printed_and_no_run_folder_is_made_or_changed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = run(*WORDS, "runner.accumulate=2", "runner.batch_size=20", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    key, _, value = done.stdout.strip().partition("=")
    assert key == "optimizer.lr" and 1e-5 < float(value) < 1
    assert "decided by" in done.stderr and "steepest descent" in done.stderr and "lowest loss" in done.stderr
    with Image.open(tmp_path / "find_lr.png") as plot:
        assert plot.size[0] > 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "find_lr.png", "runs"]
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The rate of each group at each step that is taken."""
    seen: list[list[float]] = []
    call = TrainStep.__call__

    def spy(self: TrainStep, *arguments: Any) -> Any:
        result = call(self, *arguments)
        assert self.ema is None
        seen.append([group["lr"] for group in self.optimizer.param_groups])
        return result

    monkeypatch.setattr(TrainStep, "__call__", spy)
    return seen


def test_rates_go_from_start_to_end_and_groups_keep_their_multipliers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: list[list[float]]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*WORDS, "end=0.1", "optimizer.head_lr_multiplier=10", "ema=default"]
    found = find_lr(*read(COMMAND, words))
    assert found is not None and 1e-5 < found < 0.1
    assert len(rates) == 60 and min(rates[0]) == pytest.approx(1e-5) and min(rates[-1]) == pytest.approx(0.1)
    assert all(max(lrs) == pytest.approx(10 * min(lrs)) for lrs in rates)


def test_a_test_that_diverges_stops_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: list[list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"), contextlib.suppress(MltrainError):  # whether a rate is found is not the matter here
        find_lr(*read(COMMAND, [*WORDS, "end=1e6", "optimizer=sgd", "optimizer.lr=0.01"]))
    assert 10 < len(rates) < 60
    assert "stopped at" in caplog.text and ("diverges" in caplog.text or "no longer finite" in caplog.text)


def test_a_loss_that_does_not_fall_is_said_so_with_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MltrainError, match=r"no suggestion: from 1\.0e-12 to 1\.0e-11 the loss did not fall"):
        find_lr(*read(COMMAND, [*WORDS, "start=1e-12", "end=1e-11", "out=a/b.png"]))
    assert (tmp_path / "a/b.png").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start=1", "end=0.1"], "start=1.0 must be below end=0.1"),
        (["out=plot.jpg"], "must end in .png"),
        (["step=3"], "did you mean steps"),
        (["steps=3"], "of at least 20"),
        (["loss=bec"], "did you mean loss=bce?"),
        (["runner.batchsize=3"], "did you mean"),
    ],
)
def test_a_mistake_is_named_before_data_are_read(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(COMMAND, words)
    assert said in str(error.value)


def test_an_experiment_and_every_key_of_training_are_taken() -> None:
    cfg, _ = read(COMMAND, ["+experiment=coco_asl_tresnet_l", "runner.batch_size=8"])
    assert cfg.model.name == "tresnet_l" and cfg.runner.batch_size == 8


def test_help_and_the_shown_config_name_every_option(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0 and all(text in done.stdout for text in ("start=1e-6", "end=10", "steps=120", "loss"))
    shown = run("--cfg", "job", "loss=bce", "steps=50", cwd=tmp_path)
    assert shown.returncode == 0 and "steps: 50" in shown.stdout and "losses.bce" in shown.stdout
