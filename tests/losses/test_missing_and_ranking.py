"""Hill, SPLC, CSL, GHM, ZLPR and two-way: published values, plain fp64 formulas, and the promises all losses make."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.errors import DataError
from mltrain.losses import (
    AsymmetricLoss,
    BinaryCrossEntropy,
    ClassAwareSelectiveLoss,
    GHMLoss,
    HillLoss,
    SPLCLoss,
    TwoWayLoss,
    ZLPRLoss,
)
from mltrain.losses.csl import read_prior
from tests.losses.test_long_tail import make_stats
from tests.losses.test_per_label import KINDS, X, Y, make_targets, value_and_grad

PARTIAL = torch.tensor([[1, 0, -1, -1], [-1, 1, -1, 0]])


def splc(epoch: int, **options: float) -> SPLCLoss:
    loss = SPLCLoss(**options)  # type: ignore[arg-type]
    loss.set_epoch(epoch)
    return loss


IGNORING: list[nn.Module] = [
    HillLoss(),
    HillLoss(lam=2.0, margin=0.0, gamma=1.5),
    splc(0),
    splc(1),
    GHMLoss(),
    GHMLoss(bins=10, momentum=0),
    ClassAwareSelectiveLoss(mode="ignore"),
    ClassAwareSelectiveLoss(mode="ignore_normalize", clip=0.05),
    ZLPRLoss(),
    TwoWayLoss(),
]
"""For which an unknown label is as if it were not there."""
LOSSES = [*IGNORING, ClassAwareSelectiveLoss(), ClassAwareSelectiveLoss(mode="negative", gamma_unknown=4)]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{type(loss).__name__}({loss.extra_repr()})")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("loss", "targets", "expected"),
    [
        (HillLoss(), Y, 4.823801),
        (splc(0), Y, 4.607872),
        (splc(1), Y, 4.298034),
        *(
            (ClassAwareSelectiveLoss(mode=mode, topk=1), PARTIAL, value)  # type: ignore[arg-type]
            for mode, value in (
                ("negative", 1.206062),
                ("ignore", 0.759164),
                ("ignore_normalize", 1.012219),
                ("selective", 0.761077),
            )
        ),
    ],
)
def test_losses_for_missing_labels_have_the_values_of_the_authors_code(
    loss: nn.Module, targets: Tensor, expected: float
) -> None:
    assert loss(X, targets).item() == pytest.approx(expected, abs=1e-6)


def hill(x: Tensor, y: Tensor, lam: float, margin: float, gamma: float) -> Tensor:
    p = torch.sigmoid(x)
    positive = -(torch.sigmoid(margin - x) ** gamma) * F.logsigmoid(x - margin)
    return torch.where(y < 0, 0, y * positive + (1 - y) * (lam - p) * p**2)


def spl_corrected(x: Tensor, y: Tensor, tau: float, margin: float, gamma: float, *, correct: bool) -> Tensor:
    p = torch.sigmoid(x)
    positive = -(torch.sigmoid(margin - x) ** gamma) * F.logsigmoid(x - margin)
    negative = -(p**gamma) * F.logsigmoid(-x)
    if correct:
        negative = torch.where(p > tau, -((1 - p) ** gamma) * F.logsigmoid(x), negative)
    return torch.where(y < 0, 0, y * positive + (1 - y) * negative)


@pytest.mark.parametrize("kind", KINDS)
def test_hill_and_splc_equal_the_plain_formula(kind: str) -> None:
    x, y = torch.randn(9, 31, dtype=torch.float64) * 4, make_targets(kind, (9, 31))
    z = x.clone().requires_grad_()
    cases = [
        (HillLoss(lam=1.7, margin=0.5, gamma=1.5), hill(z, y, 1.7, 0.5, 1.5)),
        *(
            (splc(epoch, tau=0.65, change_epoch=2), spl_corrected(z, y, 0.65, 1, 2, correct=epoch > 1))
            for epoch in (1, 2, 3)
        ),
    ]
    for loss, expected in cases:
        (expected_grad,) = torch.autograd.grad(expected.sum(), z)
        value, grad = value_and_grad(loss, x, y)
        torch.testing.assert_close(value, expected.sum().detach(), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-11)


def test_the_gradient_of_hill_on_a_negative_peaks_in_the_middle_and_is_gone_at_the_end() -> None:
    p = torch.tensor([[0.02, 0.5, 0.98]], dtype=torch.float64)
    _, grad = value_and_grad(HillLoss(), torch.logit(p), torch.zeros(1, 3))
    torch.testing.assert_close(grad, 3 * p**2 * (1 - p) ** 2)
    assert grad[0, 1] == pytest.approx(0.1875)


def selective(x: Tensor, y: Tensor, options: dict[str, float], prior: Tensor | None, topk: int) -> Tensor:
    """CSL entry by entry, as the paper says it."""
    p = torch.sigmoid(x).tolist()
    unknown = [(p[i][c], i, c) for i in range(len(x)) for c in range(x.shape[1]) if y[i, c] < 0]
    left_out = {(i, c) for _, i, c in sorted(unknown)[len(unknown) - min(topk * len(x), len(unknown)) :]}
    if prior is not None:
        left_out |= {(i, c) for _, i, c in unknown if prior[c] > 0.3}
    total = x.new_zeros(())
    for i in range(len(x)):
        for c in range(x.shape[1]):
            q = torch.sigmoid(x[i, c])
            if y[i, c] == 1:
                total = total - (1 - q).detach() ** options["gamma_pos"] * torch.log(q)
            elif (i, c) not in left_out:
                gamma = options["gamma_neg"] if y[i, c] == 0 else options["gamma_unknown"]
                margin = (q - options["clip"]).clamp(min=0)
                total = total - margin.detach() ** gamma * torch.log1p(-margin)
    return total


@pytest.mark.parametrize(("topk", "with_prior"), [(0, False), (0, True), (2, False), (2, True), (50, False)])
def test_selective_mode_leaves_out_classes_by_prior_and_entries_by_probability(
    topk: int, with_prior: bool, tmp_path: Path
) -> None:
    x, y = torch.randn(6, 9, dtype=torch.float64) * 2, make_targets("mostly unknown", (6, 9))
    y[y > 0] = 1
    prior = torch.linspace(0, 1, 9) if with_prior else None
    stats = make_stats([5] * 9)
    file = None
    if prior is not None:
        rows = [f"{k},{prior[k]}" for k in reversed(range(9))]  # in any order
        (tmp_path / "prior.csv").write_text("\n".join(["class,prior", *rows, "another,0.5"]) + "\n")
        file = str(tmp_path / "prior.csv")
    options = {"gamma_pos": 1.0, "gamma_neg": 3.0, "gamma_unknown": 4.0, "clip": 0.05}
    loss = ClassAwareSelectiveLoss(stats=stats, prior=file, prior_threshold=0.3, topk=topk, **options)  # type: ignore[arg-type]
    z = x.clone().requires_grad_()
    expected = selective(z, y, options, prior, topk)
    value, grad = value_and_grad(loss, x, y)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, z)[0], rtol=1e-10, atol=1e-10)
    loss.reduction = loss.known.reduction = loss.unknown.reduction = "batchmean"
    torch.testing.assert_close(loss(x, y), value / 6)


def test_partial_asl_on_full_labels_is_asl() -> None:
    x, y = torch.randn(9, 31), make_targets("hard", (9, 31))
    asl = AsymmetricLoss(gamma_pos=1, gamma_neg=3, clip=0.05)
    for mode in ("negative", "ignore", "selective"):
        loss = ClassAwareSelectiveLoss(mode=mode, gamma_pos=1, gamma_neg=3, gamma_unknown=4, clip=0.05)  # type: ignore[arg-type]
        torch.testing.assert_close(value_and_grad(loss, x, y), value_and_grad(asl, x, y), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class,share\na,1\n", "not class and prior"),
        ("class,prior\na,0.5\n", "of the dataset, 1 of 2 classes is not in it, first 'b'"),
        ("class,prior\na,0.5\na,0.5\nb,0\n", "'a' is listed twice"),
        ("class,prior\na,1.5\nb,0\n", "line 2.*'1.5', not in 0 to 1"),
        ("class,prior\na,nan\nb,0\n", "not in 0 to 1"),
        (None, "cannot be read"),
    ],
)
def test_a_file_of_priors_that_does_not_fit_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "prior.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_prior(file, ("a", "b"))
    assert str(file) in str(caught.value)


def ghm_weights(x: Tensor, y: Tensor, bins: int) -> Tensor:
    """Return the weight of each entry (0 if unknown), by the paper's formula over the bins that are not empty."""
    norm, known = (torch.sigmoid(x.double()) - y).abs(), y >= 0
    which = np.digitize(norm.numpy(), np.linspace(0, 1, bins + 1)[1:-1])
    counts = {j: ((which == j) & known.numpy()).sum() for j in range(bins)}
    filled = sum(count > 0 for count in counts.values())
    total = int(known.sum())
    weights = [[total / counts[j] / filled if counts[j] else 0 for j in row] for row in which.tolist()]
    return torch.tensor(weights, dtype=torch.float64) * known


