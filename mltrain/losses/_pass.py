"""The one pass that gives value and gradient of a loss together, instead of a graph of elementwise kernels.

On the CPU it goes through cache-sized pieces as if every label were a negative, and treats the few others (positives,
unknown, soft) on their own. Elsewhere it is dense and free of synchronisation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mltrain.losses._adjust import Adjustment, Targets
from mltrain.losses._entries import Result, check_range, divisor, lookup, mixed
from mltrain.losses._kernel import by_kernel, in_graph

if TYPE_CHECKING:
    from mltrain.losses.base import PerLabelLoss

# Three buffers of 131,072 fp32 entries, which torch splits over its threads, stay in the caches of two cores.
CPU_PIECE = 131_072
# On an accelerator pieces only bound the memory of very large batches.
DEVICE_PIECE = 1 << 24


class Fused(torch.autograd.Function):
    """Value and gradient in one pass; the gradient waits, unscaled and in fp32, for the backward call."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, loss: PerLabelLoss) -> Tensor:
        result = evaluate(loss, logits, targets, with_grad=True)
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
            grad = evaluate(ctx.term, *ctx.saved_tensors, with_grad=True).grad
        if upstream.dim() == 0 and upstream.device.type == "cpu" and not torch.compiler.is_compiling():
            factor = upstream.item() / float(ctx.divisor)  # a tensor would make it fp32
            if factor != 1:
                grad.mul_(factor)
        else:
            grad.mul_(upstream / ctx.divisor)
        return grad.to(ctx.dtype), None, None


def evaluate(loss: PerLabelLoss, logits: Tensor, targets: Tensor, *, with_grad: bool) -> Result:
    if torch.is_autocast_enabled(logits.device.type):
        with torch.autocast(logits.device.type, enabled=False):
            return evaluate(loss, logits, targets, with_grad=with_grad)
    x, y = logits.contiguous(), targets.contiguous()
    if torch.compiler.is_compiling():
        return in_graph(loss, x, y, with_grad)
    if loss.compiled and y.numel():
        return by_kernel(loss, x, y, with_grad)
    dtype = torch.promote_types(x.dtype, torch.float32)
    on_cpu, per_entry = x.device.type == "cpu", loss.reduction == "none"
    special = _nonzero(y.view(-1)) if on_cpu and not per_entry else None
    grad: Tensor | None
    if special is not None and special.numel() <= x.numel() // 4:
        buffer = torch.empty_like(x, dtype=dtype)
        value, known = _mostly_negative(loss, x, y, special, buffer, with_grad)
        total, grad, left = torch.scalar_tensor(value, dtype=dtype), buffer, divisor(loss, len(x), known)
    else:
        if on_cpu and y.numel():
            check_range(y.amax())
        grad = torch.empty_like(x, dtype=dtype) if with_grad else None
        values = torch.empty_like(x, dtype=dtype) if per_entry else None
        total = _dense(loss, x, y, grad, values, CPU_PIECE if on_cpu else DEVICE_PIECE)
        left = divisor(loss, len(x), (y < 0).logical_not_().sum())
        if values is not None:
            total = values
    if isinstance(left, Tensor) or left != 1:
        total = total / left
    return Result(total, grad if with_grad else None, left)


def _mostly_negative(
    loss: PerLabelLoss, x: Tensor, y: Tensor, special: Tensor, buffer: Tensor, with_grad: bool
) -> tuple[float, int]:
    """Sum over entries (B, C) of which all but those at the sorted flat indices `special` are negatives. CPU.

    The derivative goes to `buffer` (B, C), scratch space where it isn't wanted.
    """
    xs = x.view(-1).index_select(0, special).to(buffer.dtype)
    ys = y.view(-1).index_select(0, special)
    rows = columns = special  # nobody asks for these where terms and weights know no classes
    if loss.by_class:
        rows = special.div(max(x.shape[1], 1), rounding_mode="floor")
        columns = special - rows * x.shape[1]
    adjustment = loss.adjust(Targets(y, buffer.dtype, (rows, columns, ys)))
    if adjustment is not None and adjustment.offset is not None:
        xs += adjustment.offset.index_select(0, columns)
    total, known = 0.0, x.numel()
    derivative = None
    if special.numel():
        at = lookup(xs.dtype, columns)
        if torch.equal(ys, torch.ones_like(ys)):
            value, derivative = loss._positive(xs, at)
        else:
            check_range(ys.amax())
            value, derivative = mixed(loss, xs, ys.to(xs.dtype), at)
            known -= int((ys < 0).sum())
        if adjustment is not None:
            weight = adjustment.weights_at(rows, columns)
            value, derivative = value * weight, derivative * weight
        total = value.sum().item()
    if adjustment is None:
        total += _negatives(loss, x, special, buffer)
    else:
        total += _weighted_negatives(loss, x, special, adjustment, buffer)
    if derivative is not None and with_grad:
        buffer.view(-1).index_copy_(0, special, derivative)
    return total, known


