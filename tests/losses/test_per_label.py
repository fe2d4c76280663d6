"""BCE, focal loss and ASL against published values, an independent fp64 formula, and each other's special cases."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mltrain.losses import AsymmetricLoss, BinaryCrossEntropy, FocalLoss, PerLabelLoss
from mltrain.losses.base import CPU_CHUNK

# Values of the authors' ASL code on this input.
X = torch.tensor([[2, -1, 0.5, -3], [-0.5, 1.5, -2, 0]])
Y = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]])
DETACHED = [-0.119203, 0.000578, 0.05903, -0.952574, 0.004022, -0.182426, 3e-6, 0.018639]
FULL = [-0.119203, 0.002618, 0.208874, -0.952574, 0.01713, -0.182426, 1.3e-5, 0.073117]


def value_and_grad(loss: PerLabelLoss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = loss(x, y)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


def plain(
    x: Tensor, y: Tensor, *, gamma_neg: float, gamma_pos: float, clip: float, detach: bool
) -> tuple[Tensor, Tensor]:
    """The formula as one would write it, in fp64, with autograd: loss per entry and the gradient of its sum."""
    x, y = x.detach().double().requires_grad_(), y.double()
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    p_m = (p - clip).clamp(min=0)
    w_pos = q**gamma_pos if gamma_pos else torch.ones_like(q)
    w_neg = p_m**gamma_neg if gamma_neg else torch.ones_like(q)
    if detach:
        w_pos, w_neg = w_pos.detach(), w_neg.detach()
    negative = -w_neg * (torch.log1p(-p_m) if clip else F.logsigmoid(-x))
    loss = torch.where(y < 0, 0, -y * w_pos * F.logsigmoid(x) + (1 - y) * negative)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), grad.nan_to_num(0)  # autograd's own 0 * inf where p_m = 0 and gamma < 1


def make_targets(kind: str, shape: tuple[int, int]) -> Tensor:
    draw = torch.rand(shape, dtype=torch.float64)
    y = (draw < 0.06).double()
    if kind == "unknown":
        y[draw > 0.9] = -1
    elif kind == "mixup":
        y = y * torch.rand_like(y)
        y[draw > 0.97] = -1
    elif kind == "dense":
        y = torch.rand_like(y)
    elif kind == "mostly unknown":
        y[draw > 0.2] = -1
    return y


KINDS = ["hard", "unknown", "mixup", "dense", "mostly unknown"]
LOSSES = [
    AsymmetricLoss(),
    AsymmetricLoss(detach_weight=False, gamma_pos=1),
    AsymmetricLoss(gamma_neg=0, gamma_pos=0, clip=0.1),
    AsymmetricLoss(gamma_neg=0.5, gamma_pos=0.5, detach_weight=False),
    BinaryCrossEntropy(),
    BinaryCrossEntropy(pos_weight=3.0, label_smoothing=0.1),
    FocalLoss(),
    FocalLoss(gamma=1.5, alpha=0.25),
    FocalLoss(detach_weight=True),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("gammas", "expected"),
    [
        ((4, 1, 0.05), 3.076783),
        ((4, 0, 0.05), 3.497833),
        ((0, 0, 0.0), 5.958420),
        ((2, 2, 0.0), 3.417521),
        ((4, 0, 0.2), 3.397500),
    ],
)
def test_asl_has_the_values_of_the_authors_code(gammas: tuple[float, float, float], expected: float) -> None:
    loss = AsymmetricLoss(gamma_neg=gammas[0], gamma_pos=gammas[1], clip=gammas[2])
    assert loss(X, Y).item() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("detach", "expected"), [(True, DETACHED), (False, FULL)])
def test_asl_has_the_gradients_of_the_authors_code(detach: bool, expected: list[float]) -> None:
    _, grad = value_and_grad(AsymmetricLoss(detach_weight=detach), X, Y)
    torch.testing.assert_close(grad, torch.tensor(expected).view(2, 4), atol=1e-6, rtol=0)


def test_bce_and_focal_are_special_cases_of_asl_with_the_published_values() -> None:
    assert BinaryCrossEntropy()(X, Y).item() == pytest.approx(5.958420, abs=2e-6)
    assert FocalLoss()(X, Y).item() == pytest.approx(3.417521, abs=2e-6)
    for detach in (True, False):
        asl = AsymmetricLoss(gamma_neg=2, gamma_pos=2, clip=0, detach_weight=detach)
        torch.testing.assert_close(
            value_and_grad(FocalLoss(detach_weight=detach), X, Y), value_and_grad(asl, X, Y), atol=0, rtol=0
        )


def test_bce_equals_torch_with_pos_weight_and_label_smoothing() -> None:
    x, y = torch.randn(9, 31, dtype=torch.float64) * 4, make_targets("hard", (9, 31))
    weight = torch.tensor(2.5, dtype=torch.float64)
    for smoothing in (0.0, 0.2):
        z = x.clone().requires_grad_()
        smooth = y * (1 - smoothing) + smoothing / 2
        expected = F.binary_cross_entropy_with_logits(z, smooth, pos_weight=weight, reduction="sum")
        loss = BinaryCrossEntropy(pos_weight=2.5, label_smoothing=smoothing)
        value, grad = value_and_grad(loss, x, y)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(grad, torch.autograd.grad(expected, z)[0], rtol=1e-12, atol=1e-14)


def test_focal_alpha_weighs_the_two_terms() -> None:
    x, y = torch.randn(9, 31, dtype=torch.float64) * 4, make_targets("hard", (9, 31))
    per_entry, grad = plain(x, y, gamma_neg=1.5, gamma_pos=1.5, clip=0, detach=False)
    weight = torch.where(y == 1, 0.25, 0.75)
    value, got = value_and_grad(FocalLoss(gamma=1.5, alpha=0.25), x, y)
    torch.testing.assert_close(value, (weight * per_entry).sum())
    torch.testing.assert_close(got, weight * grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_asl_equals_the_plain_formula_for_every_option(kind: str, dtype: torch.dtype) -> None:
    tolerance = 1e-11 if dtype == torch.float64 else 3e-6
    for gamma_neg, gamma_pos, clip, detach in itertools.product(
        (0, 0.5, 1, 1.5, 2, 3, 4), (0, 0.5, 1, 2), (0, 0.05, 0.3), (True, False)
    ):
        options: dict[str, Any] = {"gamma_neg": gamma_neg, "gamma_pos": gamma_pos, "clip": clip}
        x, y = (torch.randn(8, 40, dtype=torch.float64) * 5).to(dtype), make_targets(kind, (8, 40))
        expected, expected_grad = plain(x, y, **options, detach=detach)
        value, grad = value_and_grad(AsymmetricLoss(**options, detach_weight=detach), x, y)
        case = f"{options} detach={detach}"
        assert value.item() == pytest.approx(expected.sum().item(), rel=tolerance), case
        assert (grad.double() - expected_grad).abs().max().item() < 5 * tolerance, case
        per_entry, grad = value_and_grad(AsymmetricLoss(**options, detach_weight=detach, reduction="none"), x, y)
        assert (per_entry - expected).abs().max().item() < 20 * tolerance, case
        assert (grad.double() - expected_grad).abs().max().item() < 5 * tolerance, case


@each_loss
@pytest.mark.parametrize("kind", ["hard", "unknown", "mixup", "dense"])
def test_gradients_pass_gradcheck(loss: PerLabelLoss, kind: str) -> None:
    if getattr(loss, "detach_weight", False):
        pytest.skip("a detached weight is by definition not the derivative of the value")
    x, y = torch.randn(3, 17, dtype=torch.float64, requires_grad=True), make_targets(kind, (3, 17))
    for reduction in ("sum", "mean", "batchmean", "none"):
        loss = copy.deepcopy(loss)
        loss.reduction = reduction  # type: ignore[assignment]
        torch.autograd.gradcheck(lambda z, loss=loss: loss(z, y), (x,))


@each_loss
@pytest.mark.parametrize("kind", KINDS)
def test_reductions_agree_with_the_losses_of_the_entries(loss: PerLabelLoss, kind: str) -> None:
    x, y = torch.randn(6, 40), make_targets(kind, (6, 40))
    results = {}
    for reduction in ("none", "sum", "mean", "batchmean"):
        loss = copy.deepcopy(loss)
        loss.reduction = reduction  # type: ignore[assignment]
        results[reduction] = value_and_grad(loss, x, y)
    entries, grad = results["none"]
    assert entries.shape == x.shape
    known = (y >= 0).sum()
    for reduction, divisor in (("sum", 1), ("mean", known), ("batchmean", 6)):
        torch.testing.assert_close(results[reduction], (entries.sum() / divisor, grad / divisor), rtol=1e-5, atol=1e-7)


@each_loss
def test_unknown_entries_have_no_loss_and_no_gradient(loss: PerLabelLoss) -> None:
    x, y = torch.randn(6, 40) * 3, make_targets("hard", (6, 40))
    hidden = torch.rand(6, 40) < 0.1
    z = x.masked_fill(hidden, 77.0)
    value, grad = value_and_grad(loss, x, y.masked_fill(hidden, -1))
    other, other_grad = value_and_grad(loss, z, y.masked_fill(hidden, -1))
    assert torch.equal(value, other) and torch.equal(grad, other_grad)
    assert not grad[hidden].any() and grad[~hidden].any()
    nothing, no_grad = value_and_grad(loss, x, torch.full_like(y, -1))
    assert nothing == 0 and not no_grad.any()


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite_and_exact(loss: PerLabelLoss, dtype: torch.dtype) -> None:
    x = torch.tensor([[100, -100, 20, -20, 12, -12, 0] * 3]).to(dtype)
    for y in ([[1] * 7 + [0] * 7 + [-1] * 7], [[0] * 19 + [1, 1]]):
        value, grad = value_and_grad(loss, x, torch.tensor(y))
        exact, exact_grad = value_and_grad(loss, x.double(), torch.tensor(y))
        assert value.dtype == torch.float32 and grad.dtype == dtype
        assert value.isfinite() and grad.isfinite().all()
        assert value.item() == pytest.approx(exact.item(), rel=1e-6)
        # to the accuracy of its dtype, or of fp32 in p
        torch.testing.assert_close(grad.double(), exact_grad, rtol=2 * torch.finfo(dtype).eps, atol=2e-6)


@each_loss
@pytest.mark.parametrize("kind", ["hard", "dense"])
def test_infinite_logits_give_finite_gradients_and_no_nan(loss: PerLabelLoss, kind: str) -> None:
    x = torch.full((2, 40), torch.inf)
    x[1] = -torch.inf
    value, grad = value_and_grad(loss, x, make_targets(kind, (2, 40)))
    assert not value.isnan() and grad.isfinite().all()


@each_loss
@pytest.mark.parametrize("position", [0, 1])
def test_nan_in_logits_shows_and_in_targets_is_refused(loss: PerLabelLoss, position: int) -> None:
    for where in (3, 4):
        args = [torch.randn(2, 40), make_targets("hard", (2, 40))]
        args[1][0, 3] = 1
        args[position][0, where] = torch.nan
        if position == 0:
            assert loss(*args).isnan()
        else:
            with pytest.raises(ValueError, match="found nan"):
                loss(*args)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_inputs_are_never_changed_and_calls_leave_no_trace(loss: PerLabelLoss, dtype: torch.dtype) -> None:
    x, y = torch.randn(6, 40).to(dtype), make_targets("unknown", (6, 40))
    x0, y0, state = x.clone(), y.clone(), dict(vars(loss))
    first = value_and_grad(loss, x, y)
    second = value_and_grad(loss, x, y)
    assert torch.equal(x, x0) and torch.equal(y, y0)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert dict(vars(loss)) == state


@each_loss
@pytest.mark.parametrize("enabled", [True, False])
def test_grad_mode_is_left_as_found(loss: PerLabelLoss, enabled: bool) -> None:
    x = torch.randn(6, 40, requires_grad=True)
    with torch.set_grad_enabled(enabled):
        value = loss(x, make_targets("hard", (6, 40)))
        assert torch.is_grad_enabled() is enabled and value.requires_grad is enabled
    expected = loss(x.detach(), make_targets("hard", (6, 40)).zero_())
    assert not expected.requires_grad


@each_loss
def test_losses_survive_copy_and_pickle_also_after_use(loss: PerLabelLoss) -> None:
    x, y = torch.randn(6, 40), make_targets("unknown", (6, 40))
    expected = value_and_grad(loss, x, y)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(twin) == repr(loss)
        torch.testing.assert_close(value_and_grad(twin, x, y), expected, rtol=0, atol=0)


@each_loss
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.bool])
def test_target_dtype_does_not_matter(loss: PerLabelLoss, dtype: torch.dtype) -> None:
    x, y = torch.randn(6, 40), make_targets("hard", (6, 40))
    expected = value_and_grad(loss, x, y)
    torch.testing.assert_close(value_and_grad(loss, x, y.to(dtype)), expected, rtol=1e-6, atol=1e-6)


@each_loss
def test_strided_logits_and_targets_are_read_in_their_own_order(loss: PerLabelLoss) -> None:
    x, y = torch.randn(40, 12), make_targets("unknown", (40, 12))
    expected = value_and_grad(loss, x[:, ::2].T.contiguous(), y[:, ::2].T.contiguous())
    torch.testing.assert_close(value_and_grad(loss, x[:, ::2].T, y[:, ::2].T), expected, rtol=0, atol=0)
    row = x[:1].expand(5, 12)
    torch.testing.assert_close(loss(row, y[:5]), loss(row.contiguous(), y[:5]), rtol=0, atol=0)


@each_loss
@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean", "none"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_empty_batches_have_zero_loss(loss: PerLabelLoss, reduction: str, shape: tuple[int, int]) -> None:
    loss = copy.deepcopy(loss)
    loss.reduction = reduction  # type: ignore[assignment]
    value, grad = value_and_grad(loss, torch.zeros(shape), torch.zeros(shape))
    assert value.sum() == 0 and grad.shape == shape


@pytest.mark.parametrize("size", [CPU_CHUNK - 1, CPU_CHUNK, CPU_CHUNK + 1, 2 * CPU_CHUNK, 2 * CPU_CHUNK + 7])
@pytest.mark.parametrize("kind", ["hard", "unknown", "mixup", "dense"])
@pytest.mark.parametrize("options", [{}, {"clip": 0.0, "detach_weight": False}])
def test_pieces_join_without_a_seam(size: int, kind: str, options: dict[str, Any]) -> None:
    x, y = torch.randn(1, size), make_targets(kind, (1, size))
    y[0, -1] = y[0, 0] = 1
    if kind in ("hard", "unknown"):
        y = y.to(torch.int8)
    expected, expected_grad = plain(
        x, y, gamma_neg=4, gamma_pos=0, clip=options.get("clip", 0.05), detach=options.get("detach_weight", True)
    )
    value, grad = value_and_grad(AsymmetricLoss(**options), x, y)
    assert value.item() == pytest.approx(expected.sum().item(), rel=1e-6)
    assert (grad - expected_grad).abs().max() < 5e-6


def test_upstream_gradients_scale_before_the_cast_to_half() -> None:
    # A gradient of 3e-9 is 0 in fp16; times a loss scale of 2**16 it is not.
    x = torch.full((1, 8), -2.7, dtype=torch.float16, requires_grad=True)
    loss = AsymmetricLoss()
    (grad,) = torch.autograd.grad(loss(x, torch.zeros(1, 8)) * 2.0**16, x)
    _, exact = value_and_grad(loss, x.double(), torch.zeros(1, 8))
    assert 0 < exact[0, 0] < 1e-8
    torch.testing.assert_close(grad.double(), exact * 2.0**16, rtol=2e-3, atol=0)


@each_loss
def test_the_graph_can_be_walked_twice_but_not_differentiated_twice(loss: PerLabelLoss) -> None:
    x, y = torch.randn(6, 40, requires_grad=True), make_targets("unknown", (6, 40))
    value = loss(x, y)
    first = torch.autograd.grad(3 * value, x, retain_graph=True)[0].clone()
    torch.testing.assert_close(torch.autograd.grad(3 * value, x)[0], first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(loss(x, y), x, create_graph=True)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(loss: PerLabelLoss, dtype: torch.dtype) -> None:
    x, y = torch.randn(6, 40).to(dtype), make_targets("unknown", (6, 40))
    expected = value_and_grad(loss, x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = value_and_grad(loss, x, y)
        assert torch.is_autocast_enabled("cpu")
    assert got[0].dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_compiled_step_gives_the_same_loss(reduction: Any) -> None:
    x, y = torch.randn(6, 40), make_targets("unknown", (6, 40))
    loss = AsymmetricLoss(reduction=reduction)
    compiled = torch.compile(lambda x, y: 2 * loss(x, y), backend="aot_eager", fullgraph=True)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, got = 2 * loss(x1, y), compiled(x2, y)
    expected.backward()
    got.backward()
    torch.testing.assert_close((got.detach(), x2.grad), (expected.detach(), x1.grad))


def test_wrong_arguments_are_refused_in_words() -> None:
    loss, x, y = AsymmetricLoss(), torch.randn(4, 5), torch.zeros(4, 5)
    with pytest.raises(ValueError, match="class indices"):
        loss(x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"floating tensor \(B, C\)"):
        loss(torch.zeros(4, 5, dtype=torch.int64), y)
    with pytest.raises(ValueError, match=r"floating tensor \(B, C\)"):
        loss(x[0], y[0])
    with pytest.raises(ValueError, match=r"targets\.detach"):
        loss(x, y.clone().requires_grad_())
    for bad in (torch.where(torch.eye(4, 5) == 1, 2, 0), torch.full((4, 5), 3)):  # few, many
        with pytest.raises(ValueError, match="found"):
            loss(x, bad)
    for factory in (
        lambda: AsymmetricLoss(gamma_neg=-1),
        lambda: AsymmetricLoss(gamma_pos=float("nan")),
        lambda: AsymmetricLoss(clip=1.0),
        lambda: AsymmetricLoss(reduction="avg"),  # type: ignore[arg-type]
        lambda: FocalLoss(gamma=-1),
        lambda: FocalLoss(alpha=2),
        lambda: BinaryCrossEntropy(pos_weight=0),
        lambda: BinaryCrossEntropy(label_smoothing=1),
    ):
        with pytest.raises(ValueError, match="="):
            factory()


def test_a_subclass_needs_only_its_two_formulas() -> None:
    class Hill(PerLabelLoss):
        def positive(self, x: Tensor) -> Tensor:
            return -F.logsigmoid(x)

        def negative(self, x: Tensor) -> Tensor:
            p = torch.sigmoid(x)
            return (1.5 - p) * p**2

    x = torch.randn(3, 17, dtype=torch.float64, requires_grad=True)
    for kind in KINDS:
        y = make_targets(kind, (3, 17))
        torch.autograd.gradcheck(lambda z, y=y: Hill(reduction="sum")(z, y), (x,))


@pytest.mark.gpu
@each_loss
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_cuda_equals_cpu_and_never_synchronises(loss: PerLabelLoss, kind: str, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, y = (torch.randn(16, 300) * 4).to(dtype), make_targets(kind, (16, 300))
    for reduction in ("sum", "mean", "none"):
        loss = copy.deepcopy(loss)
        loss.reduction = reduction  # type: ignore[assignment]
        expected = value_and_grad(loss, x, y)
        z, t = x.cuda(), y.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = value_and_grad(loss, z, t)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        tolerance = 2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-5
        torch.testing.assert_close([t.cpu() for t in got], list(expected), rtol=tolerance, atol=2e-6)
