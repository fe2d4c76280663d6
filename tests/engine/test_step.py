"""TrainStep: gradients of one big batch however it is cut; nothing moves when something is not finite."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mltrain.engine import distributed
from mltrain.engine.step import TrainStep
from mltrain.errors import NonFiniteError
from mltrain.losses import AsymmetricLoss, CrossEntropy
from mltrain.losses.base import Reduction
from mltrain.optim import Constant, ModelEma


class Loss(nn.Module):
    """BCE over known entries, reduced as `reduction` says."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        known = targets >= 0
        total = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0).float(), reduction="none")[known].sum()
        return total / {"sum": 1, "mean": known.sum(), "batchmean": len(logits)}[self.reduction]


def batch(images: torch.Tensor, targets: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(images=images, targets=targets, indices=torch.arange(len(images)))


def data(n: int = 12, c: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, 4, 4, generator=generator)
    return images, torch.randint(-1, 2, (n, c), generator=generator, dtype=torch.int8)


def make_step(dist: distributed.Distributed, loss: nn.Module, **options: object) -> TrainStep:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 5))
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.1}], lr=0.1, momentum=0.9)
    ema = ModelEma(model)
    schedule = Constant(steps_per_epoch=10, epochs=1)
    step = TrainStep(
        model=model,
        loss=loss,
        optimizer=optimizer,
        schedule=schedule,
        ema=ema,
        mix=None,
        dist=dist,
        seed=0,
        **options,  # type: ignore[arg-type]
    )
    step.bare = model  # type: ignore[attr-defined]
    return step


def weights(step: TrainStep) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in step.bare.parameters()])  # type: ignore[attr-defined]


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
@pytest.mark.parametrize("cuts", [(6,), (3, 5), (1, 2, 3, 11)])
def test_accumulated_gradients_equal_those_of_one_batch(reduction: str, cuts: tuple[int, ...]) -> None:
    images, targets = data()
    with distributed.start("cpu") as dist:
        whole, parts = (make_step(dist, Loss(reduction), channels_last=False) for _ in range(2))
        one = whole(0, [batch(images, targets)])
        pieces = zip(images.tensor_split(cuts), targets.tensor_split(cuts), strict=True)
        many = parts(0, [batch(*piece) for piece in pieces])
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    assert many.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
def test_accumulated_gradients_of_single_labels_count_images_not_entries(reduction: Reduction) -> None:
    images, _ = data()
    targets = torch.eye(5, dtype=torch.int8).repeat(3, 1)[:12]
    targets[[1, 7]] = -1  # images of unknown label
    targets[3:5, 4] = -1  # beside a positive, so the label is known
    targets[4] = torch.tensor([1, -1, -1, -1, -1])
    with distributed.start("cpu") as dist:
        loss = CrossEntropy(reduction=reduction, label_smoothing=0.1)
        whole, parts = (make_step(dist, loss, channels_last=False) for _ in range(2))
        one = whole(0, [batch(images, targets)])
        pieces = zip(images.tensor_split((2, 5)), targets.tensor_split((2, 5)), strict=True)
        many = parts(0, [batch(*piece) for piece in pieces])
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_empty_micro_batch_changes_nothing(reduction: str, place: int) -> None:
    images, targets = data()
    parts = [batch(images[:5], targets[:5]), batch(images[5:], targets[5:])]
    parts.insert(place, batch(images[:0], targets[:0]))
    with distributed.start("cpu") as dist:
        whole, cut = (make_step(dist, Loss(reduction), channels_last=False) for _ in range(2))
        one, many = whole(0, [batch(images, targets)]), cut(0, parts)
    assert many.loss == pytest.approx(one.loss, rel=1e-6)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=1e-6, atol=1e-7)


def test_step_of_unknown_targets_alone_has_no_gradient() -> None:
    images, targets = data()
    unknown = torch.full_like(targets, -1)
    with distributed.start("cpu") as dist:
        step = make_step(dist, AsymmetricLoss(reduction="mean"), channels_last=False)
        before = weights(step)
        result = step(0, [batch(images, unknown)] * 2)
    assert (result.loss, result.grad_norm) == (0, 0)
    assert torch.equal(weights(step), before)


class Overflowing:
    """A loss scaler whose gradients have just overflowed; counts how often the device was asked for the scale."""

    def __init__(self, scale: float) -> None:
        self.value, self.asked, self.overflow = scale, 0, False

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss * (float("inf") if self.overflow else 1.0)

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None: ...

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self.overflow:
            optimizer.step()

    def update(self) -> None: ...

    def get_scale(self) -> float:
        self.asked += 1
        return self.value


