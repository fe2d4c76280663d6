"""A resumed run equals an uninterrupted one, bit for bit: weights, EMA, optimizer, losses, metrics."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.latest import followed
from mltrain.errors import Interrupted
from tests.promises.runs import (
    assert_same,
    command,
    environment,
    execute,
    fit,
    records,
    state,
    stop_at,
    stopped_ranks,
    torchrun,
)

AUGMENTED = ["augment=standard", "mix=mixup", "head=ml_decoder", "head.dim=32", "head.num_heads=2", "head.ffn_dim=32"]


@pytest.mark.parametrize(
    ("step", "options", "workers"),
    [
        (3, AUGMENTED, 2),  # inside an epoch, and on with another number of workers; dropout, mixup, augmentation
        (5, [], 0),  # the first step of the second epoch has just been taken
        (4, [], 1),  # the last step of the first epoch: its evaluation is still to come
        pytest.param(2, ["runner.accumulate=2", "runner.batch_size=8"], 0, marks=pytest.mark.slow),
    ],
)
def test_run_stopped_and_resumed_equals_an_uninterrupted_one(
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    options: list[str],
    workers: int,
) -> None:
    whole = fit([*overrides, *options, f"paths.runs={tmp_path}/whole"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:
        stop_at(patch, step)
        fit([*overrides, *options])
    assert stopped.value.exit_code == 143
    resumed = fit([*overrides, *options, f"data.num_workers={workers}"])
    assert resumed.name == whole.name, "the number of workers must not be part of the identity"
    assert_same(state(resumed), state(whole))
    assert_same(state(resumed, "best"), state(whole, "best"))
    assert records(resumed) == records(whole)


def test_run_stopped_inside_evaluation_resumes_there(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit([*overrides, f"paths.runs={tmp_path}/whole"])
    from mltrain.models.classifier import Classifier

    features, seen = Classifier.features, []

    def interrupted(self: Classifier, images: object) -> object:
        if not self.training:
            seen.append(1)
            if len(seen) == 2:
                signal.raise_signal(signal.SIGINT)
        return features(self, images)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="during evaluation") as stopped:
        patch.setattr(Classifier, "features", interrupted)
        fit(overrides)
    assert stopped.value.exit_code == 130
    folder = next((tmp_path / "runs").rglob("last.pt")).parent
    assert state(folder)["step"] == 5
    assert state(folder)["history"] == []
    resumed = fit(overrides)
    assert_same(state(resumed), state(whole))


def test_killed_run_goes_on_from_its_last_checkpoint(overrides: list[str], tmp_path: Path) -> None:
    whole = fit([*overrides, "runner.epochs=6", f"paths.runs={tmp_path}/whole"])
    arguments = command(*overrides, "runner.epochs=6", "runner.checkpoint_every_minutes=0.001")
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list((tmp_path / "runs").rglob("previous.pt")) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    folder = next((tmp_path / "runs").rglob("previous.pt")).parent
    saved = CheckpointFolder(folder).load()
    assert saved is not None
    assert 0 < saved["step"] < 30, "killed while it ran"
    resumed = fit([*overrides, "runner.epochs=6"])
    assert resumed == folder
    assert_same(state(resumed), state(whole))
    assert records(resumed) == records(whole)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signal_saves_and_exits_with_its_code(
    overrides: list[str], tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    arguments = command(*overrides, "runner.epochs=200", "logger.progress=lines", "data.num_workers=1")
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list((tmp_path / "runs").rglob("last.pt")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert f"stopped by {signum.name}" in errors and errors.endswith("; it is saved: repeat the command to resume\n")
    assert "Traceback" not in errors
    folder = next((tmp_path / "runs").rglob("last.pt")).parent
    assert state(folder)["step"] > 0
    lines = (folder / "train.log").read_text().splitlines()
    assert lines[2:] == errors.splitlines() and lines[1].startswith("$ mltrain train dataset.num_train=80 ")
    assert followed(tmp_path / "runs" / "latest") == folder


def test_two_ranks_stopped_and_resumed_equal_an_uninterrupted_run(overrides: list[str], tmp_path: Path) -> None:
    options = [*overrides, "runner.epochs=6", "runner.checkpoint_every_minutes=0.001"]
    execute(torchrun(*options, f"paths.runs={tmp_path}/whole"))
    folder = stopped_ranks(options, tmp_path / "runs")
    assert 0 < state(folder)["step"] < 30, "stopped while it ran"
    assert not (folder / "result.json").exists()
    execute(torchrun(*options))
    whole = next((tmp_path / "whole").rglob("last.pt")).parent
    assert_same(state(folder), state(whole))
    assert records(folder) == records(whole)
