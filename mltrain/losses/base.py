"""Base of losses that treat each label on its own: a subclass writes two formulas, everything else is here.

The loss of a batch is ``sum of up * positive(x) + down * negative(x)`` over its entries, where `up` and `down` follow
from targets, weights and reduction and have no gradient. So its gradient is the product of (up, down) with the Jacobian
of the two formulas, and comes with the value in one pass, in the forward call: by autograd over chunks of rows, or in
one compiled kernel.
"""

from __future__ import annotations

import functools
import logging
import math
import types
from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mltrain.losses.formula import LARGE
from mltrain.losses.graph_pass import Simplify

logger = logging.getLogger(__name__)

ValueAndGradient = tuple[Tensor, Tensor | None]
"""Reduced loss, or (B, C) for ``none``; its gradient (B, C) if asked for."""
Reduction = Literal["sum", "mean", "batchmean", "none"]

CPU_CHUNK = 1 << 16
"""Entries per chunk of rows: some twenty fp32 tensors of this size stay in the caches, and small beside a batch."""
DEVICE_CHUNK = 1 << 24
"""On an accelerator chunks only bound the memory of very large batches."""


def knows_unknown(loss: nn.Module) -> bool:
    """Return whether a loss leaves out unknown targets (-1): those of mltrain and those derived from them do."""
    return any(base.__module__.startswith("mltrain.losses.") for base in type(loss).__mro__)


class PerLabelLoss(nn.Module):
    """Base of losses of the form ``y * positive(x) + (1 - y) * negative(x)`` per entry.

    Called with logits (B, C) of any floating dtype and targets (B, C) of any real dtype: 1 positive, 0 negative,
    anything below 0 unknown (no loss, no gradient), between 0 and 1 soft (the weighted sum of both terms). Computes in
    fp32 (fp64 for fp64 logits), autocast or not; the gradient has the dtype of the logits. Targets are constants, and
    the gradient cannot be differentiated again.

    Args:
        reduction: ``sum``, ``mean`` over known entries or ``batchmean`` (sum / B). ``none`` returns (B, C).

    Raises:
        ValueError: logits not floating or not 2-D, targets of another shape or requiring a gradient, an unknown
            reduction; on the CPU also a target above 1 or NaN (elsewhere the check would stall the device, and NaN
            shows in the loss).
    """

    task: ClassVar[str] = "multi_label"
    compiled = False
    """Set by `compile`."""
    _required = False
    _kernel: Callable[..., ValueAndGradient] | None = None

    def __init__(self, *, reduction: Reduction) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction={reduction!r} is unknown; allowed: {', '.join(get_args(Reduction))}")
        self.reduction: Reduction = reduction

    def positive(self, x: Tensor) -> Tensor:
        """Return the loss of positive labels at logits x (R, C), which are finite; constants (C,) broadcast."""
        raise NotImplementedError

    def negative(self, x: Tensor) -> Tensor:
        """Return the loss of negative labels at logits x (R, C), which are finite; constants (C,) broadcast."""
        raise NotImplementedError

    def weight(self, targets: Tensor) -> Tensor | None:
        """Return weights that broadcast with targets (R, C), rows of a batch in the dtype of the computation."""
        return None

    @property
    def weight_needs_batch(self) -> bool:
        """True if the weights of a row depend on other rows, so that the batch cannot be computed in chunks."""
        return False

    def prepare(self, classes: int, dtype: torch.dtype) -> None:
        """Check or compute what the formulas read, before each batch of so many classes, outside compiled kernels."""

    def compile(self, *, required: bool = True) -> None:
        """Compute value and gradient in one kernel made by torch.compile, from the next call on.

        Several times faster for thousands of classes. Needs a C++ compiler on the CPU, Triton on an accelerator, and
        some seconds at the first call. Unless `required`, batches whose kernel fails are computed eagerly, silently.
        """
        self.compiled, self._required = True, required

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        check_shapes(logits, targets)
        if torch.is_autocast_enabled(logits.device.type):
            with torch.autocast(logits.device.type, enabled=False):
                return PerLabelLoss.forward(self, logits, targets)
        self.prepare(logits.shape[1], torch.promote_types(logits.dtype, torch.float32))
        if torch.compiler.is_compiling():  # part of a larger compiled graph, which differentiates it
            share = _share(self, targets, False, torch.promote_types(logits.dtype, torch.float32))
            return _value_and_gradient(self, logits, targets, share, known=False, with_grad=False)[0]
        if torch.is_grad_enabled() and logits.requires_grad:
            value: Tensor = _ValueAndGradient.apply(logits, targets, self)
            return value
        return _evaluate(self, logits.detach(), targets, with_grad=False)[0]

    def extra_repr(self) -> str:
        hidden = {"training", "compiled"}
        return ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_") and k not in hidden)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_kernel"}  # a copy compiles its own


