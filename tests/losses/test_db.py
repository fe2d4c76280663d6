"""Losses weighted by class frequency: published values, an independent plain formula, and what must not happen."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mltrain.labels import LabelSet, LabelStats
from mltrain.losses import ClassBalancedLoss, DistributionBalancedLoss, InverseFrequencyLoss, PerLabelLoss
from mltrain.losses.base import CPU_CHUNK
from mltrain.safe_pickle import read_pickle
from tests.losses.test_per_label import KINDS, make_targets, value_and_grad

PLAIN_DB: dict[str, Any] = {"ntr": False, "focal": False}
# Authors' code on the first 8 training images, logits from -3 to 3: mean loss and sum of |gradient|, for COCO-MLT (map
# centre 0.2, lambda 2) and VOC-MLT (0.3, 5). None: only the value is known.
PUBLISHED: list[tuple[type[PerLabelLoss], dict[str, Any], tuple[float, float | None], tuple[float, float | None]]] = [
    (InverseFrequencyLoss, {"power": 1.0}, (82.2629242, None), (74.7270737, None)),
    (InverseFrequencyLoss, {"power": 0.5}, (7.9034400, None), (7.3116236, None)),
    (DistributionBalancedLoss, {**PLAIN_DB, "rebalance": False}, (1.0112271, 0.5009418), (1.0362780, 0.5091590)),
    (DistributionBalancedLoss, {"rebalance": False, "ntr": False}, (1.2862561, 0.9250215), (1.3303893, 0.9488617)),
    (DistributionBalancedLoss, PLAIN_DB, (0.9037817, 0.4463159), (1.0721626, 0.5268674)),
    (DistributionBalancedLoss, {**PLAIN_DB, "weight_norm": "by_instance"}, (0.8216206, None), (0.9746933, None)),
    (DistributionBalancedLoss, {**PLAIN_DB, "weight_norm": "by_batch"}, (0.8216198, None), (0.9746933, None)),
    (DistributionBalancedLoss, {"ntr": False}, (1.1559517, None), (1.3757013, None)),
    (DistributionBalancedLoss, {"focal": False}, (0.7010649, 0.4304422), (0.8180620, 0.5282397)),
    (DistributionBalancedLoss, {}, (1.1980302, 0.8572508), (1.5460825, 1.0535140)),
    (ClassBalancedLoss, {"mode": "by_class"}, (0.1514197, None), (0.1800743, None)),
    (ClassBalancedLoss, {"mode": "average_n"}, (0.1286256, None), (0.1330389, None)),
    (ClassBalancedLoss, {"mode": "average_w"}, (0.1317686, None), (0.1330423, None)),
    (ClassBalancedLoss, {"mode": "min_n"}, (0.1351209, None), (0.1330490, None)),
]
SETS = {
    "coco": ("coco/longtail2017", {"mu": 0.2, "neg_scale": 2.0}),
    "voc": ("VOCdevkit/longtail2012", {"mu": 0.3, "neg_scale": 5.0}),
}


def statistics(classes: int = 12, images: int = 400, *, empty: int = 1, unknown: float = 0.1) -> LabelStats:
    """A long tail whose last `empty` classes have no image; some labels are unknown."""
    draw = np.random.default_rng(0)
    targets = (draw.random((images, classes)) < np.geomspace(0.5, 0.005, classes)).astype(np.int8)
    targets[draw.random(targets.shape) < unknown] = -1
    targets[:, classes - empty :] = np.minimum(targets[:, classes - empty :], 0)
    files = [f"{k}.jpg" for k in range(images)]
    names = [str(k) for k in range(classes)]
    return LabelStats.from_labels(
        LabelSet.from_dense(name="long tail", root=".", files=files, class_names=names, targets=targets)
    )


STATS = statistics()
C = len(STATS.class_names)
WIDE = statistics(300, 200, empty=40, unknown=0.0)
LOSSES = [
    DistributionBalancedLoss(stats=STATS),
    DistributionBalancedLoss(stats=STATS, rebalance=False, neg_scale=5.0, form="paper"),
    DistributionBalancedLoss(stats=STATS, weight_norm="by_instance", gamma=1.5, mu=0.3),
    DistributionBalancedLoss(stats=STATS, ntr=False, focal=False),
    ClassBalancedLoss(stats=STATS),
    ClassBalancedLoss(stats=STATS, mode="average_n", beta=0.99),
    ClassBalancedLoss(stats=STATS, mode="average_w", normalize=False),
    ClassBalancedLoss(stats=STATS, mode="min_n", focal=False),
    InverseFrequencyLoss(stats=STATS),
    InverseFrequencyLoss(stats=STATS, power=0.5, focal=True, focal_factor=3.0),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def effective(beta: float, n: Tensor) -> Tensor:
    return (1 - beta) / (1 - beta**n)


def plain(loss: PerLabelLoss, stats: LabelStats, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The formulas as one would write them, in fp64, image by image: loss per entry and the gradient of its sum."""
    options = vars(loss)
    x, y = x.detach().double().requires_grad_(), y.double()
    n = torch.tensor(stats.positives).double().clamp(min=1)
    known = torch.tensor(stats.positives + stats.negatives).double()
    rows = []
    for target in y:
        share = target * (target > 0)
        has = bool(share.sum() > 0)
        weight = torch.ones_like(n)
        if isinstance(loss, DistributionBalancedLoss) and loss.rebalance:
            r = (1 / n) / (share / n).sum()
            weight = loss.alpha + torch.sigmoid(loss.beta * (r - loss.mu))
        elif isinstance(loss, InverseFrequencyLoss):
            weight = (known / n) ** loss.power
            weight = weight / weight.mean() if loss.normalize else weight
        elif isinstance(loss, ClassBalancedLoss):
            weight = effective(loss.beta, n)
            scale = 1 / weight.mean() if loss.normalize else 1
            if loss.mode != "by_class":
                if not has:
                    value = torch.tensor(1 - loss.beta, dtype=torch.float64)
                elif loss.mode == "average_n":
                    value = effective(loss.beta, (share * n).sum() / share.sum())
                elif loss.mode == "average_w":
                    value = (share * weight).sum() / share.sum()
                else:
                    value = effective(loss.beta, n[target > 0].min())
                weight = value.expand_as(n)
            weight = weight * scale
        rows.append(weight)
    weights = torch.stack(rows)
    if options.get("weight_norm") == "by_instance":
        weights = weights / weights.amax(1, keepdim=True)
    elif options.get("weight_norm") == "by_batch":
        weights = weights / weights.max()
    bias, scale = torch.zeros_like(n), 1.0
    if isinstance(loss, DistributionBalancedLoss) and loss.ntr:
        scale = loss.neg_scale
        share = torch.minimum(torch.tensor(stats.positives).double().clamp(min=0.5), known - 0.5) / known
        bias = -torch.log(1 / share - 1) * loss.init_bias / (1 if loss.form == "paper" else scale)
    gamma, factor = (options["gamma"], options["focal_factor"]) if options["focal"] else (0, 1)
    positive, negative = x + bias, -scale * (x + bias)
    term_pos = factor * torch.sigmoid(-positive) ** gamma * -F.logsigmoid(positive)
    term_neg = factor * torch.sigmoid(-negative) ** gamma * -F.logsigmoid(negative) / scale
    result = weights * torch.where(y < 0, 0, y * term_pos + (1 - y) * term_neg)
    (grad,) = torch.autograd.grad(result.sum(), x)
    return result.detach(), grad


