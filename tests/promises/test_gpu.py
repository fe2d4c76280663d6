"""The same program on a GPU: precision, memory format, compilation, fused optimizers, exact resume. `pytest -m gpu`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_parts import stalls
from mltrain.engine import distributed
from mltrain.engine.step import TrainStep
from mltrain.errors import Interrupted
from mltrain.losses import AsymmetricLoss
from mltrain.models import create_classifier
from mltrain.optim import ModelEma, OneCycle, adamw
from mltrain.pipeline.batch import Batch
from mltrain.pipeline.mix import BatchMix
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


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_waits_for_the_gpu_once(compiled: bool) -> None:
    model = create_classifier(name="test_resnet", num_classes=5, image_size=32).cuda().train()
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8).to(memory_format=torch.channels_last)
    targets = (torch.rand(8, 5) < 0.3).to(torch.int8)
    batch = Batch(images.pin_memory(), targets.pin_memory(), torch.arange(8), [])
    with distributed.start("cuda") as dist:
        step = TrainStep(
            model=model,
            loss=AsymmetricLoss(),
            optimizer=adamw(model),
            schedule=OneCycle(steps_per_epoch=10, epochs=1),
            ema=ModelEma(model),
            mix=BatchMix(mixup=0.2, cutmix=1.0),
            dist=dist,
            seed=0,
            amp_dtype=torch.bfloat16,
            clip_grad_norm=1.0,
            compile_loss=compiled,
        )
        for number in range(8):
            found = stalls(partial(step, number, [batch]), on_gpu=True)
            if number >= 4:  # what is made at the first steps may wait
                assert found.total() == 1, found


def test_one_nccl_rank_per_gpu(on_gpu: list[str], tmp_path: Path) -> None:
    ranks = min(2, torch.cuda.device_count())
    if ranks < 2:
        pytest.skip("needs two GPUs")
    execute(torchrun(*on_gpu, "runner.sync_bn=true", ranks=ranks))
    result = json.loads(next((tmp_path / "runs").rglob("result.json")).read_text())
    assert result["steps"] == 10
