"""The common ground of losses that treat each label on its own.

Such a loss is ``y * positive(x) + (1 - y) * negative(x)`` for each logit x with target y. A subclass states the two
terms and their derivatives, and may weight entries and offset logits by class frequencies (`adjust`); everything else
is here: fp32 inside, unknown labels, soft targets, reductions, and one fused pass that computes the value and the
gradient together instead of recording a graph of elementwise kernels.
`PerLabelLoss` is for terms that are the same for all classes, `PerClassLoss` for terms with constants of the class.

On the CPU the pass goes through cache-sized pieces as if every label were a negative, and treats the few others
(positives, unknown, soft) on their own. Elsewhere it is dense and free of synchronisation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mltrain.losses._adjust import Adjustment, Targets

At = Callable[[Tensor], Tensor]
"""Values per class (C,) -> the value of each entry's class, to broadcast with the entries, in their dtype."""

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

    task: ClassVar[str] = "multi_label"

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

    # The three terms as the pass calls them: `at` looks up what belongs to the class of each entry.

    def _positive(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return self.positive(x)

    def _negative(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return self.negative(x)

    def _negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor, at: At) -> float:
        return self.negative_sum_(x, skip, out, work)

    def adjust(self, targets: Targets) -> Adjustment | None:
        """Weights of the entries and offsets of the logits of a batch with these targets; None for neither."""
        return None

    def weighted_negative_sum_(self, x: Tensor, weight: Tensor, work: Tensor) -> float:
        """Sum weight * negative term over x (n,), and replace x by the derivative of that.

        The hot path on the CPU where there is an adjustment; override it to work in place, with `weight` (n,) and
        `work` (n,) as scratch space. x has its offset already.
        """
        loss, derivative = self.negative(x)
        torch.mul(derivative, weight, out=x)
        return weight.mul_(loss).sum().item()  # torch.dot is less accurate

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        _check(logits, targets)
        if torch.is_grad_enabled() and logits.requires_grad:
            return _Fused.apply(logits, targets, self)
        return _evaluate(self, logits.detach(), targets, with_grad=False).loss

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_") and name != "training"
        )


