"""Train a tiny model on two ranks, sharded and by DistributedDataParallel, and compare everything."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mltrain.engine.distributed import Distributed
from mltrain.engine.shard import gathered, load_optimizer, shard_model, spread_weights, whole
from mltrain.engine.step import TrainStep
from mltrain.errors import NonFiniteError
from mltrain.losses import AsymmetricLoss
from mltrain.models import create_classifier
from mltrain.optim import Constant, ModelEma, adamw, sgd
from mltrain.optim.shards import is_spread

CLASSES = 5
MODEL = ("name", "head", "head_options", "backbone_options")
DECODER = {"head": "ml_decoder", "head_options": {"dim": 32, "num_heads": 2}}
SHARDED = {"name": "test_vit", **DECODER, "clip_grad_norm": 0.05, "backbone_options": {"freeze_stages": 2}}
"""without a marker: frozen blocks, groups with rates of their own, clipping, accumulation, EMA"""


def make_step(ranks: Distributed, shard: bool, optimizer: str = "adamw", **options: Any) -> TrainStep:
    """A step as `mltrain.runs.assemble` builds it, of one of timm's tiny models."""
    torch.manual_seed(0)
    settings = {key: options.pop(key) for key in ("amp_dtype", "clip_grad_norm") if key in options}
    model = create_classifier(num_classes=CLASSES, image_size=32, **options)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = ModelEma(model, decay=0.5)
    if shard:
        shard_model(model, ranks)
        shard_model(ema.module, ranks)  # type: ignore[arg-type]
        ema.follow(model)
    groups = {"layer_decay": 0.8, "head_lr_multiplier": 3.0}
    chosen = adamw(model, lr=1e-3, **groups) if optimizer == "adamw" else sgd(model, lr=1e-3, **groups)
    schedule = Constant(steps_per_epoch=10, epochs=1)
    loss, rest = AsymmetricLoss(), {"mix": None, "dist": ranks, "seed": 0}
    return TrainStep(model=model, loss=loss, optimizer=chosen, schedule=schedule, ema=ema, **rest, **settings)  # type: ignore[arg-type]


