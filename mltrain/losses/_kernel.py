"""The pass over the entries as one kernel, made by torch.compile: for a loss of which that was asked
(`PerLabelLoss.compile`), or within a model that is compiled with its loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mltrain.losses._adjust import At, Targets
from mltrain.losses._entries import Result, check_range, divisor, hard, lookup, mixed, plain

if TYPE_CHECKING:
    from mltrain.losses.base import PerLabelLoss

Terms = Callable[["PerLabelLoss", Tensor, Tensor, At], tuple[Tensor, Tensor]]
"""`mixed`, or one that is faster for targets of which more is known"""


def in_graph(loss: PerLabelLoss, x: Tensor, y: Tensor, with_grad: bool) -> Result:
    """Within a graph that is being compiled: nothing can be asked of the entries here."""
    share = _shares(x, divisor(loss, len(x), _known(y)))
    out, grad = _pass(loss, x, y, mixed if y.is_floating_point() else hard, share, with_grad)
    return Result(out, grad, 1)


def by_kernel(loss: PerLabelLoss, x: Tensor, y: Tensor, with_grad: bool) -> Result:
    """x (B, C), not empty."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    constants = loss.constants(x.device, dtype, x.shape[1])
    if x.device.type != "cpu":  # whose answers would stall it
        share = _shares(x, divisor(loss, len(x), _compiled(_known)(y)))
        out, grad = _compiled(_pass)(loss, x, y, mixed if y.is_floating_point() else hard, share, with_grad, constants)
        return Result(out, grad, 1)
    # Here one look at the entries is enough: what the targets are is guessed, and the guess checked.
    count = x.shape[0]
    guess = float(divisor(loss, count, y.numel()))
    share = _equal_shares(count, guess, dtype)
    terms: Terms = _likely(y[0]) if loss._surprised else plain
    if terms is plain:
        out, grad, other = _compiled(_of_ones_and_zeros)(loss, x, y, terms, share, with_grad, constants)
        if other.item() == 0:
            return Result(out, grad, 1)
        loss._surprised = True
        terms = hard
    out, grad, low, top, softest = _compiled(_of_any)(loss, x, y, terms, share, with_grad, constants)
    check_range(top)
    if terms is hard and not softest.item() <= 0:  # a NaN neither
        out, grad = _compiled(_pass)(loss, x, y, mixed, share, with_grad, constants)
    known = y.numel() if low.item() >= 0 else int(_compiled(_known)(y))
    left = float(divisor(loss, count, known)) / guess
    return Result(out if left == 1 else out / left, grad, left)


def _likely(first: Tensor) -> Terms:
    """The terms that serve the targets (C,) of the first image."""
    if first.is_floating_point() and first.frac().any():
        return mixed
    return hard if first.amin().item() < 0 else plain


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # A product and a sum may be rounded once, as in the library's own kernels. What an entry takes on the way is not
    # written out, as it is by default from 30 operations on.
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "cpp.enable_floating_point_contract_flag": "fast",
        "realize_opcount_threshold": 100,
        "realize_reads_threshold": 20,
    }
    return torch.compile(function, options=options)


def _pass(
    loss: PerLabelLoss,
    x: Tensor,
    y: Tensor,
    terms: Terms,
    share: Tensor,
    with_grad: bool,
    constants: tuple[Tensor, ...] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Sum over entries, or (B, C) where nothing is reduced, and gradient (B, C), both multiplied by `share` (B, 1).

    Sums go by row, in the loop that computes what they sum up: only without something of the row, such as its share,
    would compilers write all values out before.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    y = y.to(dtype)  # comparing small integers takes longer
    x = x.to(dtype)
    adjustment = loss.adjust(Targets(y, dtype, constants=constants))
    weight = share
    if adjustment is not None:
        weight = adjustment.weights(slice(None), torch.empty_like(x)) * share
        if adjustment.offset is not None:
            x = x + adjustment.offset
    value, derivative = terms(loss, x, y, lookup(dtype))
    value = value * weight
    out = value if loss.reduction == "none" else value.sum(1).sum()
    return out, derivative * weight if with_grad else None


def _of_ones_and_zeros(loss: PerLabelLoss, x: Tensor, y: Tensor, *args: Any) -> tuple[Tensor | None, ...]:
    """`_pass`, and something that is 0 if, and only if, every target is 1 or 0, and the sum over entries finite."""
    out, grad = _pass(loss, x, y, *args)
    y = y if y.is_floating_point() else y.float()
    return out, grad, (y * y - y).abs().sum(1).sum() + 0 * out.sum()


def _of_any(loss: PerLabelLoss, x: Tensor, y: Tensor, *args: Any) -> tuple[Tensor | None, ...]:
    """`_pass`, the lowest target, the highest, and what is above 0 if any is soft."""
    out, grad = _pass(loss, x, y, *args)
    y = y if y.is_floating_point() else y.float()
    return out, grad, y.amin(1).amin(), y.amax(1).amax(), (y * (1 - y)).amax(1).amax()


def _known(y: Tensor) -> Tensor:
    """How many of the targets (B, C) are known, one of NaN too, so that it shows."""
    return torch.where(y < 0, 0.0, 1.0).sum(1).long().sum()


def _shares(x: Tensor, divisor: Tensor | int) -> Tensor:
    """1 / divisor for each row of x, (B, 1) in the dtype of the computation."""
    return x.new_ones((len(x), 1), dtype=torch.promote_types(x.dtype, torch.float32)).div_(divisor)


@functools.lru_cache(maxsize=8)
def _equal_shares(rows: int, divisor: float, dtype: torch.dtype) -> Tensor:
    """As `_shares`, on the CPU, where making them each time is felt."""
    with torch.inference_mode(False):
        return torch.full((rows, 1), 1 / divisor, dtype=dtype)
