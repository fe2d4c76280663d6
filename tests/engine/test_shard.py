"""Sharded models (FSDP2): the same training as DistributedDataParallel, checkpoints of complete tensors.

The default settings are compared in `test_distributed.py`, whose two ranks run anyway.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mltrain.config.build import load
from mltrain.config.identity import run_id
from mltrain.engine.distributed import Distributed
from mltrain.engine.shard import SpreadModel, check_shardable, gathered, load_optimizer
from mltrain.errors import ConfigError, MltrainError
from mltrain.models import create_backbone
from mltrain.models.stages import blocks
from tests.engine.ranks import run_ranks
from tests.engine.sharding import DECODER, check, compare

CASES: list[tuple[dict[str, Any], float]] = [
    ({"name": "test_resnet", "head": "csra", "optimizer": "sgd"}, 1e-6),
    ({"name": "test_vit", "head": "query2label", "head_options": {"ffn_dim": 32, "dim": 32}, "optimizer": "sgd"}, 1e-6),
    ({"name": "test_vit3", **DECODER, "amp_dtype": torch.bfloat16}, 1e-4),
    ({"name": "test_vit", "backbone_options": {"grad_checkpointing": True}}, 1e-6),
    ({"name": "test_resnet", "backbone_options": {"grad_checkpointing": True, "freeze_norm": True}}, 1e-6),
    ({"name": "test_efficientnet", "backbone_options": {"freeze_stages": -1}}, 1e-6),
    ({"name": "test_convnext", "head": "csra"}, 1e-6),
    ({"name": "test_byobnet", "clip_grad_norm": 0.1}, 1e-6),
]
"""options of a step, and the relative tolerance of its loss"""


def _compare_all(ranks: Distributed) -> list[dict[str, Any]]:
    return [compare(ranks, options) for options, _ in CASES]


@pytest.mark.slow
def test_models_heads_and_settings_train_in_parts_as_whole() -> None:
    answers = run_ranks(_compare_all, timeout=600)
    for rank, (kind, value) in enumerate(answers):
        assert kind == "value", f"rank {rank}: {value}"
    for (options, tolerance), main, other in zip(CASES, answers[0][1], answers[1][1], strict=True):
        check(main, other, options, tolerance)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("test_vit", "blocks.0"), ("test_resnet", "layer1.0"), ("test_convnext", "stages.0.blocks.0")],
)
def test_the_parts_are_the_blocks_of_timm(name: str, expected: str) -> None:
    model = create_backbone(name=name, image_size=32).model
    found = blocks(model)
    assert model.get_submodule(expected) in found
    assert len(found) >= 2
    assert not any(isinstance(block, nn.Sequential | nn.LayerNorm) for block in found)
    assert blocks(nn.Linear(2, 2)) == [], "timm groups no layers of it"


# Refusals


def test_one_process_and_fp16_are_refused() -> None:
    alone = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"runner\.shard=true .* and this is one; start them with `torchrun"):
        check_shardable(alone, None)
    two = Distributed(rank=0, world_size=2, local_rank=0, device=torch.device("cuda"))
    check_shardable(two, torch.bfloat16)
    with pytest.raises(ConfigError, match=r"chose fp16 for this GPU; set runner\.amp=bf16 or off"):
        check_shardable(two, torch.float16)


WRONG = {
    "runner.compile=true": "runner.shard=true cannot do it; use auto",
    "runner.amp=fp16": "runner.shard=true has no loss scaling; use bf16 or off",
    "runner.device=mps": "runner.shard=true needs several processes",
    "data.on_corrupt=skip": "runner.shard=true with runner.accumulate above 1",
    "optimizer.fused=true": "torch has no fused SGD for runner.shard=true",
}


def test_what_a_sharded_model_cannot_have_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        load(["runner.shard=true", "runner.accumulate=2", "optimizer=sgd", *WRONG])
    for word, message in WRONG.items():
        assert f"{word}: {message}" in str(refused.value)
    with pytest.raises(ConfigError, match="use optimizer=adam, adamw or sgd"):
        load(["runner.shard=true", "optimizer=timm", "optimizer.opt=lamb"])


def test_sharding_is_no_part_of_the_identity() -> None:
    assert run_id(load(["dataset=shapes", "runner.shard=true"])) == run_id(load(["dataset=shapes"]))


def test_callbacks_are_told_that_one_process_has_no_whole_model() -> None:
    model = SpreadModel()
    for use in (lambda: model(torch.zeros(1)), lambda: model.state_dict(), lambda: model.parameters()):
        with pytest.raises(MltrainError, match="a callback runs on one process, which has a part of the weights"):
            use()


def test_state_of_an_optimizer_gets_the_memory_order_of_its_parameter() -> None:
    # Fused Adam runs through parameter and state in order of memory; a sharded run writes the usual order.
    parameter = nn.Parameter(torch.randn(8, 3, 4, 4).to(memory_format=torch.channels_last))
    optimizers = [torch.optim.Adam([parameter], fused=True) for _ in range(2)]
    parameter.grad = torch.randn(8, 3, 4, 4).to(memory_format=torch.channels_last)
    optimizers[0].step()
    saved = optimizers[0].state_dict()
    usual = {key: value.clone(memory_format=torch.contiguous_format) for key, value in saved["state"][0].items()}
    load_optimizer(optimizers[1], {**saved, "state": {0: usual}})
    loaded = optimizers[1].state[parameter]
    assert loaded["exp_avg"].stride() == parameter.stride() != usual["exp_avg"].stride()
    assert torch.equal(loaded["exp_avg"], usual["exp_avg"]) and loaded["step"] == 1


def test_state_of_a_model_that_is_not_sharded_is_not_copied() -> None:
    alone = Distributed(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    state = {"a": [torch.zeros(2)], "b": 1}
    assert gathered(state, alone) is state
