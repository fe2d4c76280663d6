"""Losses of one label an image against published values, torch, an independent fp64 formula and their special cases."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses import AsymmetricSoftmaxLoss, CrossEntropy, FocalSoftmaxLoss, LDAMSoftmaxLoss
from mltrain.losses.softmax import SoftmaxLoss, class_weights

COUNTS = np.array([400, 90, 25, 7, 0])
STATS = LabelStats(
    class_names=tuple("abcde"),
    num_images=522,
    positives=COUNTS,
    negatives=522 - COUNTS,
    unknowns=np.zeros(5, dtype=np.int64),
    cooccurrence=sparse.csr_matrix(np.diag(COUNTS)),
)
# Values of the authors' code on this input, labels 0 and 1.
X = torch.tensor([[2, -1, 0.5, -3], [-0.5, 1.5, -2, 0]])
Y = torch.eye(4)[:2]

LOSSES = [
    CrossEntropy(),
    CrossEntropy(stats=STATS, label_smoothing=0.1, class_weight="inverse"),
    AsymmetricSoftmaxLoss(),
    AsymmetricSoftmaxLoss(gamma_pos=1.5, gamma_neg=0.5, stats=STATS, class_weight="sqrt"),
    AsymmetricSoftmaxLoss(form="corrected"),
    AsymmetricSoftmaxLoss(form="corrected", gamma_neg=0.5, gamma_pos=0.5, label_smoothing=0),
    FocalSoftmaxLoss(),
    FocalSoftmaxLoss(gamma=0.5, stats=STATS, class_weight="effective"),
    LDAMSoftmaxLoss(stats=STATS),
    LDAMSoftmaxLoss(stats=STATS, scale=10.0, max_margin=0.3, class_weight="effective"),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def of_labels(labels: list[int], classes: int = 5) -> Tensor:
    return torch.eye(classes, dtype=torch.int8)[labels]


def images(loss: SoftmaxLoss, x: Tensor, y: Tensor) -> Tensor:
    """The loss of each image."""
    reduction, loss.reduction = loss.reduction, "none"
    try:
        return loss(x, y)
    finally:
        loss.reduction = reduction


def gradient(loss: SoftmaxLoss, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(loss(x, y), x)
    return grad


@pytest.mark.parametrize(
    ("gamma_pos", "gamma_neg", "smoothing", "expected"),
    [(0, 4, 0.1, 0.265944), (1, 4, 0.1, 0.067465), (0, 4, 0, 0.287466)],
)
def test_published_asl_has_the_values_of_the_authors_code(
    gamma_pos: float, gamma_neg: float, smoothing: float, expected: float
) -> None:
    loss = AsymmetricSoftmaxLoss(gamma_pos=gamma_pos, gamma_neg=gamma_neg, label_smoothing=smoothing)
    assert loss(X, Y).item() == pytest.approx(expected, abs=1e-6)


def test_gamma_neg_acts_without_smoothing_in_the_corrected_form_only() -> None:
    x, y = torch.randn(6, 5), of_labels([0, 1, 2, 3, 4, 0])
    for form, acts in (("published", False), ("corrected", True)):
        few, many = (AsymmetricSoftmaxLoss(gamma_neg=g, label_smoothing=0, form=form)(x, y) for g in (1.0, 4.0))  # type: ignore[arg-type]
        assert (few != many) == acts
        if not acts:
            torch.testing.assert_close(few, CrossEntropy()(x, y))


def plain_asl(x: Tensor, y: Tensor, *, form: str, gamma_neg: float, gamma_pos: float, smoothing: float) -> Tensor:
    """Per image, as one would write it, for hard labels."""
    p = x.softmax(1)
    smooth = y * (1 - smoothing) + smoothing / x.shape[1]
    hard = y.bool()
    if form == "published":
        weight = torch.where(hard, (1 - p) ** gamma_pos, p**gamma_neg)
        return -(smooth * weight * p.log()).sum(1)
    return -(smooth * (1 - p) ** gamma_pos * p.log() + (1 - smooth) * p**gamma_neg * (1 - p).log()).sum(1)


@pytest.mark.parametrize("form", ["published", "corrected"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_asl_equals_the_plain_formula(form: str, smoothing: float) -> None:
    for gamma_neg in (0, 0.5, 1, 4):
        for gamma_pos in (0, 0.5, 2):
            x = (3 * torch.randn(40, 5, dtype=torch.float64)).requires_grad_()
            y = of_labels(torch.randint(5, (40,)).tolist()).double()
            options = {"form": form, "gamma_neg": gamma_neg, "gamma_pos": gamma_pos}
            expected = plain_asl(x, y, **options, smoothing=smoothing)  # type: ignore[arg-type]
            got = AsymmetricSoftmaxLoss(**options, label_smoothing=smoothing, reduction="none")(x, y)  # type: ignore[arg-type]
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
            wanted = torch.autograd.grad(expected.sum(), x)[0]
            torch.testing.assert_close(torch.autograd.grad(got.sum(), x)[0], wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["inverse", "sqrt", "effective"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch_with_weights_and_smoothing(kind: str, smoothing: float) -> None:
    x, labels = 4 * torch.randn(30, 5, dtype=torch.float64), torch.randint(5, (30,))
    loss = CrossEntropy(stats=STATS, class_weight=kind, beta=0.99, label_smoothing=smoothing, reduction="none")  # type: ignore[arg-type]
    assert loss.weight is not None
    weight = loss.weight.double()
    expected = F.cross_entropy(x, labels, weight=weight, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(loss(x, of_labels(labels.tolist())), expected, rtol=1e-12, atol=1e-12)
    soft = torch.rand(30, 5, dtype=torch.float64)
    soft /= soft.sum(1, keepdim=True)
    expected = F.cross_entropy(x, soft, weight=weight, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(loss(x, soft), expected, rtol=1e-12, atol=1e-12)


def test_class_weights_follow_their_formulas_with_mean_one() -> None:
    n = np.maximum(COUNTS, 1)
    for kind, plain in (
        ("inverse", 1 / n),
        ("sqrt", 1 / np.sqrt(n)),
        ("effective", (1 - 0.99) / (1 - 0.99**n)),
    ):
        got = class_weights(STATS, kind, 0.99).numpy()  # type: ignore[arg-type]
        np.testing.assert_allclose(got, plain / plain.mean(), rtol=1e-12)


def test_class_weights_scale_an_image_by_its_label() -> None:
    x, y = torch.randn(5, 5), of_labels([0, 1, 2, 3, 4])
    for make in (FocalSoftmaxLoss, AsymmetricSoftmaxLoss, LDAMSoftmaxLoss):
        plain, weighted = (make(stats=STATS, class_weight=kind, reduction="none")(x, y) for kind in ("none", "inverse"))
        torch.testing.assert_close(weighted, plain * class_weights(STATS, "inverse", 0).float())


def test_focal_equals_the_plain_formula() -> None:
    x, labels = 3 * torch.randn(40, 5, dtype=torch.float64), torch.randint(5, (40,))
    p = x.softmax(1)[torch.arange(40), labels]
    for gamma in (0.0, 0.5, 2.0):
        got = FocalSoftmaxLoss(gamma=gamma, reduction="none")(x, of_labels(labels.tolist()))
        torch.testing.assert_close(got, -((1 - p) ** gamma) * p.log(), rtol=1e-10, atol=1e-13)


def test_ldam_is_cross_entropy_with_a_margin_on_the_label() -> None:
    x, labels = torch.randn(40, 5, dtype=torch.float64), torch.randint(5, (40,))
    margins = 0.5 * torch.tensor(np.maximum(COUNTS, 1)) ** -0.25  # the rarest class has 1 image, so 0.5
    z = x.clone()
    z[torch.arange(40), labels] -= margins[labels]
    got = LDAMSoftmaxLoss(stats=STATS, scale=30.0, reduction="none")(x, of_labels(labels.tolist()))
    torch.testing.assert_close(got, F.cross_entropy(30 * z, labels, reduction="none"), rtol=1e-6, atol=1e-6)
    plain = LDAMSoftmaxLoss(stats=STATS, max_margin=0, reduction="none")(x, of_labels(labels.tolist()))
    torch.testing.assert_close(plain, F.cross_entropy(x, labels, reduction="none"))


@each_loss
def test_gradient_is_the_derivative(loss: SoftmaxLoss) -> None:
    soft = torch.rand(4, 5, dtype=torch.float64)
    soft /= soft.sum(1, keepdim=True)
    for y in (of_labels([0, 3, 4, 1]), soft):
        x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda z, y=y: loss(z, y), (x,))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_value_and_gradient_are_finite_and_exact_at_100_in_half_precision(
    loss: SoftmaxLoss, dtype: torch.dtype
) -> None:
    rows = [[100, -100, 100, -100, 0], [-100, 100, -100, -100, -100], [100, 100, 100, 100, 100], [0, 0, -100, 99, 100]]
    x = torch.tensor(rows, dtype=dtype).repeat_interleave(5, 0)
    y = of_labels(list(range(5)) * 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = images(loss, x, y), gradient(loss, x, y)
    assert value.dtype == torch.float32 and grad.dtype == dtype
    expected, wanted = images(loss, x.double(), y), gradient(loss, x.double(), y)
    assert torch.isfinite(expected).all() and torch.isfinite(wanted).all()
    torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-2, atol=1e-6)
    assert value.max() > 100, "a wrong answer at 200 logits costs that much: nothing is cut off"


@each_loss
def test_image_of_unknown_label_adds_nothing(loss: SoftmaxLoss) -> None:
    x, y = torch.randn(4, 5), of_labels([0, 1, 2, 3])
    y[1] = -1
    known = [0, 2, 3]
    torch.testing.assert_close(loss(x, y), loss(x[known], y[known]))
    grad = gradient(loss, x, y)
    assert grad[1].eq(0).all()
    torch.testing.assert_close(grad[known], gradient(loss, x[known], y[known]))
    assert loss.divisor(y) == 3
    assert loss(x, torch.full((4, 5), -1)) == 0
    beside = of_labels([0, 1, 2, 3])
    beside[0, 2:] = -1
    torch.testing.assert_close(loss(x, beside), loss(x, of_labels([0, 1, 2, 3])))


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if not isinstance(loss, LDAMSoftmaxLoss)], ids=repr)
def test_mixed_targets_count_in_proportion(loss: SoftmaxLoss) -> None:
    x, first, second = torch.randn(3, 5), of_labels([0, 1, 2]), of_labels([3, 1, 0])
    mixed = 0.3 * images(loss, x, first) + 0.7 * images(loss, x, second)
    torch.testing.assert_close(images(loss, x, 0.3 * first + 0.7 * second), mixed)


@each_loss
def test_reductions_agree_and_inputs_stay(loss: SoftmaxLoss) -> None:
    x, y = torch.randn(6, 5), of_labels([0, 1, 2, 3, 4, 0])
    y[2] = -1
    before = x.clone(), y.clone()
    per_image = images(loss, x, y)
    assert per_image.shape == (6,)
    original = loss.reduction
    for reduction, divisor in (("sum", 1), ("mean", 5), ("batchmean", 6)):
        loss.reduction = reduction  # type: ignore[assignment]
        torch.testing.assert_close(loss(x, y), per_image.sum() / divisor)
    loss.reduction = original
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CrossEntropy()(torch.zeros(2, 3), torch.tensor([0, 1])), "same shape"),
        (lambda: CrossEntropy()(torch.zeros(2, 3), torch.ones(2, 3)), "image 0 of the batch sum to 3.*multi_label"),
        (lambda: CrossEntropy()(torch.zeros(2, 3), torch.full((2, 3), torch.nan)), "sum to nan"),
        (lambda: CrossEntropy()(torch.zeros(2, 1), torch.ones(2, 1)), "at least 2 classes"),
        (lambda: CrossEntropy(class_weight="inverse"), "needs stats"),
        (lambda: CrossEntropy(stats=STATS, class_weight="sqrt")(torch.zeros(1, 3), torch.eye(3)[:1]), "5 classes"),
        (lambda: LDAMSoftmaxLoss(stats=STATS)(torch.zeros(1, 3), torch.eye(3)[:1]), "5 classes"),
        (lambda: CrossEntropy(label_smoothing=1.0), r"label_smoothing=1\.0"),
        (lambda: CrossEntropy(reduction="median"), "reduction='median'"),  # type: ignore[arg-type]
        (lambda: CrossEntropy(stats=STATS, class_weight="effective", beta=1.0), r"beta=1\.0"),
        (lambda: FocalSoftmaxLoss(gamma=-1), "gamma=-1"),
        (lambda: AsymmetricSoftmaxLoss(gamma_neg=-1), "gamma_neg=-1"),
        (lambda: AsymmetricSoftmaxLoss(form="other"), "form='other'"),  # type: ignore[arg-type]
        (lambda: LDAMSoftmaxLoss(stats=STATS, scale=0), "scale=0"),
        (lambda: LDAMSoftmaxLoss(stats=STATS, max_margin=-1), "max_margin=-1"),
    ],
)
def test_wrong_options_and_inputs_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.gpu
@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cuda_equals_cpu_and_never_synchronises(loss: SoftmaxLoss, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, y = (torch.randn(16, 5) * 4).to(dtype), of_labels(torch.randint(5, (16,)).tolist())
    y[3] = -1  # an image without a known label
    on_device, z, t = copy.deepcopy(loss).cuda(), x.cuda(), y.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = on_device(z, t), gradient(on_device, z, t)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tolerance = 2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-5
    expected = loss(x, y), gradient(loss, x, y)
    torch.testing.assert_close([part.cpu() for part in got], list(expected), rtol=tolerance, atol=2e-6)