class PerClassLoss(PerLabelLoss):
    """Base of losses whose formulas hold constants of the class (margins, offsets, exponents), as buffers (C,).

    Args:
        num_classes: C, the number of classes that logits must have.
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: as `PerLabelLoss`, and logits of another number of classes.
    """

    def __init__(self, *, num_classes: int, reduction: Reduction) -> None:
        super().__init__(reduction=reduction)
        self.num_classes = num_classes

    def prepare(self, classes: int, dtype: torch.dtype) -> None:
        if classes != self.num_classes:
            raise ValueError(f"logits of {classes} classes, but the loss has {self.num_classes} classes")


class _ValueAndGradient(torch.autograd.Function):
    """Compute the gradient together with the value; it waits, in fp32, for the backward call."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, loss: PerLabelLoss) -> Tensor:
        value, ctx.grad = _evaluate(loss, logits.detach(), targets, with_grad=True)
        ctx.save_for_backward(logits, targets)
        ctx.source, ctx.dtype = loss, logits.dtype
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph=True: the gradient would pass for a constant
            raise RuntimeError(f"{type(ctx.source).__name__} gives first derivatives only: no create_graph=True")
        # The buffer is handed over, not copied. If the graph is walked again (retain_graph), it is computed again.
        grad, ctx.grad = ctx.grad, None
        if grad is None:
            logits, targets = ctx.saved_tensors
            grad = _evaluate(ctx.source, logits.detach(), targets, with_grad=True)[1]
        if upstream.dim() or upstream.device.type != "cpu" or upstream.item() != 1:
            grad.mul_(upstream)
        return grad.to(ctx.dtype), None, None


def _evaluate(loss: PerLabelLoss, x: Tensor, y: Tensor, *, with_grad: bool) -> ValueAndGradient:
    if x.numel() == 0:
        empty = x.new_zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32))
        return empty if loss.reduction == "none" else empty.sum(), empty
    x, y = x.contiguous(), y.contiguous()
    result = _evaluate_compiled(loss, x, y, with_grad) if loss.compiled else None
    return _evaluate_eager(loss, x, y, with_grad) if result is None else result


def _evaluate_eager(loss: PerLabelLoss, x: Tensor, y: Tensor, with_grad: bool) -> ValueAndGradient:
    """Compute value and gradient chunk by chunk, which bounds the memory they take."""
    dtype, on_cpu = torch.promote_types(x.dtype, torch.float32), x.device.type == "cpu"
    known = on_cpu and check_targets(y)
    share = _share(loss, y, known, dtype)
    step = len(x) if loss.weight_needs_batch else max((CPU_CHUNK if on_cpu else DEVICE_CHUNK) // x.shape[1], 1)
    if len(x) <= step:
        return _value_and_gradient(loss, x, y, share, known=known, with_grad=with_grad)
    grad = torch.empty_like(x, dtype=dtype) if with_grad else None
    values = []
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        value, part = _value_and_gradient(loss, x[rows], y[rows], share, known=known, with_grad=with_grad)
        values.append(value)
        if grad is not None and part is not None:
            grad[rows] = part
    return torch.cat(values) if loss.reduction == "none" else torch.stack(values).sum(), grad


def _value_and_gradient(
    loss: PerLabelLoss,
    x: Tensor,
    y: Tensor,
    share: Tensor | float,
    bound: Tensor | float = LARGE,
    *,
    known: bool,
    with_grad: bool,
) -> ValueAndGradient:
    """Return value and gradient, both times `share`, of logits within ±`bound` and of targets that are all `known`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, y = x.to(dtype).clamp(-bound, bound), y.to(dtype)  # type: ignore[arg-type]  # no stub for Tensor or float
    weight = loss.weight(y)
    factor = share if weight is None else weight * share
    up = (y if known else y.clamp(min=0)) * factor
    down = factor - up
    if not known:
        down = torch.where(y < 0, 0, down)

    def formulas(z: Tensor) -> tuple[Tensor, Tensor]:
        return loss.positive(z), loss.negative(z)

    grad = None
    if not with_grad:
        positive, negative = formulas(x)
    elif torch.compiler.is_compiling():
        vjp: Callable[..., Any] = torch.func.vjp
        (positive, negative), pull_back = vjp(formulas, x)
        (grad,) = pull_back((up, down))
    else:
        with torch.enable_grad():
            positive, negative = formulas(x.requires_grad_())
        (grad,) = torch.autograd.grad((positive, negative), x, (up, down))
    value = torch.addcmul(positive * up, negative, down)
    return value if loss.reduction == "none" else value.sum(1).sum(), grad