@pytest.fixture(scope="module", params=SETS)
def published(request: pytest.FixtureRequest, shared_data: Path) -> tuple[str, LabelStats, Tensor]:
    folder = shared_data / "longtail_official" / SETS[request.param][0]
    targets = np.asarray(read_pickle(folder / "class_freq.pkl")["gt_labels"]).astype(np.int8)
    names, files = list(map(str, range(targets.shape[1]))), list(map(str, range(len(targets))))
    labels = LabelSet.from_dense(name="train", root=".", files=files, class_names=names, targets=targets)
    return request.param, LabelStats.from_labels(labels), torch.from_numpy(targets[:8].copy())


@pytest.mark.parametrize(("kind", "options", "coco", "voc"), PUBLISHED)
def test_losses_have_the_values_of_the_authors_code(
    published: tuple[str, LabelStats, Tensor], kind: Any, options: dict[str, Any], coco: Any, voc: Any
) -> None:
    name, stats, y = published
    if kind is DistributionBalancedLoss:
        options = SETS[name][1] | options
    else:
        options = {**options, "normalize": False}
    if kind is ClassBalancedLoss:
        options |= {"beta": 0.9, "focal_factor": 2.0}
    x = torch.linspace(-3, 3, y.numel()).view_as(y)
    value, slope = coco if name == "coco" else voc
    for targets, more in ((y, 0), (y.float(), 0), (y, 60)):  # `more` negatives: the sparse pass in place of the dense
        z, t = (torch.cat([part, torch.zeros(more, y.shape[1], dtype=part.dtype)]) for part in (x, targets))
        loss = kind(stats=stats, **options, reduction="none")
        entries, grad = value_and_grad(loss, z, t)
        assert entries[:8].mean().item() == pytest.approx(value, rel=1e-5)
        if slope is not None:
            assert grad[:8].abs().sum().item() / y.numel() == pytest.approx(slope, rel=1e-5)
        loss.reduction = "sum"
        total, summed = value_and_grad(loss, z, t)
        if options.get("weight_norm") != "by_batch":
            assert total.item() == pytest.approx(entries.sum().item(), rel=1e-5)
            torch.testing.assert_close(summed, grad, rtol=1e-5, atol=1e-6)


