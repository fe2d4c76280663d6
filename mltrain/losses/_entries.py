"""Value and derivative of a loss at single entries, for targets of every kind, and what becomes of their sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from mltrain.losses._adjust import At

if TYPE_CHECKING:
    from mltrain.losses.base import PerLabelLoss


class Result(NamedTuple):
    loss: Tensor  # reduced, or (B, C) for "none"
    grad: Tensor | None  # (B, C)
    divisor: Tensor | float  # what the gradient has yet to be divided by


def mixed(loss: PerLabelLoss, x: Tensor, y: Tensor, at: At) -> tuple[Tensor, Tensor]:
    """Loss and derivative per entry, for targets of any kind."""
    value_pos, grad_pos = loss._positive(x, at)
    value_neg, grad_neg = loss._negative(x, at)
    pos, neg = y.clamp(min=0), (1 - y) * ~(y < 0)
    # Masked, for 0 * inf is NaN where the logit is infinite.
    value = (pos * value_pos).masked_fill_(pos == 0, 0) + (neg * value_neg).masked_fill_(neg == 0, 0)
    return value, pos * grad_pos + neg * grad_neg


def hard(loss: PerLabelLoss, x: Tensor, y: Tensor, at: At) -> tuple[Tensor, Tensor]:
    """As `mixed`, for targets without soft ones, where selecting is as cheap as in one compiled kernel."""
    value, derivative = loss._selected(x, (y > 0).to(x.dtype), at, finite=False)
    return value.masked_fill(y < 0, 0), derivative.masked_fill(y < 0, 0)


def plain(loss: PerLabelLoss, x: Tensor, y: Tensor, at: At) -> tuple[Tensor, Tensor]:
    """As `mixed`, for targets all 1 or 0; it may be NaN where x is infinite."""
    return loss._selected(x, y, at, finite=True)


def lookup(dtype: torch.dtype, columns: Tensor | None = None) -> At:
    """`At` of whole rows, or of entries (n,) whose column indices are given."""
    return lambda values: values.to(dtype) if columns is None else values.to(dtype).index_select(0, columns)


def divisor(loss: PerLabelLoss, images: int, known: Tensor | int) -> Tensor | int:
    """What the reduction divides the sum over entries by."""
    if loss.reduction == "mean":
        return known.clamp(min=1) if isinstance(known, Tensor) else max(known, 1)
    return max(images, 1) if loss.reduction == "batchmean" else 1


def check_range(top: Tensor) -> None:
    """Refuse targets of which the largest is above 1, with a ValueError."""
    if top.item() > 1:
        raise ValueError(
            f"targets must be 1 (positive), 0 (negative), -1 (unknown) or soft in [0, 1]; found {top.item():g}"
        )