def _evaluate_compiled(loss: PerLabelLoss, x: Tensor, y: Tensor, with_grad: bool) -> ValueAndGradient | None:
    """Compute value and gradient in one compiled kernel, or None if it cannot be compiled and need not be.

    On the CPU a first kernel is for targets of 0 and 1, which it verifies; others take a second call. Which kernel has
    the last word depends on the batch alone, not on earlier batches, so that a resumed run repeats a run exactly.
    """
    dtype, on_cpu = torch.promote_types(x.dtype, torch.float32), x.device.type == "cpu"
    if x.shape[0] > 1:  # torch.compile specialises on 1
        y = y.detach()  # not to mark the caller's tensor
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(y, 0)
    loss._kernel = loss._kernel or _build_kernel()
    try:
        if on_cpu and loss.reduction != "none" and (y.numel() < CPU_CHUNK or _is_binary(y[0])):
            rows = _rows(len(x), float(_share(loss, y, True, dtype)), dtype)
            result = loss._kernel(loss, x, y, rows, True, with_grad)
            if not math.isnan(result[0].item()):
                return result
        if on_cpu:
            rows = _rows(len(x), float(_share(loss, y, check_targets(y), dtype)), dtype)
        else:
            rows = _rows_on_device(x, _share(loss, y, False, dtype), dtype)
        return loss._kernel(loss, x, y, rows, False, with_grad)
    except Exception as error:
        if loss._required or isinstance(error, ValueError):  # a target above 1
            raise
        logger.debug("%s is computed eagerly, as compiling it failed: %s", type(loss).__name__, error)
        loss.compiled = False
        return None


def _build_kernel() -> Callable[..., ValueAndGradient]:
    # A code object of its own: torch.compile counts recompilations by code object and gives up after eight.
    function = types.FunctionType(_kernel.__code__.replace(), globals(), "_kernel")
    # A product and a sum may be rounded once, as in the library's own kernels. `dynamic=False`: a kernel must not
    # depend on the shapes seen before; only the number of rows, which is marked, is dynamic. Low thresholds:
    # what is used often is computed once, which keeps compilation short; in a single loop, nothing goes to memory.
    options: dict[str, Any] = {
        "realize_opcount_threshold": 30,
        "realize_reads_threshold": 4,
        "cpp.enable_floating_point_contract_flag": "fast",
        "post_grad_custom_pre_pass": Simplify(),
    }
    compiled: Callable[..., Any] = torch.compile(function, options=options, dynamic=False)
    return compiled


