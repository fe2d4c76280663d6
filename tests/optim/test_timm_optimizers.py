"""Every optimizer of timm: resumed bit for bit from a checkpoint file, under a schedule; wrong names and arguments."""

from __future__ import annotations

import importlib.util
import io
import math

import pytest
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from mltrain.engine import distributed
from mltrain.engine.checkpoint import _check_state
from mltrain.engine.step import TrainStep
from mltrain.losses import AsymmetricLoss
from mltrain.optim import Constant, ModelEma, OneCycle, apply
from mltrain.optim.optimizers import check_usable, timm_optimizer
from tests.engine.test_step import batch

# Kron compiles its kernels, which takes minutes on a CPU.
COMPILED = ["kron", "kronc", "kronw"]
NAMES = list_optimizers(exclude_filters=["bnb*", "fused*", "adahessian", *COMPILED])
NAMES += ["lookahead_adamw", "lookahead_lion", *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILED)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images).relu())


def _steps(model: Net, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    schedule = OneCycle(steps_per_epoch=6, epochs=1)
    for step in range(first, last):
        torch.manual_seed(step)  # as the training step does, so that optimizers that draw go on alike
        apply(optimizer, schedule, step)
        images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        model(images).sigmoid().pow(2).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _new(name: str) -> tuple[Net, torch.optim.Optimizer]:
    model = Net()
    return model, timm_optimizer(model, opt=name, lr=1e-3, weight_decay=0.01, head_lr_multiplier=2.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_ends_with_the_same_bits(name):
    whole, optimizer = _new(name)
    before = whole.head.weight.detach().clone()
    _steps(whole, optimizer, 0, 3)
    saved = {"model": whole.state_dict(), "optimizer": optimizer.state_dict()}
    _check_state(saved)  # as every checkpoint
    file = io.BytesIO()
    torch.save(saved, file)
    _steps(whole, optimizer, 3, 6)
    again, optimizer = _new(name)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    _steps(again, optimizer, 3, 6)
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.isfinite(one).all()
    assert not torch.equal(before, whole.head.weight)


def test_steps_equal_those_of_timm():
    ours, theirs = Net(), Net()
    reference = create_optimizer_v2(
        [
            {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        opt="lamb",
        lr=1e-3,
        betas=(0.8, 0.99),
    )
    optimizer = timm_optimizer(ours, opt="lamb", lr=1e-3, weight_decay=0.01, kwargs={"betas": [0.8, 0.99]})
    for model, chosen in ((ours, optimizer), (theirs, reference)):
        for step in range(3):
            images = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(step))
            model(images).sigmoid().pow(2).sum().backward()
            chosen.step()
            chosen.zero_grad()
    # Lamb clips by the norm over all groups, whose sum depends on their order
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["lamb", "muon", "lookahead_lion"])
def test_ema_scaler_and_clipping_go_on_working(name):
    model, optimizer = _new(name)
    ema = ModelEma(model, warmup=False, decay=0.5)
    with distributed.start("cpu") as dist:
        step = TrainStep(
            model=model,
            loss=AsymmetricLoss(),
            optimizer=optimizer,
            schedule=Constant(steps_per_epoch=9, epochs=1),
            ema=ema,
            mix=None,
            dist=dist,
            seed=0,
            clip_grad_norm=0.1,
        )
        step.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        start = model.head.weight.detach().clone()
        images = torch.randn(4, 3, 4, 4)
        targets = torch.randint(0, 2, (4, 5))
        step(0, [batch(images, targets)])
        after = model.head.weight.detach().clone()
        assert not torch.equal(after, start)
        torch.testing.assert_close(ema.module.head.weight, (start + after) / 2)
        averaged = ema.module.head.weight.clone()
        model.head.register_full_backward_hook(lambda module, grad, _: (grad[0] * torch.inf,))
        result = step(1, [batch(images, targets)])  # the gradient overflows, so the scaler skips the step
        assert not math.isfinite(result.grad_norm)
        assert torch.equal(model.head.weight, after)
        assert torch.equal(ema.module.head.weight, averaged)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opt": "lamp"}, r"opt=lamp: timm has no such optimizer; nearest: .*lamb"),
        ({"opt": "foo_adam"}, r"timm has no such optimizer"),
        ({"opt": "adahessian"}, r"needs second derivatives"),
        ({"opt": "lamb", "kwargs": {"trust_clp": True}}, r"lamb has no such argument; did you mean trust_clip\?"),
        ({"opt": "lion", "kwargs": {"eps": 1e-8}}, r"kwargs.eps: lion has no such argument"),
        ({"opt": "lamb", "kwargs": {"lr": 1.0}}, r"kwargs.lr: set optimizer.lr instead"),
    ],
)
def test_wrong_names_and_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        timm_optimizer(Net(), **options)


def test_a_missing_package_is_named():
    if importlib.util.find_spec("bitsandbytes") is not None and torch.cuda.is_available():
        pytest.skip("bitsandbytes is installed here")
    with pytest.raises(ValueError, match=r"needs the package bitsandbytes"):
        timm_optimizer(Net(), opt="bnbadam")


def test_optimizers_that_a_step_cannot_drive_are_refused():
    class ScheduleFree(torch.optim.SGD):
        def train(self) -> None: ...

        def eval(self) -> None: ...

    class Closure(torch.optim.SGD):
        def step(self, closure): ...

    parameters = list(Net().parameters())
    with pytest.raises(ValueError, match="ScheduleFree is schedule-free"):
        check_usable(ScheduleFree(parameters, lr=0.1))
    for kind in (Closure, torch.optim.LBFGS):
        with pytest.raises(ValueError, match="needs a closure"):
            check_usable(kind(parameters, lr=0.1))
    check_usable(torch.optim.SGD(parameters, lr=0.1))
