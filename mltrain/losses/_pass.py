"""The one pass that gives value and gradient of a loss together, instead of a graph of elementwise kernels.

On the CPU it goes through cache-sized pieces as if every label were a negative, and treats the few others (positives,
unknown, soft) on their own. Elsewhere it is dense and free of synchronisation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mltrain.losses._adjust import Adjustment, At, Targets

if TYPE_CHECKING:
    from mltrain.losses.base import PerLabelLoss

# Three buffers of 131,072 fp32 entries, which torch splits over its threads, stay in the caches of two cores.
CPU_PIECE = 131_072
# On an accelerator pieces only bound the memory of very large batches.
DEVICE_PIECE = 1 << 24


class Result(NamedTuple):
    loss: Tensor  # reduced, or (B, C) for "none"
    grad: Tensor | None  # (B, C)
    divisor: Tensor | float  # what the gradient has yet to be divided by


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
    dtype = torch.promote_types(x.dtype, torch.float32)
    compiling = torch.compiler.is_compiling()
    kernel = loss.compiled and not compiling and y.numel() > 0
    on_cpu = x.device.type == "cpu" and not compiling
    per_entry = loss.reduction == "none"
    special = _nonzero(y.view(-1)) if on_cpu and not per_entry and not kernel else None
    total: Tensor
    grad: Tensor | None
    known: Tensor | int
    left: Tensor | float | None = None  # None: all
    if special is not None and special.numel() <= x.numel() // 4:
        buffer = torch.empty_like(x, dtype=dtype)
        value, known = _mostly_negative(loss, x, y, special, buffer, with_grad)
        total, grad = torch.scalar_tensor(value, dtype=dtype), buffer if with_grad else None
    else:
        grad = torch.empty_like(x, dtype=dtype) if with_grad else None
        values = torch.empty_like(x, dtype=dtype) if per_entry else None
        if kernel:
            total, known, left = _by_kernel(loss, x, y, grad, values)
        else:
            if on_cpu and y.numel():
                _check_range(y.amax())
            known = _known(y) if compiling else (y < 0).logical_not_().sum()
            share = _share(x, _divisor(loss, len(x), known)) if compiling else None
            left = 1 if compiling else None
            piece = CPU_PIECE if on_cpu else DEVICE_PIECE
            total = _dense(loss, x, y, grad, values, piece, not y.is_floating_point(), share)
        if values is not None:
            total = values
    divisor = _divisor(loss, len(x), known)
    if not isinstance(divisor, int) or divisor != 1:
        total = total / divisor
    return Result(total, grad, divisor if left is None else left)


def _by_kernel(
    loss: PerLabelLoss, x: Tensor, y: Tensor, grad: Tensor | None, values: Tensor | None
) -> tuple[Tensor, Tensor | int, Tensor | float]:
    """Sum over entries (B, C), the number of known ones, and what the gradient has yet to be divided by."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    constants = loss.constants(x.device, dtype, x.shape[1])
    hard = not y.is_floating_point()
    if x.device.type != "cpu":
        known = _compiled(_known)(y)
        share = _share(x, _divisor(loss, len(x), known))
        return _compiled(_dense)(loss, x, y, grad, values, DEVICE_PIECE, hard, share, constants), known, 1
    # Here one look at the targets is enough: what they are is guessed, and the guess checked.
    guess = float(_divisor(loss, len(x), y.numel()))
    share = _share(x, guess)
    hard = hard or not y[0].frac().any()
    total, low, top, softest = _compiled(_at_once)(loss, x, y, grad, values, DEVICE_PIECE, hard, share, constants)
    _check_range(top)
    if hard and not softest.item() <= 0:  # a NaN neither
        total = _compiled(_dense)(loss, x, y, grad, values, DEVICE_PIECE, False, share, constants)
    known = y.numel() if low.item() >= 0 else int(_compiled(_known)(y))
    return total, known, _divisor(loss, len(x), known) / guess


def _share(x: Tensor, divisor: Tensor | float) -> Tensor:
    """1 / divisor for each row of x, (B, 1) in the dtype of the computation."""
    return x.new_ones((len(x), 1), dtype=torch.promote_types(x.dtype, torch.float32)).div_(divisor)


def _divisor(loss: PerLabelLoss, images: int, known: Tensor | int) -> Tensor | int:
    if loss.reduction == "mean":
        return known.clamp(min=1) if isinstance(known, Tensor) else max(known, 1)
    return max(images, 1) if loss.reduction == "batchmean" else 1


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
        at = _lookup(xs.dtype, columns)
        if torch.equal(ys, torch.ones_like(ys)):
            value, derivative = loss._positive(xs, at)
        else:
            _check_range(ys.amax())
            value, derivative = _mixed(loss, xs, ys.to(xs.dtype), at)
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


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # A product and a sum may be rounded once, as in the library's own kernels.
    return torch.compile(function, options={"cpp.enable_floating_point_contract_flag": "fast"})


