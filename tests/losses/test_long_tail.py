"""LDAM, logit adjustment, RAL and multi-focal against plain fp64 formulas, and the promises all losses make."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from mltrain.config.build import instantiate
from mltrain.config.compose import load
from mltrain.labels import LabelStats
from mltrain.losses import (
    AsymmetricLoss,
    BinaryCrossEntropy,
    LDAMLoss,
    LogitAdjustedLoss,
    MultiFocalLoss,
    PerClassLoss,
    PerLabelLoss,
    RobustAsymmetricLoss,
)
from mltrain.losses.base import CPU_CHUNK

IMAGES = 1000


def make_stats(positives: list[int]) -> LabelStats:
    counts = np.array(positives, dtype=np.int64)
    zero = np.zeros_like(counts)
    classes = np.arange(len(counts))
    cooccurrence = sparse.csr_matrix((counts, (classes, classes)))
    return LabelStats(tuple(map(str, classes)), IMAGES, counts, IMAGES - counts, zero, cooccurrence)


def tail(classes: int) -> LabelStats:
    """From a class in every image down to classes without any."""
    return make_stats([IMAGES, *(int(700 * 0.8**k) for k in range(classes))][:classes])


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def ldam(*, max_margin: float = 0.5, scale: float = 1.0) -> Terms:
    def terms(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        root = n.clamp(min=1) ** 0.25
        margin = max_margin / root * root.min()
        return softplus(-scale * (x - margin)), softplus(scale * x)

    return terms


def logit_adjustment(*, tau: float = 1.0) -> Terms:
    def terms(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        adjusted = x + tau * torch.log(n.clamp(min=1) / (IMAGES - n).clamp(min=1))
        return softplus(-adjusted), softplus(adjusted)

    return terms


def ral(
    *,
    gamma_neg: float = 4,
    gamma_pos: float = 0,
    clip: float = 0.05,
    lam: float = 1.5,
    epsilon_1: float = 1,
    epsilon_2: float = -2.5,
) -> Terms:
    def terms(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        p, q = torch.sigmoid(x), torch.sigmoid(-x)
        kept = (q + clip).clamp(max=1)
        log = torch.log(kept) if clip else -softplus(x)
        positive = -softplus(-x) + epsilon_1 * q + epsilon_2 * 0.5 * q**2
        focus_pos = q**gamma_pos if gamma_pos else torch.ones_like(q)
        focus_neg = (p - clip).clamp(min=0) ** gamma_neg if gamma_neg else torch.ones_like(q)
        return -focus_pos * positive, -focus_neg * log * (lam - p) * p**2 * (lam - kept)

    return terms


def multi_focal(
    *,
    gamma_neg: float = 3,
    gamma_pos: float = 0,
    clip: float = 0.05,
    exponent: float = 1 / 3,
    detach_weight: bool = True,
) -> Terms:
    def terms(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        counts = n.clamp(min=1)
        weight = (1 - torch.log(counts / counts.max())) ** exponent
        weight = weight.float().double()  # as the buffer
        p, q = torch.sigmoid(x), torch.sigmoid(-x)
        p_m = (p - clip).clamp(min=0)
        focus_pos, focus_neg = q**gamma_pos, p_m ** (gamma_neg + weight)
        if detach_weight:
            focus_pos, focus_neg = focus_pos.detach(), focus_neg.detach()
        log = -torch.log1p(-p_m) if clip else softplus(x)
        return weight * focus_pos * softplus(-x), weight * focus_neg * log

    return terms


def plain(terms: Terms, stats: LabelStats, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss per entry and the gradient of its sum, with autograd, in fp64."""
    x, y = x.detach().double().requires_grad_(), y.double()
    positive, negative = terms(x, torch.as_tensor(stats.positives).double())
    loss = torch.where(y < 0, 0, y * positive + (1 - y) * negative)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), grad