@pytest.mark.parametrize("kind", ["hard", "unknown", "mostly unknown"])
@pytest.mark.parametrize("bins", [1, 10, 30])
def test_ghm_without_memory_equals_the_plain_formula(kind: str, bins: int) -> None:
    x, y = torch.randn(40, 31, dtype=torch.float64) * 3, make_targets(kind, (40, 31)).round()
    weights = ghm_weights(x, y, bins)
    entries = weights * F.binary_cross_entropy_with_logits(x, y.clamp(min=0), reduction="none")
    value, grad = value_and_grad(GHMLoss(bins=bins, momentum=0), x, y)
    known = (y >= 0).sum()
    torch.testing.assert_close(value, entries.sum() / known, rtol=1e-11, atol=0)
    torch.testing.assert_close(grad, weights * (torch.sigmoid(x) - y) / known, rtol=1e-11, atol=1e-13)
    assert (weights.sum() / known).item() == pytest.approx(1)
    if bins == 1:
        torch.testing.assert_close(value, BinaryCrossEntropy(reduction="mean")(x, y), rtol=1e-11, atol=0)


def test_the_first_step_of_ghm_is_the_same_at_any_momentum() -> None:
    x, y = torch.randn(40, 31), make_targets("unknown", (40, 31))
    expected = value_and_grad(GHMLoss(momentum=0), x, y)
    torch.testing.assert_close(value_and_grad(GHMLoss(momentum=0.9), x, y), expected, rtol=1e-5, atol=1e-9)