def _negatives(loss: PerLabelLoss, x: Tensor, special: Tensor, buffer: Tensor) -> float:
    """Sum over negatives (B, C) but for the flat indices `special`; the derivative goes to `buffer` (B, C)."""
    x, buffer, width = x.view(-1), buffer.view(-1), x.shape[1] if loss.by_class else 1
    n = x.numel()
    total = 0.0
    # Two pieces at least, where it matters: the scratch space is then no larger than the gradient.
    piece = min(-(-min(CPU_PIECE, max(n // 2 + 1, 16_384)) // width) * width, n)
    work = buffer.new_empty((2, piece))
    at = _lookup(buffer.dtype)
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


def _lookup(dtype: torch.dtype, columns: Tensor | None = None) -> At:
    """`At` of whole rows, or of entries (n,) whose column indices are given."""
    return lambda values: values.to(dtype) if columns is None else values.to(dtype).index_select(0, columns)


def _nonzero(y: Tensor) -> Tensor:
    """Indices (k,), sorted, of what isn't 0 in y (n,): few, so large inputs are searched eight at a time. CPU."""
    if y.numel() < 65_536 or y.numel() % 8 or y.storage_offset() % 8:
        return torch.from_numpy(y.bool().numpy().nonzero()[0])
    flags = y.view(torch.int8) if y.dtype.itemsize == 1 else y.bool().view(torch.int8)
    words = torch.from_numpy((flags.view(torch.int64).numpy() != 0).nonzero()[0])
    word, byte = flags.view(-1, 8).index_select(0, words).nonzero().unbind(1)
    return (words * 8).index_select(0, word).add_(byte)


def _dense(
    loss: PerLabelLoss,
    x: Tensor,
    y: Tensor,
    grad: Tensor | None,
    values: Tensor | None,
    piece: int,
    hard: bool,
    share: Tensor | None = None,
    constants: tuple[Tensor, ...] | None = None,
) -> Tensor:
    """Sum over entries (B, C) without a branch on data, `hard` being whether no target is soft. Any device.

    The gradient is multiplied by `share` (B, 1). Compiled, all sums go by row, in one loop with what they sum up.
    """
    compiling = torch.compiler.is_compiling()
    dtype = torch.promote_types(x.dtype, torch.float32)
    if compiling:
        y = y.to(dtype)  # comparing small integers takes longer
    adjustment = loss.adjust(Targets(y, dtype, constants=constants))
    total = x.new_zeros((), dtype=dtype)
    mixed = _hard if compiling and hard else _mixed
    step = max(piece // max(x.shape[1], 1), 1)
    for start in range(0, x.shape[0], step):
        rows = slice(start, start + step)
        part = x[rows].to(dtype)
        if adjustment is not None and adjustment.offset is not None:
            part = part + adjustment.offset
        if share is not None:  # something of the row, without which all values are written out before they are summed
            part = part + 0 * share[rows]
        value, derivative = mixed(loss, part, y[rows].to(dtype), _lookup(dtype))
        if adjustment is not None:
            weight = adjustment.weights(rows, torch.empty_like(part))
            value, derivative = value * weight, derivative * weight
        if values is None:
            total = total + (value.sum(1).sum() if compiling else value.sum())
        else:
            values[rows] = value
        if grad is not None:
            grad[rows] = derivative if share is None else derivative * share[rows]
    return total


def _mixed(loss: PerLabelLoss, x: Tensor, y: Tensor, at: At) -> tuple[Tensor, Tensor]:
    """Loss and derivative per entry, for targets of any kind."""
    value_pos, grad_pos = loss._positive(x, at)
    value_neg, grad_neg = loss._negative(x, at)
    pos, neg = y.clamp(min=0), (1 - y) * ~(y < 0)
    # Masked, for 0 * inf is NaN where the logit is infinite.
    value = (pos * value_pos).masked_fill_(pos == 0, 0) + (neg * value_neg).masked_fill_(neg == 0, 0)
    return value, pos * grad_pos + neg * grad_neg


def _hard(loss: PerLabelLoss, x: Tensor, y: Tensor, at: At) -> tuple[Tensor, Tensor]:
    """As `_mixed`, for targets without soft ones, where selecting is as cheap as in one compiled kernel."""
    value, derivative = loss._selected(x, y > 0, at)
    return value.masked_fill(y < 0, 0), derivative.masked_fill(y < 0, 0)


def _known(y: Tensor) -> Tensor:
    """How many of the targets (B, C) are known, one of NaN too, so that it shows."""
    return torch.where(y < 0, 0.0, 1.0).sum(1).long().sum()


def _at_once(loss: PerLabelLoss, x: Tensor, y: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """`_dense`, the lowest target, the highest, and what is above 0 if any is soft."""
    total = _dense(loss, x, y, *args)
    y = y if y.is_floating_point() else y.float()
    return total, y.amin(1).amin(), y.amax(1).amax(), (y * (1 - y)).amax(1).amax()


def _check_range(top: Tensor) -> None:
    """Refuse targets of which the largest is above 1, with a ValueError."""
    if top.item() > 1:
        raise ValueError(
            f"targets must be 1 (positive), 0 (negative), -1 (unknown) or soft in [0, 1]; found {top.item():g}"
        )