def value_and_grad(loss: PerLabelLoss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = loss(x, y)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


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
Make = Callable[[LabelStats], PerLabelLoss]
CASES: dict[str, tuple[Make, Terms]] = {
    "ldam": (lambda s: LDAMLoss(stats=s), ldam()),
    "ldam scale": (lambda s: LDAMLoss(stats=s, max_margin=0.3, scale=4.0), ldam(max_margin=0.3, scale=4)),
    "logit_adjustment": (lambda s: LogitAdjustedLoss(stats=s), logit_adjustment()),
    "logit_adjustment half": (lambda s: LogitAdjustedLoss(stats=s, tau=0.5), logit_adjustment(tau=0.5)),
    "ral": (lambda s: RobustAsymmetricLoss(), ral()),
    "ral plain": (
        lambda s: RobustAsymmetricLoss(gamma_neg=0, clip=0, lam=1, epsilon_1=0.5, epsilon_2=1),
        ral(gamma_neg=0, clip=0, lam=1, epsilon_1=0.5, epsilon_2=1),
    ),
    "ral focused": (
        lambda s: RobustAsymmetricLoss(gamma_neg=1.5, gamma_pos=1, clip=0.1),
        ral(gamma_neg=1.5, gamma_pos=1, clip=0.1),
    ),
    "multi_focal": (lambda s: MultiFocalLoss(stats=s), multi_focal()),
    "multi_focal full": (
        lambda s: MultiFocalLoss(stats=s, gamma_neg=1, gamma_pos=1, clip=0, exponent=1 / 6, detach_weight=False),
        multi_focal(gamma_neg=1, gamma_pos=1, clip=0, exponent=1 / 6, detach_weight=False),
    ),
    "multi_focal grained": (
        lambda s: MultiFocalLoss(stats=s, gamma_neg=4, exponent=1 / 6, detach_weight=False),
        multi_focal(gamma_neg=4, exponent=1 / 6, detach_weight=False),
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_formula_per_entry_and_summed(case: str, kind: str, dtype: torch.dtype) -> None:
    make, terms = CASES[case]
    stats, tolerance = tail(31), (1e-6 if dtype == torch.float32 else 3e-8)  # buffers are fp32
    x, y = (torch.randn(9, 31, dtype=torch.float64) * 4).to(dtype), make_targets(kind, (9, 31))
    expected, expected_grad = plain(terms, stats, x, y)
    value, grad = value_and_grad(make(stats), x, y)
    assert value.item() == pytest.approx(expected.sum().item(), rel=tolerance)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=20 * tolerance, atol=5 * tolerance)
    loss = make(stats)
    loss.reduction = "none"
    per_entry, grad = value_and_grad(loss, x, y)
    torch.testing.assert_close(per_entry.double(), expected, rtol=20 * tolerance, atol=5 * tolerance)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=20 * tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("case", ["ral", "ral plain", "ral focused", "multi_focal", "multi_focal grained"])
def test_equals_the_plain_formula_to_1e_11_in_fp64(case: str) -> None:
    make, terms = CASES[case]
    x, y = torch.randn(9, 31, dtype=torch.float64) * 5, make_targets("dense", (9, 31))
    loss = make(tail(31))
    loss.reduction = "none"
    got, expected = value_and_grad(loss, x, y), plain(terms, tail(31), x, y)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)


@each_case
@pytest.mark.parametrize("kind", ["hard", "mixup"])
def test_gradients_pass_gradcheck(case: str, kind: str) -> None:
    loss = CASES[case][0](tail(13))
    if getattr(loss, "detach_weight", False):
        pytest.skip("a detached weight is by definition not the derivative of the value")
    x, y = torch.randn(3, 13, dtype=torch.float64, requires_grad=True), make_targets(kind, (3, 13))
    for reduction in ("sum", "mean", "batchmean", "none"):
        loss.reduction = reduction
        torch.autograd.gradcheck(lambda z: loss(z, y), (x,))


@each_case
@pytest.mark.parametrize("kind", KINDS)
def test_reductions_agree_with_the_losses_of_the_entries(case: str, kind: str) -> None:
    loss, x, y = CASES[case][0](tail(40)), torch.randn(6, 40), make_targets(kind, (6, 40))
    results = {}
    for reduction in ("none", "sum", "mean", "batchmean"):
        loss.reduction = reduction
        results[reduction] = value_and_grad(loss, x, y)
    entries, grad = results["none"]
    for reduction, divisor in (("sum", 1), ("mean", (y >= 0).sum()), ("batchmean", 6)):
        torch.testing.assert_close(results[reduction], (entries.sum() / divisor, grad / divisor), rtol=1e-5, atol=1e-6)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite_and_exact(case: str, dtype: torch.dtype) -> None:
    loss = CASES[case][0](tail(21))
    x = torch.tensor([[100, -100, 20, -20, 12, -12, 0] * 3]).to(dtype)
    for y in ([[1] * 7 + [0] * 7 + [-1] * 7], [[0] * 19 + [1, 1]]):
        value, grad = value_and_grad(loss, x, torch.tensor(y))
        exact, exact_grad = value_and_grad(loss, x.double(), torch.tensor(y))
        assert value.dtype == torch.float32 and grad.dtype == dtype
        assert value.isfinite() and grad.isfinite().all()
        assert value.item() == pytest.approx(exact.item(), rel=1e-6)
        torch.testing.assert_close(grad.double(), exact_grad, rtol=2 * torch.finfo(dtype).eps, atol=2e-6)


@each_case
@pytest.mark.parametrize("kind", ["hard", "dense"])
def test_infinite_logits_give_finite_gradients_and_no_nan(case: str, kind: str) -> None:
    x = torch.full((2, 40), torch.inf)
    x[1] = -torch.inf
    value, grad = value_and_grad(CASES[case][0](tail(40)), x, make_targets(kind, (2, 40)))
    assert not value.isnan() and grad.isfinite().all()


@each_case
def test_unknown_entries_have_no_loss_and_no_gradient(case: str) -> None:
    loss, x, y = CASES[case][0](tail(40)), torch.randn(6, 40) * 3, make_targets("hard", (6, 40))
    hidden = torch.rand(6, 40) < 0.1
    value, grad = value_and_grad(loss, x, y.masked_fill(hidden, -1))
    other, other_grad = value_and_grad(loss, x.masked_fill(hidden, 77.0), y.masked_fill(hidden, -1))
    assert torch.equal(value, other) and torch.equal(grad, other_grad)
    assert not grad[hidden].any() and grad[~hidden].any()


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_inputs_and_the_loss_are_never_changed(case: str, dtype: torch.dtype) -> None:
    loss, x, y = CASES[case][0](tail(40)), torch.randn(6, 40).to(dtype), make_targets("unknown", (6, 40))
    x0, y0, state, buffers = x.clone(), y.clone(), dict(vars(loss)), copy.deepcopy(loss.state_dict())
    first = value_and_grad(loss, x, y)
    second = value_and_grad(loss, x, y)
    assert torch.equal(x, x0) and torch.equal(y, y0)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert dict(vars(loss)) == state
    assert all(torch.equal(value, buffers[name]) for name, value in loss.state_dict().items())
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(value_and_grad(twin, x, y), first, rtol=0, atol=0)


@each_case
@pytest.mark.parametrize("classes", [7, CPU_CHUNK - 1, CPU_CHUNK + 1])
def test_pieces_join_without_a_seam(case: str, classes: int) -> None:
    make, terms = CASES[case]
    rows = max(2, int(1.3 * CPU_CHUNK / classes))
    stats = make_stats([1 + k % 900 for k in range(classes)])
    x, y = torch.randn(rows, classes), make_targets("unknown", (rows, classes)).to(torch.int8)
    y[0, 0] = y[-1, -1] = 1
    expected, expected_grad = plain(terms, stats, x, y)
    value, grad = value_and_grad(make(stats), x, y)
    assert value.item() == pytest.approx(expected.sum().item(), rel=1e-6)
    assert (grad - expected_grad).abs().max() < 5e-6


@each_case
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_empty_batches_have_zero_loss(case: str, reduction: Any, shape: tuple[int, int]) -> None:
    loss = CASES[case][0](tail(max(shape[1], 1)))
    if isinstance(loss, PerClassLoss) and not shape[1]:
        pytest.skip("there is no training set without classes")
    loss.reduction = reduction
    value, grad = value_and_grad(loss, torch.zeros(shape), torch.zeros(shape))
    assert value.sum() == 0 and grad.shape == shape


@pytest.mark.parametrize("case", ["ldam", "logit_adjustment", "ral", "multi_focal"])
def test_a_compiled_step_gives_the_same_loss(case: str) -> None:
    loss, x, y = CASES[case][0](tail(40)), torch.randn(6, 40), make_targets("unknown", (6, 40))
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: 2 * loss(x, y), backend="aot_eager", fullgraph=True)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, got = 2 * loss(x1, y), compiled(x2, y)
    expected.backward()
    got.backward()
    torch.testing.assert_close((got.detach(), x2.grad), (expected.detach(), x1.grad))


