"""The common ground of losses that treat each label on its own.

Such a loss is ``y * positive(x) + (1 - y) * negative(x)`` for each logit x with target y. A subclass states the two
terms and their derivatives; everything else is here: fp32 inside, unknown labels, soft targets, reductions, and one
fused pass that computes the value and the gradient together instead of recording a graph of elementwise kernels.

On the CPU the pass goes through cache-sized pieces as if every label were a negative, and treats the few others
(positives, unknown, soft) on their own. Elsewhere it is dense and free of synchronisation.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Reduction = Literal["sum", "mean", "batchmean", "none"]

# Three buffers of 131,072 fp32 entries, which torch splits over its threads, stay in the caches of two cores.
CPU_PIECE = 131_072
# On an accelerator pieces only bound the memory of very large batches.
DEVICE_PIECE = 1 << 24


class PerLabelLoss(nn.Module):
    """Base of losses of the form ``y * positive(x) + (1 - y) * negative(x)`` per entry.

    Called with logits (B, C) of any floating dtype and targets (B, C) of any real dtype: 1 positive, 0 negative,
    anything below 0 unknown (no loss, no gradient), between 0 and 1 soft (the weighted sum of both terms). Computes in
    fp32 (fp64 for fp64 logits), autocast or not; the gradient has the dtype of the logits. Targets are constants, and
    the gradient can't be differentiated again.

    Args:
        reduction: ``sum``; ``mean`` over the known entries; ``batchmean``, the sum over B; ``none``, (B, C).

    Raises:
        ValueError: logits not floating or not 2-D, targets of another shape or requiring a gradient, an unknown
            reduction; on the CPU also a target above 1 (elsewhere the check would stall the device).
    """

    def __init__(self, *, reduction: Reduction) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction={reduction!r} is unknown; allowed: {', '.join(get_args(Reduction))}")
        self.reduction: Reduction = reduction

    def positive(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a positive label at logit x, and its derivative: finite for every x, also an infinite one."""
        raise NotImplementedError

    def negative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a negative label at logit x, and its derivative: finite for every x, also an infinite one."""
        raise NotImplementedError

    def negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor) -> float:
        """Sum the negative term over x (n,) but for the indices `skip`, and write its derivative to `out`, 0 at `skip`.

        The hot path on the CPU; override it to work in place, with `work` (2, n) as scratch space. `out` may be `x`; if
        it isn't, `x` is read only.
        """
        loss, derivative = self.negative(x)
        out.copy_(derivative).index_fill_(0, skip, 0)
        return loss.index_fill_(0, skip, 0).sum().item()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        _check(logits, targets)
        if torch.is_grad_enabled() and logits.requires_grad:
            return _Fused.apply(logits, targets, self)
        return _evaluate(self, logits.detach(), targets, with_grad=False).loss

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_") and name != "training"
        )


def _check(logits: Tensor, targets: Tensor) -> None:
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


class _Result(NamedTuple):
    loss: Tensor  # reduced, or (B, C) for "none"
    grad: Tensor | None  # (B, C) of the sum, before the division by `count`
    divisor: Tensor | int  # what the sum was divided by


class _Fused(torch.autograd.Function):
    """Value and gradient in one pass; the gradient waits, unscaled and in fp32, for the backward call."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, loss: PerLabelLoss) -> Tensor:
        result = _evaluate(loss, logits, targets, with_grad=True)
        ctx.save_for_backward(logits, targets)
        ctx.term, ctx.grad, ctx.divisor, ctx.dtype = loss, result.grad, result.divisor, logits.dtype
        return result.loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # create_graph=True: what follows would pass for a constant
            raise RuntimeError(f"{type(ctx.term).__name__} gives first derivatives only: no create_graph=True")
        # The buffer is handed over, not copied. Should the graph be walked again (retain_graph), it is computed again.
        grad, ctx.grad = ctx.grad, None
        if grad is None:
            grad = _evaluate(ctx.term, *ctx.saved_tensors, with_grad=True).grad
        if upstream.dim() == 0 and upstream.device.type == "cpu" and not torch.compiler.is_compiling():
            factor = upstream.item() / ctx.divisor
            if factor != 1:
                grad.mul_(factor)
        else:
            grad.mul_(upstream / ctx.divisor)
        return grad.to(ctx.dtype), None, None


