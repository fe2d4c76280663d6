"""The pass over the entries as one compiled kernel (`PerLabelLoss.compile`) gives what the eager one gives."""

from __future__ import annotations

import copy
import os
import pickle
import pydoc
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import sparse
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses import AsymmetricLoss, DistributionBalancedLoss, PerLabelLoss, base, formula
from mltrain.losses.base import Reduction
from tests.promises.runs import ROOT

CLASSES = 24


def stats() -> LabelStats:
    counts = np.array([1000, *(int(700 * 0.7**k) for k in range(CLASSES - 1))], dtype=np.int64)
    zero, classes = np.zeros_like(counts), np.arange(CLASSES)
    pairs = sparse.csr_matrix((counts, (classes, classes)))
    return LabelStats(tuple(map(str, classes)), 1000, counts, 1000 - counts, zero, pairs)


def losses() -> dict[str, Callable[..., PerLabelLoss]]:
    """The losses of the configs that stand on the pass, each of which has what it is given."""
    found = {}
    for path in sorted((ROOT / "configs/loss").glob("*.yaml")):
        target = pydoc.locate(yaml.safe_load(path.read_text())["_target_"])
        if isinstance(target, type) and issubclass(target, PerLabelLoss):
            found[path.stem] = target
    return found


LOSSES = losses()
QUICK = {"asl", "db", "ldam", "multi_focal"}  # the others take minutes


def build(name: str, **options: Any) -> PerLabelLoss:
    known = {"stats": stats(), "num_classes": CLASSES, "epochs": 3}
    names = LOSSES[name].__init__.__annotations__
    return LOSSES[name](**{k: v for k, v in known.items() if k in names}, **options)


def value_and_grad(loss: PerLabelLoss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, y)
    (2 * value.sum()).backward()
    assert x.grad is not None
    return value.detach(), x.grad


def batch(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, CLASSES, generator=generator) * 4
    y = (torch.rand(6, CLASSES, generator=generator) < 0.2).to(torch.int8)
    if kind != "hard":
        y[torch.rand(6, CLASSES, generator=generator) < 0.2] = -1
    if kind == "soft":
        y = torch.where(y > 0, 0.7, y.float())
    return x, y


