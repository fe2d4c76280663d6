"""Two processes do what one does on the same global batch: gradients, weights and metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from mltrain.engine.distributed import Distributed
from mltrain.models import create_backbone
from mltrain.runs.assemble import sync_batch_norm
from tests.promises.runs import SMOOTH, execute, fit, state, torchrun


@pytest.mark.parametrize(
    "options",
    [
        ["loss=bce", "loss.reduction=mean", "runner.accumulate=2"],
        pytest.param(["loss=asl"], marks=pytest.mark.slow),
    ],
)
def test_two_ranks_train_and_evaluate_as_one_process(overrides: list[str], tmp_path: Path, options: list[str]) -> None:
    settings = [*overrides, *SMOOTH, *options, "runner.batch_size=8"]
    one = fit([*settings, f"paths.runs={tmp_path}/one"])
    execute(torchrun(*settings))
    two = next((tmp_path / "runs").rglob("result.json")).parent
    assert two.name == one.name, "the number of processes must not be part of the identity"
    a, b = state(one), state(two)
    for key, value in a["model"].items():
        torch.testing.assert_close(b["model"][key], value, rtol=2e-4, atol=2e-5, msg=key)
    assert b["loss_sum"] == pytest.approx(a["loss_sum"], rel=1e-4)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    for weights in ("val", "ema"):
        for key, value in results[0][weights].items():
            # 25 images over two ranks: padding the shorter share, or losing the odd image, would move these.
            assert results[1][weights][key] == pytest.approx(value, rel=1e-2, abs=0.5), key


@pytest.mark.slow
def test_odd_batch_over_two_ranks_is_refused_with_one_message(overrides: list[str]) -> None:
    done = execute(torchrun(*overrides, "runner.batch_size=9"), code=1)
    assert "runner.batch_size=9" in done.stderr
    assert re.search(r"multiple of .*\b2\b", done.stderr)


def test_what_stops_one_rank_alone_is_all_that_is_said(overrides: list[str], tmp_path: Path) -> None:
    settings = [*overrides, "runner.batch_size=8", f"paths.data={tmp_path}/data"]
    fit([*settings, "runner.max_steps=1"])  # draws the data set
    images = sorted((tmp_path / "data").rglob("val*/*.jpg"))
    # in the second rank's share, and as large as it was: else the data set would be drawn again
    images[-1].write_bytes(b"-" * images[-1].stat().st_size)
    done = execute(torchrun(*settings, "runner.max_steps=2"), code=1)
    assert str(images[-1].name) in done.stderr
    assert "its message has the reason" in done.stderr
    assert "mltrain/engine" not in done.stderr, "a traceback of ours, beside torchrun's own"


def test_sweep_under_torchrun_is_refused(overrides: list[str]) -> None:
    done = execute(torchrun("-m", *overrides, "seed=0,1"), code=1)
    assert "-m under torchrun" in done.stderr


@pytest.mark.parametrize("name", ["tresnet_m", "mobilenetv2_100", "resnet18"])
def test_synchronised_batch_norm_changes_nothing_else_in_the_model(name: str) -> None:
    torch.manual_seed(0)
    model = create_backbone(name=name, image_size=64, freeze_stages=1).eval()
    images = torch.rand(2, 3, 64, 64)
    ranks = Distributed(rank=0, world_size=2, local_rank=0, device=torch.device("cuda"))
    with torch.no_grad():
        before = model(images).tokens
        names = {key: value.requires_grad for key, value in model.named_parameters()}
        model = sync_batch_norm(model, ranks)
        torch.testing.assert_close(model(images).tokens, before)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    assert {key: value.requires_grad for key, value in model.named_parameters()} == names