def test_automatic_centre_is_the_mean_of_r_over_the_positives(published: tuple[str, LabelStats, Tensor]) -> None:
    name, stats, _ = published
    mu = DistributionBalancedLoss(stats=stats).mu
    assert mu == pytest.approx({"coco": 0.2296, "voc": 0.4868}[name], abs=5e-5)


def test_automatic_centre_is_the_mean_of_r_over_any_positives() -> None:
    targets = (np.random.default_rng(1).random((200, 9)) < 0.3).astype(np.int8)
    targets[~targets.any(1), 4] = 1
    names, files = list(map(str, range(9))), list(map(str, range(200)))
    labels = LabelSet.from_dense(name="train", root=".", files=files, class_names=names, targets=targets)
    inverse = 1 / targets.sum(0)
    r = inverse / (targets * inverse).sum(1, keepdims=True)
    mu = DistributionBalancedLoss(stats=LabelStats.from_labels(labels)).mu
    assert mu == pytest.approx(r[targets == 1].mean(), rel=1e-12)


@each_loss
@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_the_plain_formula(loss: PerLabelLoss, kind: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 5e-6)):
        x, y = (torch.randn(16, C, dtype=torch.float64) * 4).to(dtype), make_targets(kind, (16, C))
        y[3] = 0  # an image without positives
        expected, expected_grad = plain(loss, STATS, x, y)
        for reduction, divisor in (("none", 1), ("sum", 1), ("mean", (y >= 0).sum()), ("batchmean", 16)):
            loss = copy.deepcopy(loss)
            loss.reduction = reduction  # type: ignore[assignment]
            value, grad = value_and_grad(loss, x, y)
            target = expected if reduction == "none" else expected.sum() / divisor
            torch.testing.assert_close(value.double(), target, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(grad.double(), expected_grad / divisor, rtol=tolerance, atol=tolerance)


def test_every_option_of_db_equals_the_plain_formula() -> None:
    for rebalance, ntr, focal, norm, form in itertools.product(
        (True, False), (True, False), (True, False), (None, "by_instance", "by_batch"), ("repository", "paper")
    ):
        if norm is not None and not rebalance:
            continue
        options: dict[str, Any] = {"rebalance": rebalance, "ntr": ntr, "focal": focal, "weight_norm": norm}
        loss = DistributionBalancedLoss(stats=STATS, **options, form=form, reduction="sum", beta=7.0, alpha=0.2)
        x, y = torch.randn(16, C, dtype=torch.float64) * 3, make_targets("mixup", (16, C))
        expected, expected_grad = plain(loss, STATS, x, y)
        value, grad = value_and_grad(loss, x, y)
        torch.testing.assert_close(value, expected.sum(), rtol=1e-11, atol=0)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-12)


def test_gamma_zero_keeps_the_factor() -> None:
    x, y = torch.randn(16, C), make_targets("hard", (16, C))
    kept = DistributionBalancedLoss(stats=STATS, gamma=0.0, focal_factor=3.0)
    without = DistributionBalancedLoss(stats=STATS, focal=False)
    for got, expected in zip(value_and_grad(kept, x, y), value_and_grad(without, x, y), strict=True):
        torch.testing.assert_close(got, 3 * expected)


