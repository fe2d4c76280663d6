"""Losses that follow the training: told the epoch, fed after each step, and whole again after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mltrain.engine.step import TrainStep
from mltrain.errors import Interrupted
from mltrain.losses import SPLCLoss
from tests.promises.runs import assert_same, execute, fit, state, stop_at, torchrun

FOLLOWING = [
    ["loss=splc", "loss.tau=0.3", "runner.epochs=3"],
    ["loss=ghm", "runner.accumulate=2", "runner.batch_size=8"],
]


@pytest.mark.parametrize("options", FOLLOWING, ids=lambda options: options[0])
def test_a_run_with_a_loss_that_follows_the_training_resumes_exactly(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    whole = fit([*overrides, *options, f"paths.runs={tmp_path}/whole"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 4 if options[0] == "loss=ghm" else 7)
        fit([*overrides, *options])
    resumed = fit([*overrides, *options])
    assert_same(state(resumed), state(whole))
    if options[0] == "loss=ghm":
        kept = state(resumed)["loss"]
        assert kept["steps"] == state(resumed)["step"]
        assert 0.5 < kept["shares"].sum() <= 1


def test_the_runner_tells_the_loss_each_epoch(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    call = TrainStep.__call__

    def spy(self: TrainStep, step: int, *args: object) -> object:
        assert isinstance(self.loss, SPLCLoss)
        seen.append((step, self.loss.epoch))
        return call(self, step, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainStep, "__call__", spy)
    fit([*overrides, "loss=splc"])
    assert seen == [(step, step // 5) for step in range(10)]


@pytest.mark.slow
def test_two_ranks_keep_one_average_of_ghm(overrides: list[str], tmp_path: Path) -> None:
    execute(torchrun(*overrides, "loss=ghm", "runner.epochs=1"))
    folder = next((tmp_path / "runs").rglob("last.pt")).parent
    kept = state(folder)["loss"]
    assert kept["steps"] == state(folder)["step"] == 5
    torch.testing.assert_close(kept["shares"].sum(), torch.tensor(1 - 0.75**5), rtol=1e-5, atol=0)