def _kernel(loss: PerLabelLoss, x: Tensor, y: Tensor, rows: Tensor, binary: bool, with_grad: bool) -> ValueAndGradient:
    """Return value and gradient; the value is NaN if `binary` targets are not all 0 or 1.

    `rows` (B, 2) has the share, and the bound of the logits. Sums go by row, and the bound is one of the row, so that
    the compiler makes a single loop over rows and classes, in which all intermediate values stay in registers.
    """
    share, bound = rows.split(1, 1)
    if binary:
        share = torch.where(y * y == y, share, torch.nan)
    return _value_and_gradient(loss, x, y, share, bound, known=binary, with_grad=with_grad)


def _share(loss: PerLabelLoss, y: Tensor, known: bool, dtype: torch.dtype) -> Tensor | float:
    """Return the factor of each entry in the reduction; a target of NaN counts as known, so that it shows."""
    if loss.reduction == "mean" and not known:
        return (y < 0).logical_not().sum().clamp(min=1).to(dtype).reciprocal()
    return 1 / max({"mean": y.numel(), "batchmean": len(y)}.get(loss.reduction, 1), 1)


@functools.lru_cache(maxsize=8)
def _rows(rows: int, share: float, dtype: torch.dtype) -> Tensor:
    """Return (share, LARGE) for each row; kept, as making it each time takes as long as a small kernel."""
    with torch.inference_mode(False):
        shares = torch.tensor([[share, LARGE]], dtype=dtype).repeat(rows, 1)
        if rows > 1:
            torch._dynamo.mark_dynamic(shares, 0)
        return shares


def _rows_on_device(x: Tensor, share: Tensor | float, dtype: torch.dtype) -> Tensor:
    """Return (share, LARGE) for each row of x (B, C), on its device, without a copy that the host would wait for."""
    rows = x.new_full((len(x), 2), LARGE, dtype=dtype)
    rows[:, 0] = share
    if len(x) > 1:
        torch._dynamo.mark_dynamic(rows, 0)
    return rows


def _is_binary(y: Tensor) -> bool:
    return bool((y * y == y).all())


def check_targets(y: Tensor) -> bool:
    """Return whether all targets are known.

    Raises:
        ValueError: a target is above 1 or NaN.
    """
    low, high = torch.aminmax(y)
    if not high.item() <= 1:
        raise ValueError(
            f"targets must be 1 (positive), 0 (negative), -1 (unknown) or soft in [0, 1]; found {high.item():g}"
        )
    return low.item() >= 0


def check_or_show(targets: Tensor) -> Tensor:
    """Return 0, or NaN on an accelerator if a target is not finite, for losses that only compare targets.

    Raises:
        ValueError: on the CPU, a target is above 1 or NaN.
    """
    if targets.device.type == "cpu" and targets.numel() and not torch.compiler.is_compiling():
        check_targets(targets)
        return targets.new_zeros((), dtype=torch.float32)
    return (targets.float() - targets.float()).sum()


def check_shapes(logits: Tensor, targets: Tensor) -> None:
    """Raise a ValueError unless these are logits (B, C) with constant targets of the same shape."""
    if logits.dim() != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be a floating tensor (B, C), got {logits.dtype} {tuple(logits.shape)}")
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets {tuple(targets.shape)} and logits {tuple(logits.shape)} must have the same shape (B, C); "
            "class indices have to be turned into a 0/1 matrix first"
        )
    if targets.requires_grad:
        raise ValueError("targets require a gradient, which this loss does not give them: pass targets.detach()")
    if targets.is_complex():
        raise ValueError(f"targets must be real numbers, got {targets.dtype}")