@pytest.mark.parametrize("rows", [1, CPU_CHUNK // 300 - 1, CPU_CHUNK // 300 + 1, 2 * (CPU_CHUNK // 300) + 3])
@pytest.mark.parametrize("kind", ["hard", "unknown"])
def test_pieces_join_without_a_seam(rows: int, kind: str) -> None:
    x, y = torch.randn(rows, 300), make_targets(kind, (rows, 300))
    y[:, 0] = y[:, -1] = 1
    loss = DistributionBalancedLoss(stats=WIDE, reduction="sum")
    expected, expected_grad = plain(loss, WIDE, x, y)
    value, grad = value_and_grad(loss, x, y.to(torch.int8))
    assert value.item() == pytest.approx(expected.sum().item(), rel=1e-5)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=2e-5, atol=2e-6)


@each_loss
@pytest.mark.parametrize("kind", ["hard", "unknown", "mixup", "dense"])
def test_gradients_pass_gradcheck(loss: PerLabelLoss, kind: str) -> None:
    x, y = torch.randn(4, C, dtype=torch.float64, requires_grad=True), make_targets(kind, (4, C))
    for reduction in ("sum", "mean", "none"):
        loss = copy.deepcopy(loss)
        loss.reduction = reduction  # type: ignore[assignment]
        torch.autograd.gradcheck(lambda z, loss=loss: loss(z, y), (x,))


@each_loss
def test_unknown_labels_change_nothing_for_the_others(loss: PerLabelLoss) -> None:
    loss = copy.deepcopy(loss)
    loss.reduction = "sum"
    x, y = torch.randn(6, C) * 3, make_targets("hard", (6, C))
    hidden = (torch.rand(6, C) < 0.15) & (y == 0)  # of negatives: r is as before
    _, before = value_and_grad(loss, x, y)
    value, grad = value_and_grad(loss, x, y.masked_fill(hidden, -1))
    other, other_grad = value_and_grad(loss, x.masked_fill(hidden, 77.0), y.masked_fill(hidden, -1))
    assert torch.equal(value, other) and torch.equal(grad, other_grad)
    assert not grad[hidden].any()
    torch.testing.assert_close(grad[~hidden], before[~hidden])
    nothing, no_grad = value_and_grad(loss, x, torch.full_like(y, -1))
    assert nothing == 0 and not no_grad.any()


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite_and_exact(loss: PerLabelLoss, dtype: torch.dtype) -> None:
    x = torch.tensor([[100, -100, 20, -20, 12, -12] * 2] * 4).to(dtype)
    for y in (torch.eye(4, C), torch.zeros(4, C), torch.ones(4, C), make_targets("unknown", (4, C))):
        value, grad = value_and_grad(loss, x, y)
        exact, exact_grad = value_and_grad(loss, x.double(), y)
        assert value.dtype == torch.float32 and grad.dtype == dtype
        assert value.isfinite() and grad.isfinite().all()
        assert value.item() == pytest.approx(exact.item(), rel=5e-6)
        torch.testing.assert_close(grad.double(), exact_grad, rtol=max(2 * torch.finfo(dtype).eps, 5e-6), atol=2e-6)
    for y in (torch.eye(4, C), torch.ones(4, C)):
        value, grad = value_and_grad(loss, torch.where(x > 0, torch.inf, -torch.inf), y)
        assert not value.isnan() and grad.isfinite().all()


@each_loss
@pytest.mark.parametrize("count", [0, 1, 400])
def test_frequencies_of_none_or_all_images_are_finite(loss: PerLabelLoss, count: int) -> None:
    positives = np.full(C, count)
    positives[0] = 200
    counts = (positives, 400 - positives, np.zeros(C, dtype=np.int64))
    stats = LabelStats(STATS.class_names, 400, *counts, STATS.cooccurrence)
    given = {key: value for key, value in vars(loss).items() if not key.startswith("_") and key != "training"}
    other = type(loss)(stats=stats, **given)
    for y in (torch.eye(C), torch.ones(C, C), torch.zeros(C, C)):
        value, grad = value_and_grad(other, torch.randn(C, C), y)
        assert value.isfinite() and value > 0 and grad.isfinite().all()


@each_loss
def test_counts_are_buffers_outside_the_state_dict(loss: PerLabelLoss) -> None:
    assert not loss.state_dict()
    assert {"positives", "known"} <= dict(loss.named_buffers()).keys()
    assert all(buffer.device.type == "meta" for buffer in copy.deepcopy(loss).to("meta").buffers())
    x, y = torch.randn(6, C), make_targets("unknown", (6, C))
    expected = value_and_grad(loss, x, y)
    for twin in (copy.deepcopy(loss).half(), copy.deepcopy(loss).double(), pickle.loads(pickle.dumps(loss))):
        assert repr(twin) == repr(loss)
        torch.testing.assert_close(value_and_grad(twin, x, y), expected, rtol=0, atol=0)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_inputs_and_counts_are_never_changed(loss: PerLabelLoss, dtype: torch.dtype) -> None:
    x, y = torch.randn(6, C).to(dtype), make_targets("mixup", (6, C))
    x0, y0, counts = x.clone(), y.clone(), [buffer.clone() for buffer in loss.buffers()]
    first, second = value_and_grad(loss, x, y), value_and_grad(loss, x, y)
    assert torch.equal(x, x0) and torch.equal(y, y0)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(loss.buffers(), counts, strict=True))


