"""The same program on a GPU: precision, memory format, compilation, fused optimizers, exact resume. `pytest -m gpu`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mltrain.errors import Interrupted
from tests.promises.runs import assert_same, execute, fit, state, stop_at, torchrun

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def on_gpu(overrides: list[str]) -> list[str]:
    return [*overrides, "runner.device=cuda"]


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16", "auto"])
@pytest.mark.parametrize("channels_last", ["true", "false"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_precision_trains(on_gpu: list[str], amp: str, channels_last: str, optimizer: str) -> None:
    options = [f"runner.amp={amp}", f"runner.channels_last={channels_last}", f"optimizer={optimizer}"]
    folder = fit([*on_gpu, *options, "optimizer.lr=1e-3", "optimizer.fused=true"])
    history = state(folder)["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert all(torch.isfinite(value).all() for value in state(folder)["model"].values())


def test_compiled_model_follows_the_eager_one(on_gpu: list[str], tmp_path: Path) -> None:
    runs = [fit([*on_gpu, f"runner.compile={c}", f"paths.runs={tmp_path}/{c}"]) for c in ("false", "true")]
    losses = [[record["train_loss"] for record in state(folder)["history"]] for folder in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_resume_on_a_gpu_equals_uninterrupted(
    on_gpu: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp: str
) -> None:
    options = [*on_gpu, f"runner.amp={amp}", "runner.deterministic=true"]
    whole = fit([*options, f"paths.runs={tmp_path}/whole"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 3)
        fit(options)
    assert_same(state(fit(options)), state(whole))


def test_gpu_and_cpu_agree(overrides: list[str], tmp_path: Path) -> None:
    runs = [fit([*overrides, f"runner.device={d}", f"paths.runs={tmp_path}/{d}"]) for d in ("cpu", "cuda")]
    losses = [[record["train_loss"] for record in state(folder)["history"]] for folder in runs]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_one_nccl_rank_per_gpu(on_gpu: list[str], tmp_path: Path) -> None:
    ranks = min(2, torch.cuda.device_count())
    if ranks < 2:
        pytest.skip("needs two GPUs")
    execute(torchrun(*on_gpu, "runner.sync_bn=true", ranks=ranks))
    result = json.loads(next((tmp_path / "runs").rglob("result.json")).read_text())
    assert result["steps"] == 10