def batches(ranks: Distributed, step: int, parts: int = 2) -> list[Any]:
    """This rank's share of a step, in `parts` micro-batches."""
    generator = torch.Generator().manual_seed(100 * step + ranks.rank)
    images = torch.randint(0, 256, (parts, 3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    targets = torch.randint(-1, 2, (parts, 3, CLASSES), generator=generator, dtype=torch.int8)
    return [SimpleNamespace(images=x, targets=y, indices=torch.arange(3)) for x, y in zip(images, targets, strict=True)]


def state_of(step: TrainStep) -> dict[str, Any]:
    assert step.ema is not None
    state = {"model": step.model.state_dict(), "ema": step.ema.state_dict(), "optimizer": step.optimizer.state_dict()}
    return copy.deepcopy(gathered(state, step.dist))


def train(step: TrainStep, numbers: range) -> list[tuple[float, float]]:
    step.model.train()
    results = [step(number, batches(step.dist, number)) for number in numbers]
    return [(result.loss, result.grad_norm) for result in results]


def resume(step: TrainStep, state: dict[str, Any]) -> None:
    step.model.load_state_dict(spread_weights(state["model"], step.model))
    average = state["ema"]
    assert step.ema is not None
    step.ema.load_state_dict({**average, "module": spread_weights(average["module"], step.ema.module)})
    load_optimizer(step.optimizer, copy.deepcopy(state["optimizer"]))  # torch keeps the tensors that it is given


def tensors(content: Any, place: str = "") -> dict[str, torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return {place: content}
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return {name: tensor for key, value in items for name, tensor in tensors(value, f"{place}/{key}").items()}


def compare(ranks: Distributed, options: dict[str, Any], steps: int = 3) -> dict[str, Any]:
    """Train both ways; resume the sharded one from the state in the middle, with and without sharding."""
    found: dict[str, Any] = {}
    plain = make_step(ranks, shard=False, **options)
    found["plain"] = train(plain, range(steps))
    found["plain state"] = state_of(plain)
    sharded = make_step(ranks, shard=True, **options)
    found["sharded"] = train(sharded, range(1))
    middle = ranks.broadcast(state_of(sharded))
    found["sharded"] += train(sharded, range(1, steps))
    found["sharded state"] = state_of(sharded)
    resumed = make_step(ranks, shard=True, **options)
    resume(resumed, middle)
    found["resumed"] = train(resumed, range(1, steps))
    found["resumed state"] = state_of(resumed)
    back = make_step(ranks, shard=False, **options)
    resume(back, middle)
    found["back"] = train(back, range(1, steps))
    parameters = list(sharded.model.parameters())
    found["spread"] = all(map(is_spread, [*parameters, *sharded.ema.module.parameters()]))  # type: ignore[union-attr]
    found["held"] = sum(p.to_local().numel() for p in parameters) / sum(p.numel() for p in parameters)  # type: ignore[operator]
    found["frozen"] = [name for name, p in sharded.model.named_parameters() if not p.requires_grad]

    # An evaluation: other numbers of images, backbone and head called apart, both weights, in inference mode.
    models = [sharded.model.eval(), sharded.ema.module]  # type: ignore[union-attr]
    images = batches(ranks, 7)[0].images
    for model in (*models, plain.model, plain.ema.module):  # type: ignore[union-attr]
        ranks.broadcast_buffers(model)
    with torch.inference_mode(), whole(models):
        complete = not any(is_spread(parameter) for model in models for parameter in model.parameters())
        outputs = [model.classify(model.features(images)) for _ in range(1 + 2 * ranks.rank) for model in models]  # type: ignore[operator]
    plain.model.eval()
    with torch.inference_mode():
        found["logits"] = (outputs[0], plain.model(images), outputs[1], plain.ema.module(images))  # type: ignore[union-attr]
    found["complete"] = complete and is_spread(next(sharded.model.parameters()))

    # A step that is not finite on one rank: refused on both, with nothing changed.
    bad = batches(ranks, steps)
    if ranks.rank == 1:
        bad[0].images = torch.full((3, 3, 32, 32), math.nan)
    try:
        sharded.model.train()
        sharded(steps, bad)
    except NonFiniteError as error:
        found["refused"] = str(error)
    for name, buffer in sharded.model.named_buffers():  # of batch-norm, which the forward pass has seen
        assert "running" in name or buffer.isfinite().all()
    after = state_of(sharded)
    found["after"] = {
        "parameters": [after["model"][n] for n, _ in sharded.model.named_parameters()] if ranks.is_main else []
    }
    return found


def check(main: dict[str, Any], other: dict[str, Any], options: dict[str, Any], tolerance: float = 1e-6) -> None:
    """Check what `compare` has returned on both ranks."""
    for rank in (main, other):
        for (loss, norm), (expected, expected_norm) in zip(rank["sharded"], rank["plain"], strict=True):
            assert loss == pytest.approx(expected, rel=tolerance)
            assert norm == pytest.approx(expected_norm, rel=20 * tolerance)
        assert rank["sharded"] == main["sharded"], "every rank reports the same"
        assert rank["resumed"] == rank["sharded"][1:], "bit for bit"
        assert rank["back"] == [pytest.approx(pair, rel=20 * tolerance) for pair in rank["sharded"][1:]]
        assert rank["spread"] and rank["complete"]
        assert 0.3 < rank["held"] < 0.7
        assert "weights are unchanged" in rank["refused"]
        for got, expected in (rank["logits"][:2], rank["logits"][2:]):
            torch.testing.assert_close(got, expected, rtol=100 * tolerance, atol=10 * tolerance)
    resumed, whole_time = tensors(main["resumed state"]), tensors(main["sharded state"])
    assert resumed.keys() == whole_time.keys()
    assert all(torch.equal(resumed[name], whole_time[name]) for name in resumed), "bit for bit"
    expected_state = tensors(main["plain state"])
    for name, tensor in tensors(main["sharded state"]).items():
        largest = float(expected_state[name].abs().max())
        difference = float((tensor.double() - expected_state[name].double()).abs().max())
        assert difference <= 200 * tolerance * largest + 20 * tolerance, f"{name}: {difference}, largest {largest}"
    assert tensors(main["sharded state"]).keys() == expected_state.keys()
    assert list(main["sharded state"]["model"]) == list(main["plain state"]["model"])
    model = create_classifier(num_classes=CLASSES, image_size=32, **{k: v for k, v in options.items() if k in MODEL})
    model.load_state_dict(main["sharded state"]["model"])  # by one process, without any of this
    names = [name for name, _ in model.named_parameters()]
    assert all(other["sharded state"]["model"][name] is None for name in names), "only the main rank has them whole"
    parameters = [main["sharded state"]["model"][name] for name in names]
    assert all(map(torch.equal, parameters, main["after"]["parameters"])), "the refused step has changed weights"