def test_changed_counts_are_seen_by_the_next_call() -> None:
    x, y = torch.randn(6, C), make_targets("hard", (6, C))
    loss = DistributionBalancedLoss(stats=STATS)
    before = loss(x, y)
    loss.positives.mul_(2).clamp_(max=loss.known)  # in place
    changed = loss(x, y)
    assert changed != before and copy.deepcopy(loss)(x, y) == changed
    loss.positives = torch.as_tensor(STATS.positives.copy())  # another buffer
    assert loss(x, y) == before
    with torch.inference_mode():
        assert DistributionBalancedLoss(stats=STATS)(x, y) == before


def test_the_step_from_ordinary_to_huge_logits_has_no_seam() -> None:
    for top in (79.0, 81.0):
        x, y = torch.randn(6, C), make_targets("hard", (6, C))
        y[0, 0], x[0, 0] = 0, top
        loss = DistributionBalancedLoss(stats=STATS, neg_scale=1.0, init_bias=0.0)
        got, expected = value_and_grad(loss, x, y), value_and_grad(loss, x.double(), y)
        assert got[0].item() == pytest.approx(expected[0].item(), rel=1e-6)
        torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[5]], ids=repr)
def test_a_compiled_step_gives_the_same_loss(loss: PerLabelLoss) -> None:
    x, y = torch.randn(6, C), make_targets("unknown", (6, C))
    torch.compiler.reset()
    compiled = torch.compile(lambda x, y: 2 * loss(x, y), backend="eager", fullgraph=True)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, got = 2 * loss(x1, y), compiled(x2, y)
    expected.backward()
    got.backward()
    torch.testing.assert_close((got.detach(), x2.grad), (expected.detach(), x1.grad))


@each_loss
@pytest.mark.parametrize("shape", [(0, C), (3, C)])
def test_nothing_known_is_zero(loss: PerLabelLoss, shape: tuple[int, int]) -> None:
    value, grad = value_and_grad(loss, torch.zeros(shape), torch.full(shape, -1))
    assert value == 0 and grad.shape == shape and not grad.any()


def test_wrong_arguments_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=f"5 classes, the statistics {C}"):
        DistributionBalancedLoss(stats=STATS)(torch.zeros(2, 5), torch.zeros(2, 5))
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (DistributionBalancedLoss, {"alpha": -0.1}),
        (DistributionBalancedLoss, {"beta": 0}),
        (DistributionBalancedLoss, {"mu": "mean"}),
        (DistributionBalancedLoss, {"mu": float("nan")}),
        (DistributionBalancedLoss, {"neg_scale": 0}),
        (DistributionBalancedLoss, {"init_bias": float("inf")}),
        (DistributionBalancedLoss, {"weight_norm": "by_class"}),
        (DistributionBalancedLoss, {"weight_norm": "by_batch", "rebalance": False}),
        (DistributionBalancedLoss, {"form": "code"}),
        (DistributionBalancedLoss, {"gamma": -1}),
        (DistributionBalancedLoss, {"focal_factor": 0}),
        (DistributionBalancedLoss, {"reduction": "avg"}),
        (ClassBalancedLoss, {"beta": 1.0}),
        (ClassBalancedLoss, {"mode": "max_n"}),
        (InverseFrequencyLoss, {"power": 0}),
    ]
    for kind, options in wrong:
        with pytest.raises(ValueError, match=f"{next(iter(options))}="):
            kind(stats=STATS, **options)


@pytest.mark.gpu
@each_loss
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_equals_cpu_and_never_synchronises(loss: PerLabelLoss, kind: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, y = torch.randn(16, C) * 4, make_targets(kind, (16, C))
    moved = copy.deepcopy(loss).cuda()
    expected = value_and_grad(loss, x, y)
    z, t = x.cuda(), y.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = value_and_grad(moved, z, t)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close([part.cpu() for part in got], list(expected), rtol=1e-5, atol=2e-6)