def test_overflow_under_loss_scaling_moves_neither_weights_nor_average_until_the_scale_is_tiny() -> None:
    images, targets = data()
    with distributed.start("cpu") as dist:
        step = make_step(dist, Loss("mean"), channels_last=False)
        scaler = step.scaler = Overflowing(2.0**16)  # type: ignore[assignment]
        step(0, [batch(images, targets)])
        assert scaler.asked == 0, "no wait for the device in an ordinary step"
        before = weights(step)
        scaler.overflow = True
        step(1, [batch(images, targets)])
        assert torch.equal(weights(step), before)
        assert step.ema is not None
        assert step.ema.updates == 1
        scaler.value = 2.0**-11
        with pytest.raises(NonFiniteError, match="every loss scale"):
            step(2, [batch(images, targets)])


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_nothing_moves_when_loss_or_gradient_is_not_finite(spoilt: str) -> None:
    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x * (float("nan") if spoilt == "loss" else 1.0)

        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            return grad * float("inf")

    class Bad(Loss):
        on = False

        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            value = super().forward(logits, targets)
            return Spoil.apply(value) if self.on else value

    images, targets = data()
    loss = Bad("mean")
    with distributed.start("cpu") as dist:
        step = make_step(dist, loss, channels_last=False)
        step(0, [batch(images, targets)])
        before = weights(step).clone()
        assert step.ema is not None
        ema, optimizer = copy.deepcopy(step.ema.state_dict()), copy.deepcopy(step.optimizer.state_dict())
        loss.on = True
        with pytest.raises(NonFiniteError, match=r"step 1: the (loss|gradient norm) is (nan|inf)"):
            step(1, [batch(images, targets)])
        assert torch.equal(weights(step), before)
        assert step.ema.updates == ema["updates"]
        for name, value in step.ema.state_dict()["module"].items():
            assert torch.equal(value, ema["module"][name])
        for key, state in step.optimizer.state_dict()["state"].items():
            assert torch.equal(state["momentum_buffer"], optimizer["state"][key]["momentum_buffer"])
        loss.on = False  # and no gradient is left behind
        step(1, [batch(images, targets)])
        assert torch.isfinite(weights(step)).all()


def test_clipping_scales_the_step_to_the_norm_asked_for() -> None:
    images, targets = data()
    with distributed.start("cpu") as dist:
        free, clipped = (
            make_step(dist, Loss("sum"), channels_last=False, clip_grad_norm=limit) for limit in (None, 0.01)
        )
        start = weights(free).clone()
        norm = free(0, [batch(images, targets)]).grad_norm
        assert clipped(0, [batch(images, targets)]).grad_norm == pytest.approx(norm)
    ratio = (weights(clipped) - start).norm() / (weights(free) - start).norm()
    assert norm > 0.1
    assert float(ratio) == pytest.approx(0.01 / norm, rel=1e-3)


def test_random_layers_repeat_for_the_same_step_and_differ_between_steps_and_micro_batches() -> None:
    images, targets = data()
    seen: list[torch.Tensor] = []
    with distributed.start("cpu") as dist:
        step = make_step(dist, Loss("sum"), channels_last=False)
        step.forward_model = nn.Sequential(step.forward_model, nn.Dropout(0.5))
        step.forward_model.register_forward_hook(lambda *args: seen.append(args[2] == 0))
        for number in (3, 3, 4):
            torch.rand(7)  # what happened before must not matter
            step(number, [batch(images, targets)] * 2)
    first, again, later = seen[:2], seen[2:4], seen[4:]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], later[0])


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, nn.MSELoss])
def test_a_loss_of_another_package_gets_targets_of_the_type_of_the_logits(loss: type[nn.Module]) -> None:
    images, targets = data()
    targets = targets.abs()
    with distributed.start("cpu") as dist:
        whole, parts = (make_step(dist, loss(), channels_last=False) for _ in range(2))
        expected = loss()(whole.bare(images), targets.float()).item()  # type: ignore[attr-defined]
        one = whole(0, [batch(images, targets)])
        pieces = zip(images.tensor_split((2, 5)), targets.tensor_split((2, 5)), strict=True)
        many = parts(0, [batch(*piece) for piece in pieces])
    assert one.loss == pytest.approx(expected, rel=1e-6) and many.loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-6, atol=1e-7)