def _negatives(loss: PerLabelLoss, x: Tensor, special: Tensor, buffer: Tensor) -> float:
    """Sum over negatives (B, C) but for the flat indices `special`; the derivative goes to `buffer` (B, C)."""
    x, buffer, width = x.view(-1), buffer.view(-1), x.shape[1] if loss.by_class else 1
    n = x.numel()
    total = 0.0
    # Two pieces at least, where it matters: the scratch space is then no larger than the gradient.
    piece = min(-(-min(CPU_PIECE, max(n // 2 + 1, 16_384)) // width) * width, n)
    work = buffer.new_empty((2, piece))
    at = lookup(buffer.dtype)
    pieces = [(special, x, buffer)] if n else []
    if n > piece:
        pieces = list(zip(_cut(special, piece, n), x.split(piece), buffer.split(piece), strict=True))
    for skip, part, out in pieces:
        if part.dtype != out.dtype:
            part = out.copy_(part)
        scratch = work if part.numel() == piece else work.view(-1)[: 2 * part.numel()].view(2, -1)
        total += loss._negative_sum_(part, skip, out, scratch, at)
    return total


def _weighted_negatives(
    loss: PerLabelLoss, x: Tensor, special: Tensor, adjustment: Adjustment, buffer: Tensor
) -> float:
    """Sum over negatives (B, C) but for the flat indices `special`; the derivative goes to `buffer` (B, C)."""
    count, classes = x.shape
    if not x.numel():
        return 0.0
    total = 0.0
    step = min(max(CPU_PIECE // classes, 1), max(count // 2, 16_384 // classes, 1), count)  # rows at a time
    weights, work = buffer.new_empty((2, step, classes)).unbind()
    skips = _cut(special, step * classes, x.numel())
    for k, (skip, part, out) in enumerate(zip(skips, x.split(step), buffer.split(step), strict=True)):
        if adjustment.offset is None:
            out.copy_(part)
        else:
            torch.add(part, adjustment.offset, out=out)
        n = len(part)
        weight = adjustment.weights(slice(k * step, k * step + n), weights[:n]).view(-1).index_fill_(0, skip, 0)
        entries = out.view(-1).index_fill_(0, skip, 0)
        total += loss.weighted_negative_sum_(entries, weight, work[:n].view(-1))
    return total


def _cut(special: Tensor, piece: int, n: int) -> list[Tensor]:
    """Of the sorted indices `special` in 0..n-1 those of each piece, counted from its start."""
    if n <= piece:
        return [special]
    ends = torch.searchsorted(special, torch.arange(piece, n, piece)).tolist()
    return list((special % piece).tensor_split(ends))


def _nonzero(y: Tensor) -> Tensor:
    """Indices (k,), sorted, of what isn't 0 in y (n,): few, so large inputs are searched eight at a time. CPU."""
    if y.numel() < 65_536 or y.numel() % 8 or y.storage_offset() % 8:
        return torch.from_numpy(y.bool().numpy().nonzero()[0])
    flags = y.view(torch.int8) if y.dtype.itemsize == 1 else y.bool().view(torch.int8)
    words = torch.from_numpy((flags.view(torch.int64).numpy() != 0).nonzero()[0])
    word, byte = flags.view(-1, 8).index_select(0, words).nonzero().unbind(1)
    return (words * 8).index_select(0, word).add_(byte)


def _dense(loss: PerLabelLoss, x: Tensor, y: Tensor, grad: Tensor | None, values: Tensor | None, piece: int) -> Tensor:
    """Sum over entries (B, C) without a branch on data. Any device."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    adjustment = loss.adjust(Targets(y, dtype))
    total = x.new_zeros((), dtype=dtype)
    step = max(piece // max(x.shape[1], 1), 1)
    for start in range(0, x.shape[0], step):
        rows = slice(start, start + step)
        part = x[rows].to(dtype)
        if adjustment is not None and adjustment.offset is not None:
            part = part + adjustment.offset
        value, derivative = mixed(loss, part, y[rows].to(dtype), lookup(dtype))
        if adjustment is not None:
            weight = adjustment.weights(rows, torch.empty_like(part))
            value, derivative = value * weight, derivative * weight
        if values is None:
            total += value.sum()
        else:
            values[rows] = value
        if grad is not None:
            grad[rows] = derivative
    return total