def batch(k: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(k)
    return torch.randn(16, 31) * (k + 1), make_targets("hard", (16, 31))


def test_the_average_of_ghm_is_the_bias_corrected_one_over_steps() -> None:
    loss = GHMLoss(bins=10, momentum=0.75)
    shares = []
    for k in range(4):
        x, y = batch(k)
        norm = (torch.sigmoid(x) - y).abs()
        shares.append(torch.histc(norm.float(), 10, 0, 1).double() / norm.numel())
        weights = [0.75 ** (k - j) for j in range(k + 1)]
        density = sum(w * s for w, s in zip(weights, shares, strict=True)) / sum(weights)
        value = loss(x, y).item()
        filled = (density > 0).sum()
        which = (norm * 10).long().clamp(max=9)
        entries = F.binary_cross_entropy_with_logits(x.double(), y, reduction="none") / (density[which] * filled)
        assert value == pytest.approx(entries.mean().item(), rel=2e-6), k
        loss.end_step()
    assert loss.steps == 4


def test_micro_batches_and_ranks_move_the_average_of_ghm_as_one_batch() -> None:
    whole, parts = GHMLoss(), [GHMLoss(), GHMLoss()]
    for k in range(3):
        x, y = batch(k)
        whole(x, y)
        whole.end_step()
        for rank, loss in enumerate(parts):
            for rows in (slice(8 * rank, 8 * rank + 5), slice(8 * rank + 5, 8 * rank + 8)):
                loss(x[rows], y[rows])
        total = parts[0].pending + parts[1].pending
        for loss in parts:
            loss.end_step(lambda _, total=total: total.clone())  # as an all-reduce would
    for loss in parts:
        torch.testing.assert_close(loss.state_dict(), whole.state_dict())


def test_ghm_goes_on_where_its_state_dict_stopped_and_evaluation_leaves_no_trace() -> None:
    first = GHMLoss()
    for k in range(2):
        first(*batch(k))
        first.end_step()
    second = GHMLoss()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert first.state_dict().keys() == {"shares", "steps"}
    first.eval()(*batch(7))
    first.train()
    for k in (2, 3):
        assert torch.equal(first(*batch(k)), second(*batch(k)))
        first.end_step()
        second.end_step()
    nothing = copy.deepcopy(first.state_dict())
    first(torch.randn(3, 5), torch.full((3, 5), -1))
    first.end_step()
    torch.testing.assert_close(first.state_dict(), nothing, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["hard", "dense"])
@pytest.mark.parametrize(
    ("ours", "module", "name", "options"),
    [
        (ZLPRLoss(), "zlpr_loss", "ZlprLoss", ()),
        (TwoWayLoss(temperature_pos=3, temperature_neg=2), "two_way_loss", "TwoWayLoss", (3, 2)),
    ],
)
def test_zlpr_and_two_way_equal_timm(
    ours: nn.Module, module: str, name: str, options: tuple[float, ...], kind: str
) -> None:
    theirs = getattr(pytest.importorskip(f"timm.loss.{module}", reason="timm without this loss"), name)(*options)
    x, y = torch.randn(16, 31) * 4, make_targets(kind, (16, 31))
    y[3], y[5], y[:, 2], y[:, 4] = 0, 1, 0, 1  # images and classes of one kind only
    torch.testing.assert_close(value_and_grad(ours, x, y), value_and_grad(theirs, x, y), rtol=1e-6, atol=1e-7)  # type: ignore[arg-type]


def test_zlpr_of_one_label_is_cross_entropy_with_a_class_at_zero() -> None:
    x = torch.randn(1, 7, dtype=torch.float64)
    expected = torch.logsumexp(torch.cat((x[0], x.new_zeros(1))), 0)
    torch.testing.assert_close(ZLPRLoss()(x, torch.zeros(1, 7)), expected)


def test_the_sum_of_zlpr_is_b_times_its_mean() -> None:
    x, y = torch.randn(16, 31), make_targets("unknown", (16, 31))
    torch.testing.assert_close(ZLPRLoss(reduction="sum")(x, y), 16 * ZLPRLoss()(x, y))


@pytest.mark.parametrize("loss", [HillLoss(), splc(1), ZLPRLoss(), TwoWayLoss()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("kind", ["hard", "unknown", "mostly unknown"])
def test_gradients_are_those_of_the_value(loss: nn.Module, kind: str) -> None:
    x = torch.randn(4, 11, dtype=torch.float64, requires_grad=True)
    y = make_targets(kind, (4, 11))
    torch.autograd.gradcheck(lambda z: loss(z, y), (x,))


@pytest.mark.parametrize("loss", IGNORING, ids=lambda loss: f"{type(loss).__name__}({loss.extra_repr()})")
def test_an_unknown_label_has_no_loss_and_no_gradient(loss: nn.Module) -> None:
    x, y = torch.randn(12, 40) * 3, make_targets("hard", (12, 40))
    hidden = torch.rand(12, 40) < 0.3
    z = x.masked_fill(hidden, 77.0)
    loss = copy.deepcopy(loss).eval()
    value, grad = value_and_grad(loss, x, y.masked_fill(hidden, -1))  # type: ignore[arg-type]
    other, other_grad = value_and_grad(loss, z, y.masked_fill(hidden, -1))  # type: ignore[arg-type]
    assert torch.equal(value, other) and torch.equal(grad, other_grad)
    assert not grad[hidden].any() and grad[~hidden].any()
    _, no_grad = value_and_grad(loss, x, torch.full_like(y, -1))  # type: ignore[arg-type]
    assert not no_grad.any()


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(loss: nn.Module, dtype: torch.dtype) -> None:
    x = torch.tensor([[100, -100, 20, -20, 12, -12, 0] * 3]).to(dtype)
    for y in ([[1] * 7 + [0] * 7 + [-1] * 7], [[0] * 19 + [1, 1]], [[-1] * 21]):
        value, grad = value_and_grad(copy.deepcopy(loss), x, torch.tensor(y))  # type: ignore[arg-type]
        exact, exact_grad = value_and_grad(copy.deepcopy(loss), x.double(), torch.tensor(y))  # type: ignore[arg-type]
        assert value.dtype == torch.float32 and grad.dtype == dtype
        assert value.isfinite() and grad.isfinite().all()
        assert value.item() == pytest.approx(exact.item(), rel=1e-5, abs=1e-6)
        torch.testing.assert_close(grad.double(), exact_grad, rtol=4 * torch.finfo(dtype).eps, atol=2e-6)


@each_loss
@pytest.mark.parametrize("position", [0, 1])
def test_nan_in_logits_shows_and_in_targets_is_refused(loss: nn.Module, position: int) -> None:
    args = [torch.randn(2, 40), make_targets("hard", (2, 40))]
    args[1][0, 3] = 1
    args[position][0, 3] = torch.nan
    if position == 0:
        assert loss(*args).isnan()
        return
    for wrong, message in ((torch.nan, "found nan"), (2, "found 2"), (torch.inf, "found inf")):
        args[1][0, 3] = wrong
        with pytest.raises(ValueError, match=message):
            loss(*args)


@each_loss
def test_inputs_stay_and_copies_give_the_same(loss: nn.Module) -> None:
    x, y = torch.randn(6, 40), make_targets("unknown", (6, 40)).round()
    x0, y0 = x.clone(), y.clone()
    loss = copy.deepcopy(loss)
    twins = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))]
    expected = value_and_grad(loss, x, y)  # type: ignore[arg-type]
    assert torch.equal(x, x0) and torch.equal(y, y0)
    for twin in twins:
        for dtype in (torch.int8, torch.float64):
            got = value_and_grad(copy.deepcopy(twin), x, y.to(dtype))
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(value_and_grad(twins[0], x, y), expected, rtol=1e-6, atol=1e-6)