def _evaluate(loss: PerLabelLoss, logits: Tensor, targets: Tensor, *, with_grad: bool) -> _Result:
    if torch.is_autocast_enabled(logits.device.type):
        with torch.autocast(logits.device.type, enabled=False):
            return _evaluate(loss, logits, targets, with_grad=with_grad)
    x, y = logits.contiguous().view(-1), targets.contiguous().view(-1)
    dtype = torch.promote_types(x.dtype, torch.float32)
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    per_entry = loss.reduction == "none"
    special = _nonzero(y) if on_cpu and not per_entry else None
    grad: Tensor | None = None
    total: Tensor
    known: Tensor | int
    if special is not None and special.numel() <= x.numel() // 4:
        grad = torch.empty_like(x, dtype=dtype)
        value, known = _mostly_negative(loss, x, y, special, grad, with_grad)
        total = torch.scalar_tensor(value, dtype=dtype)
    else:
        if on_cpu and y.numel():
            _check_range(y)
        grad = torch.empty_like(x, dtype=dtype) if with_grad else None
        values = torch.empty_like(x, dtype=dtype) if per_entry else None
        total, known = _dense(loss, x, y, grad, values, CPU_PIECE if on_cpu else DEVICE_PIECE)
        if values is not None:
            total = values.view(logits.shape)
    divisor: Tensor | int = 1
    if loss.reduction == "mean":
        divisor = known.clamp(min=1) if isinstance(known, Tensor) else max(known, 1)
    elif loss.reduction == "batchmean":
        divisor = max(logits.shape[0], 1)
    if not isinstance(divisor, int) or divisor != 1:
        total = total / divisor
    return _Result(total, None if grad is None else grad.view(logits.shape), divisor)


def _mostly_negative(
    loss: PerLabelLoss, x: Tensor, y: Tensor, special: Tensor, buffer: Tensor, with_grad: bool
) -> tuple[float, int]:
    """Sum over entries (n,) of which all but those at the sorted indices `special` are negatives. CPU.

    The derivative goes to `buffer` (n,), scratch space where it isn't wanted.
    """
    n = x.numel()
    total, known = 0.0, n
    derivative = None
    if special.numel():
        xs, ys = x.index_select(0, special).to(buffer.dtype), y.index_select(0, special)
        if torch.equal(ys, torch.ones_like(ys)):
            value, derivative = loss.positive(xs)
        else:
            _check_range(ys)
            value, derivative, is_known = _mixed(loss, xs, ys.to(xs.dtype))
            known -= int(is_known.logical_not_().sum())
        total = value.sum().item()
    # Two pieces at least, where it matters: the scratch space is then no larger than the gradient.
    piece = min(CPU_PIECE, max(n // 2 + 1, 16_384), n)
    work = buffer.new_empty((2, piece))
    skips = [special]
    if n > piece:
        ends = torch.searchsorted(special, torch.arange(piece, n, piece)).tolist()
        skips = list((special % piece).tensor_split(ends))
    for skip, part, out in zip(skips, x.split(piece), buffer.split(piece), strict=True) if n else ():
        if part.dtype != out.dtype:
            part = out.copy_(part)
        total += loss.negative_sum_(part, skip, out, work if part.numel() == piece else work[:, : part.numel()])
    if derivative is not None and with_grad:
        buffer.index_copy_(0, special, derivative)
    return total, known


def _nonzero(y: Tensor) -> Tensor:
    """Indices (k,), sorted, of what isn't 0 in y (n,): few, so large inputs are searched eight at a time. CPU."""
    flags = y.view(torch.int8) if y.dtype.itemsize == 1 else y.bool().view(torch.int8)
    if flags.numel() < 65_536 or flags.numel() % 8 or flags.storage_offset() % 8:
        return torch.from_numpy(flags.bool().numpy().nonzero()[0])
    words = flags.view(torch.int64).nonzero().view(-1)
    word, byte = flags.view(-1, 8).index_select(0, words).nonzero().unbind(1)
    return (words * 8).index_select(0, word).add_(byte)


def _dense(
    loss: PerLabelLoss, x: Tensor, y: Tensor, grad: Tensor | None, values: Tensor | None, piece: int
) -> tuple[Tensor, Tensor]:
    """Sum over entries (n,) with any targets, without a branch on data. Any device."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros((), dtype=dtype)
    known = torch.zeros((), dtype=torch.int64, device=x.device)
    for start in range(0, x.numel(), piece):
        part = slice(start, start + piece)
        value, derivative, is_known = _mixed(loss, x[part].to(dtype), y[part].to(dtype))
        if values is None:
            total = total + value.sum()
        else:
            values[part] = value
        if grad is not None:
            grad[part] = derivative
        known = known + is_known.sum()
    return total, known


def _mixed(loss: PerLabelLoss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, derivative and whether known, per entry, for targets of any kind."""
    value_pos, grad_pos = loss.positive(x)
    value_neg, grad_neg = loss.negative(x)
    is_known = ~(y < 0)  # so that a target of NaN is known, and shows
    pos, neg = y.clamp(min=0), (1 - y) * is_known
    # Masked, for 0 * inf is NaN where the logit is infinite.
    value = (pos * value_pos).masked_fill_(pos == 0, 0) + (neg * value_neg).masked_fill_(neg == 0, 0)
    return value, pos * grad_pos + neg * grad_neg, is_known


def _check_range(y: Tensor) -> None:
    top = y.amax().item()
    if top > 1:
        raise ValueError(f"targets must be 1 (positive), 0 (negative), -1 (unknown) or soft in [0, 1]; found {top:g}")