class PerClassLoss(PerLabelLoss):
    """Base of losses whose terms hold constants of the class: margins, offsets, weights, exponents.

    A subclass keeps them as buffers (C,) and states the terms as in `PerLabelLoss`, with one more argument:
    ``at(buffer)`` broadcasts with x and has its dtype. Entries come as whole rows (R, C) or picked out (k,).

    Args:
        num_classes: C, to which logits are held.
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: as `PerLabelLoss`, and logits of another number of classes.
    """

    def __init__(self, *, num_classes: int, reduction: Reduction) -> None:
        super().__init__(reduction=reduction)
        self.num_classes = num_classes

    def class_positive(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """As `positive`; x (R, C) or (k,)."""
        raise NotImplementedError

    def class_negative(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """As `negative`; x (R, C) or (k,)."""
        raise NotImplementedError

    def class_negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor, at: At) -> float:
        """As `negative_sum_`, of the flat indices `skip`; x and `out` (R, C), `work` (2, R, C)."""
        loss, derivative = self.class_negative(x, at)
        out.copy_(derivative).view(-1).index_fill_(0, skip, 0)
        return loss.view(-1).index_fill_(0, skip, 0).sum().item()

    def _positive(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return self.class_positive(x, at)

    def _negative(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return self.class_negative(x, at)

    def _negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor, at: At) -> float:
        shape = (-1, self.num_classes)
        return self.class_negative_sum_(x.view(shape), skip, out.view(shape), work.view(2, *shape), at)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.dim() == 2 and logits.shape[1] != self.num_classes:
            raise ValueError(f"logits {tuple(logits.shape)} have to be of the loss's {self.num_classes} classes")
        return super().forward(logits, targets)


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
            factor = upstream.item() / float(ctx.divisor)  # a tensor would make it fp32
            if factor != 1:
                grad.mul_(factor)
        else:
            grad.mul_(upstream / ctx.divisor)
        return grad.to(ctx.dtype), None, None


def _evaluate(loss: PerLabelLoss, logits: Tensor, targets: Tensor, *, with_grad: bool) -> _Result:
    if torch.is_autocast_enabled(logits.device.type):
        with torch.autocast(logits.device.type, enabled=False):
            return _evaluate(loss, logits, targets, with_grad=with_grad)
    x, y = logits.contiguous(), targets.contiguous()
    dtype = torch.promote_types(x.dtype, torch.float32)
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    per_entry = loss.reduction == "none"
    special = _nonzero(y.view(-1)) if on_cpu and not per_entry else None
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
            total = values
    divisor: Tensor | int = 1
    if loss.reduction == "mean":
        divisor = known.clamp(min=1) if isinstance(known, Tensor) else max(known, 1)
    elif loss.reduction == "batchmean":
        divisor = max(logits.shape[0], 1)
    if not isinstance(divisor, int) or divisor != 1:
        total = total / divisor
    return _Result(total, grad, divisor)


def _mostly_negative(
    loss: PerLabelLoss, x: Tensor, y: Tensor, special: Tensor, buffer: Tensor, with_grad: bool
) -> tuple[float, int]:
    """Sum over entries (B, C) of which all but those at the sorted flat indices `special` are negatives. CPU.

    The derivative goes to `buffer` (B, C), scratch space where it isn't wanted.
    """
    xs = x.view(-1).index_select(0, special).to(buffer.dtype)
    ys = y.view(-1).index_select(0, special)
    rows = columns = special  # nobody asks for these where terms and weights know no classes
    if isinstance(loss, PerClassLoss) or type(loss).adjust is not PerLabelLoss.adjust:
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
            _check_range(ys)
            value, derivative, is_known = _mixed(loss, xs, ys.to(xs.dtype), at)
            known -= int(is_known.logical_not_().sum())
        if adjustment is not None:
            weight = adjustment.weights_at(rows, columns)
            value, derivative = value * weight, derivative * weight
        total = value.sum().item()
    if adjustment is None:
        total += _negatives(loss, x.view(-1), special, buffer.view(-1))
    else:
        total += _weighted_negatives(loss, x, special, adjustment, buffer)
    if derivative is not None and with_grad:
        buffer.view(-1).index_copy_(0, special, derivative)
    return total, known


def _negatives(loss: PerLabelLoss, x: Tensor, special: Tensor, buffer: Tensor) -> float:
    """Sum over negatives (n,) but for the indices `special`; the derivative goes to `buffer` (n,)."""
    n = x.numel()
    total = 0.0
    # Two pieces at least, where it matters: the scratch space is then no larger than the gradient.
    width = loss.num_classes if isinstance(loss, PerClassLoss) else 1
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
) -> tuple[Tensor, Tensor]:
    """Sum over entries (B, C) with any targets, without a branch on data. Any device."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    adjustment = loss.adjust(Targets(y, dtype))
    total = x.new_zeros((), dtype=dtype)
    known = torch.zeros((), dtype=torch.int64, device=x.device)
    step = max(piece // max(x.shape[1], 1), 1)
    for start in range(0, x.shape[0], step):
        rows = slice(start, start + step)
        part = x[rows].to(dtype)
        if adjustment is not None and adjustment.offset is not None:
            part = part + adjustment.offset
        value, derivative, is_known = _mixed(loss, part, y[rows].to(dtype), _lookup(dtype))
        if adjustment is not None:
            weight = adjustment.weights(rows, torch.empty_like(part))
            value, derivative = value * weight, derivative * weight
        if values is None:
            total = total + value.sum()
        else:
            values[rows] = value
        if grad is not None:
            grad[rows] = derivative
        known = known + is_known.sum()
    return total, known


def _mixed(loss: PerLabelLoss, x: Tensor, y: Tensor, at: At) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, derivative and whether known, per entry, for targets of any kind."""
    value_pos, grad_pos = loss._positive(x, at)
    value_neg, grad_neg = loss._negative(x, at)
    is_known = ~(y < 0)  # so that a target of NaN is known, and shows
    pos, neg = y.clamp(min=0), (1 - y) * is_known
    # Masked, for 0 * inf is NaN where the logit is infinite.
    value = (pos * value_pos).masked_fill_(pos == 0, 0) + (neg * value_neg).masked_fill_(neg == 0, 0)
    return value, pos * grad_pos + neg * grad_neg, is_known


def _check_range(y: Tensor) -> None:
    top = y.amax().item()
    if top > 1:
        raise ValueError(f"targets must be 1 (positive), 0 (negative), -1 (unknown) or soft in [0, 1]; found {top:g}")