@each_loss
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_empty_batches_have_zero_loss(loss: nn.Module, shape: tuple[int, int]) -> None:
    value, grad = value_and_grad(copy.deepcopy(loss), torch.zeros(shape), torch.zeros(shape))  # type: ignore[arg-type]
    assert value == 0 and grad.shape == shape


@each_loss
def test_wrong_inputs_are_refused_in_words(loss: nn.Module) -> None:
    with pytest.raises(ValueError, match="class indices"):
        loss(torch.randn(4, 5), torch.zeros(4))
    with pytest.raises(ValueError, match=r"floating tensor \(B, C\)"):
        loss(torch.zeros(4, 5, dtype=torch.int64), torch.zeros(4, 5))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (HillLoss, {"lam": 0.9}),
        (HillLoss, {"gamma": -1}),
        (HillLoss, {"margin": float("nan")}),
        (SPLCLoss, {"tau": 1}),
        (SPLCLoss, {"change_epoch": -1}),
        (GHMLoss, {"bins": 0}),
        (GHMLoss, {"momentum": 1}),
        (ClassAwareSelectiveLoss, {"mode": "sum"}),
        (ClassAwareSelectiveLoss, {"gamma_unknown": -1}),
        (ClassAwareSelectiveLoss, {"topk": -1}),
        (ClassAwareSelectiveLoss, {"prior_threshold": 2}),
        (ClassAwareSelectiveLoss, {"prior": "x.csv", "mode": "ignore"}),
        (ClassAwareSelectiveLoss, {"reduction": "mean"}),
        (ZLPRLoss, {"reduction": "mean"}),
        (TwoWayLoss, {"temperature_neg": 0}),
    ],
)
def test_options_out_of_range_are_refused(kind: type[nn.Module], options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        kind(**options)


@pytest.mark.gpu
@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cuda_equals_cpu_and_never_synchronises(loss: nn.Module, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, y = (torch.randn(16, 300) * 4).to(dtype), make_targets("unknown", (16, 300)).round()
    loss = copy.deepcopy(loss)
    expected = value_and_grad(copy.deepcopy(loss), x, y)  # type: ignore[arg-type]
    on_device, z, t = copy.deepcopy(loss).cuda(), x.cuda(), y.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = value_and_grad(on_device, z, t)  # type: ignore[arg-type]
        if isinstance(on_device, GHMLoss):
            on_device.end_step(lambda tensor: tensor)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tolerance = 2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-5
    torch.testing.assert_close([t.cpu() for t in got], list(expected), rtol=tolerance, atol=2e-6)
    if isinstance(loss, GHMLoss):
        loss(x, y)
        loss.end_step()
        torch.testing.assert_close(on_device.cpu().state_dict(), loss.state_dict())