@each_case
def test_strided_logits_belong_to_their_own_classes(case: str) -> None:
    loss, x, y = CASES[case][0](tail(20)), torch.randn(20, 12), make_targets("unknown", (20, 12))
    expected = value_and_grad(loss, x[:, ::2].T.contiguous(), y[:, ::2].T.contiguous())
    torch.testing.assert_close(value_and_grad(loss, x[:, ::2].T, y[:, ::2].T), expected, rtol=0, atol=0)


def test_ldam_margins_fall_with_the_fourth_root_of_the_count() -> None:
    loss = LDAMLoss(stats=make_stats([1, 16, 81, 0]))
    torch.testing.assert_close(loss.margins, torch.tensor([0.5, 0.25, 0.5 / 3, 0.5]))
    assert "margins" in loss.state_dict()
    x = torch.zeros(1, 4)
    positive = loss(x, torch.ones(1, 4)).item()
    assert positive == pytest.approx(sum(math.log1p(math.exp(m)) for m in (0.5, 0.25, 0.5 / 3, 0.5)), rel=1e-6)
    assert loss(x, torch.zeros(1, 4)).item() == pytest.approx(4 * math.log(2), rel=1e-6), "negatives have no margin"


def test_without_margin_offset_or_weights_they_are_bce_and_asl() -> None:
    x, y = torch.randn(6, 40), make_targets("unknown", (6, 40))
    expected = value_and_grad(BinaryCrossEntropy(), x, y)
    for loss in (LDAMLoss(stats=tail(40), max_margin=0), LogitAdjustedLoss(stats=tail(40), tau=0)):
        torch.testing.assert_close(value_and_grad(loss, x, y), expected)
    for stats, exponent in ((tail(40), 0.0), (make_stats([50] * 40), 1 / 3)):
        focal = MultiFocalLoss(stats=stats, exponent=exponent)
        torch.testing.assert_close(value_and_grad(focal, x, y), value_and_grad(AsymmetricLoss(gamma_neg=4), x, y))