def both(eager: PerLabelLoss) -> tuple[PerLabelLoss, PerLabelLoss]:
    compiled = copy.deepcopy(eager)
    compiled.compile()
    return eager, compiled


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling stops short of machine code, which would take minutes."""
    torch.compiler.reset()
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, options, **rest: compiled(f, backend="eager", **rest))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in LOSSES])
def test_compiled_losses_equal_eager_ones(name: str) -> None:
    eager, compiled = both(build(name, reduction="mean"))
    for kind in ("hard", "soft"):
        x, y = batch(kind)
        torch.testing.assert_close(value_and_grad(compiled, x, y), value_and_grad(eager, x, y))


@pytest.mark.usefixtures("traced")
def test_the_kernel_of_an_accelerator_takes_batches_of_any_size() -> None:
    loss, kernel = AsymmetricLoss(reduction="mean"), base._build_kernel()
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for rows in (6, 4):
        x, y = (part[:rows] for part in batch("unknown"))
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(y, 0)
        shares = base._rows_on_device(x, base._share(loss, y, False, x.dtype), x.dtype)
        value, grad = kernel(loss, x, y, shares, False, True)
        assert grad is not None
        torch.testing.assert_close((value, 2 * grad), value_and_grad(loss, x, y))
    assert graphs["unique_graphs"] == before + 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(QUICK))
def test_compiled_losses_equal_eager_ones_on_a_gpu_and_never_synchronise(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    eager, compiled = both(build(name, reduction="mean").cuda())
    for kind in ("hard", "soft"):
        x, y = (part.cuda() for part in batch(kind))
        expected = value_and_grad(eager, x, y)
        value_and_grad(compiled, x, y)  # compiles
        assert compiled.compiled
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = value_and_grad(compiled, x, y)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", ["hard", "unknown", "soft"])
@pytest.mark.parametrize("name", LOSSES)
def test_compiled_losses_equal_eager_ones_with_each_reduction(name: str, kind: str) -> None:
    for reduction in ("sum", "batchmean", "none"):
        eager, compiled = both(build(name, reduction=reduction))
        x, y = batch(kind)
        torch.testing.assert_close(value_and_grad(compiled, x, y), value_and_grad(eager, x, y))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("kind", "reduction"),
    [("hard", "mean"), ("unknown", "none")]
    + [pytest.param(*given, marks=pytest.mark.slow) for given in (("hard", "none"), ("unknown", "mean"))],
)
def test_compiled_losses_stay_finite_at_extreme_logits(kind: str, reduction: Reduction) -> None:
    eager, compiled = both(DistributionBalancedLoss(stats=stats(), reduction=reduction))
    x, y = batch(kind)
    for scale in (25, 1e4, 1e12, float("inf")):
        value, grad = value_and_grad(compiled, x * scale, y)
        assert grad.isfinite().all()
        torch.testing.assert_close((value, grad), value_and_grad(eager, x * scale, y))


@pytest.mark.usefixtures("traced")
def test_compiled_losses_find_unknown_targets_anywhere() -> None:
    eager, compiled = both(DistributionBalancedLoss(stats=stats()))
    x, y = batch("hard")
    y[-1, -1] = -1
    for targets in (y, y.float()):
        torch.testing.assert_close(value_and_grad(compiled, x, targets), value_and_grad(eager, x, targets))


@pytest.mark.usefixtures("traced")
def test_one_kernel_is_enough_where_an_image_has_no_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, compiled = both(DistributionBalancedLoss(stats=stats()))
    x, y = batch("hard")
    y[2] = 0
    expected = value_and_grad(eager, x, y)
    monkeypatch.setattr(base, "check_targets", None)  # called before the second kernel
    torch.testing.assert_close(value_and_grad(compiled, x, y), expected)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "loss",
    [AsymmetricLoss(), pytest.param(DistributionBalancedLoss(stats=stats()), marks=pytest.mark.slow)],
    ids=["asl", "db"],
)
def test_what_a_batch_gives_does_not_depend_on_earlier_batches(loss: PerLabelLoss) -> None:
    batches = [batch("hard"), batch("soft"), batch("unknown"), tuple(part[:4] for part in batch("hard"))]
    batches += [tuple(part[:1] for part in batch("hard"))]
    alone = [value_and_grad(both(loss)[1], *given) for given in batches]
    for order in (range(5), reversed(range(5))):
        compiled = both(loss)[1]
        for k in order:
            torch.testing.assert_close(value_and_grad(compiled, *batches[k]), alone[k], rtol=0, atol=0)


@pytest.mark.usefixtures("traced")
def test_a_kernel_belongs_to_its_loss_and_has_no_limit_of_sizes() -> None:
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=2):
        for k in range(4):
            eager, compiled = both(AsymmetricLoss(gamma_neg=k / 2))
            for rows in (2, 3, 5):
                x, y = (part[:rows] for part in batch("hard"))
                torch.testing.assert_close(value_and_grad(compiled, x, y), value_and_grad(eager, x, y))


@pytest.mark.usefixtures("traced")
def test_compiled_gradients_cannot_be_differentiated_again() -> None:
    x, y = batch("hard")
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(both(AsymmetricLoss())[1](x, y), x, create_graph=True)


@pytest.mark.usefixtures("traced")
def test_compiled_losses_notice_what_is_changed_in_them() -> None:
    eager, compiled = both(DistributionBalancedLoss(stats=stats(), reduction="sum"))
    x, y = batch("hard")
    values = set()
    for alpha, count in ((0.1, 1000), (0.4, 1000), (0.4, 10)):
        for loss in (eager, compiled):
            loss.alpha = alpha
            loss.positives[0] = count
        torch.testing.assert_close(value_and_grad(compiled, x, y), value_and_grad(eager, x, y))
        values.add(compiled(x, y).item())
    assert len(values) == 3
    copies = copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))
    for other in copies:
        assert other.compiled and other._kernel is None and other._constants == () and other(x, y).item() in values


@pytest.mark.usefixtures("traced")
def test_compiled_losses_find_soft_targets_anywhere() -> None:
    # It guesses from the first image, and has to see that the guess was wrong.
    eager, compiled = both(DistributionBalancedLoss(stats=stats()))
    x, y = batch("unknown")
    y = y.float()
    y[-1, -1] = 0.3
    torch.testing.assert_close(value_and_grad(compiled, x, y), value_and_grad(eager, x, y))
    y[-1, -1] = 1e-30
    torch.testing.assert_close(value_and_grad(compiled, x, y.double()), value_and_grad(eager, x, y.double()))
    y[-1, -1] = float("nan")
    with pytest.raises(ValueError, match="found nan"):
        compiled(x, y)
    for wrong in (y.nan_to_num(2), y.nan_to_num(2).to(torch.int8)):
        with pytest.raises(ValueError, match="found 2"):
            compiled(x, wrong)


def test_polynomials_have_the_accuracy_they_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formula, "_needs_polynomials", lambda _: True)
    x = torch.linspace(0, 87, 400_001)
    torch.testing.assert_close(formula._exp_of_minus(x).double(), (-x.double()).exp(), rtol=1e-7, atol=0)
    far = torch.tensor([87, 89, 1e4, 1e30])
    assert formula._exp_of_minus(far).tolist() == pytest.approx([1.645e-38] * 4, rel=1e-3)
    x = torch.linspace(0, 1, 400_001)
    torch.testing.assert_close(formula._log1p_in_unit(x).double(), x.double().log1p(), rtol=2e-7, atol=0)
    x = torch.cat([torch.linspace(1e-4, 4, 400_001), torch.logspace(-37, 37, 1001)])
    torch.testing.assert_close(formula.log(x).double(), x.double().log(), rtol=2e-7, atol=2e-7)
    assert formula.log(torch.ones(1)).item() == 0
    x.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(formula.log(x).sum(), x)[0], 1 / x.detach())


def test_a_loss_that_need_not_be_compiled_is_eager_where_compiling_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    eager = AsymmetricLoss()
    compiled, required = both(eager)[1], both(eager)[1]
    compiled.compile(required=False)
    monkeypatch.setattr(base, "_build_kernel", lambda: fail)
    for kind in ("hard", "soft", "hard"):
        x, y = batch(kind)
        torch.testing.assert_close(value_and_grad(compiled, x, y), value_and_grad(eager, x, y), rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="no compiler"):
            required(x, y)
    x, y = batch("hard")
    with pytest.raises(ValueError, match="found 2"):
        compiled(x, y * 2)


@pytest.mark.slow
def test_with_a_broken_compiler_a_loss_is_eager_and_silent(tmp_path: Path) -> None:
    code = (
        "import torch; from mltrain.losses import AsymmetricLoss; loss = AsymmetricLoss(); "
        "loss.compile(required=False); "
        "x, y = torch.randn(2, 1200, requires_grad=True), torch.zeros(2, 1200); value = loss(x, y); value.backward(); "
        "assert value.item() == AsymmetricLoss()(x, y).item() and x.grad.any() and not loss.compiled"
    )
    environment = os.environ | {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "false" not in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("kind", ["hard", "unknown", "soft"])
@pytest.mark.parametrize("loss", [AsymmetricLoss(), DistributionBalancedLoss(stats=stats())], ids=["asl", "db"])
def test_the_compiled_kernel_itself_equals_the_eager_pass(loss: PerLabelLoss, kind: str) -> None:
    loss, compiled = both(loss)
    x, y = batch(kind)
    torch.testing.assert_close(value_and_grad(compiled, x, y), value_and_grad(loss, x, y))