def test_logit_adjustment_at_tau_1_leaves_nothing_to_learn_from_the_prior_alone() -> None:
    stats = make_stats([1, 10, 500, 900])
    y = torch.stack([torch.arange(IMAGES) < n for n in stats.positives], dim=1)
    _, grad = value_and_grad(LogitAdjustedLoss(stats=stats), torch.zeros(IMAGES, 4, dtype=torch.float64), y)
    torch.testing.assert_close(grad.sum(0), torch.zeros(4, dtype=torch.float64), atol=1e-4, rtol=0)
    _, grad = value_and_grad(BinaryCrossEntropy(), torch.zeros(IMAGES, 4, dtype=torch.float64), y)
    assert grad.sum(0)[0] > 400


def test_multi_focal_weighs_the_tail_more() -> None:
    weights = MultiFocalLoss(stats=make_stats([800, 80, 8, 0])).weights
    expected = [(1 + math.log(ratio)) ** (1 / 3) for ratio in (1, 10, 100, 800)]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_ral_has_the_values_of_its_formula_by_hand() -> None:
    # p = 1/2: -log p - q + 1.25 q^2; p_m = .45: .45^4 * 1 * .25 * .95 * -log .55
    positive = math.log(2) - 0.5 + 1.25 * 0.25
    negative = 0.45**4 * (1.5 - 0.5) * 0.25 * (1.5 - 0.55) * -math.log(0.55)
    loss, x = RobustAsymmetricLoss(), torch.zeros(1, 1)
    assert loss(x, torch.ones(1, 1)).item() == pytest.approx(positive, rel=1e-6)
    assert loss(x, torch.zeros(1, 1)).item() == pytest.approx(negative, rel=1e-6)


@pytest.mark.parametrize("name", ["ldam", "logit_adjustment", "multi_focal", "ral"])
def test_configs_build_with_the_defaults_of_the_class(name: str) -> None:
    built = instantiate(load([f"loss={name}"]).loss, "loss", stats=tail(12), num_classes=12)
    assert repr(built) == repr(CASES[name][0](tail(12)))


def test_wrong_arguments_are_refused_in_words() -> None:
    stats = tail(5)
    with pytest.raises(ValueError, match="5 classes"):
        LDAMLoss(stats=stats)(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="class indices"):
        LDAMLoss(stats=stats)(torch.zeros(2, 5), torch.zeros(2))
    for factory in (
        lambda: LDAMLoss(stats=stats, max_margin=-1),
        lambda: LDAMLoss(stats=stats, scale=0),
        lambda: LogitAdjustedLoss(stats=stats, tau=float("nan")),
        lambda: MultiFocalLoss(stats=stats, exponent=-1),
        lambda: MultiFocalLoss(stats=stats, clip=1),
        lambda: RobustAsymmetricLoss(lam=0.5),
        lambda: RobustAsymmetricLoss(epsilon_1=1.5),
        lambda: RobustAsymmetricLoss(gamma_neg=-1),
    ):
        with pytest.raises(ValueError, match="="):
            factory()


@pytest.mark.gpu
@each_case
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_equals_cpu_and_never_synchronises(case: str, kind: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    loss = CASES[case][0](tail(300))
    twin = copy.deepcopy(loss).cuda()
    for dtype, reduction in itertools.product((torch.float16, torch.float32), ("sum", "mean", "none")):
        x, y = (torch.randn(16, 300) * 4).to(dtype), make_targets(kind, (16, 300))
        loss.reduction = twin.reduction = reduction
        expected = value_and_grad(loss, x, y)
        z, t = x.cuda(), y.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = value_and_grad(twin, z, t)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        tolerance = 2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-5
        torch.testing.assert_close([t.cpu() for t in got], list(expected), rtol=tolerance, atol=2e-6)
