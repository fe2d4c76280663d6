"""Class frequencies in a loss: what is done to the entries of a batch, without a tensor of its size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

At = Callable[[Tensor], Tensor]
"""Values per class (C,) -> the value of each entry's class, to broadcast with the entries, in their dtype."""


@dataclass(frozen=True)
class Adjustment:
    """Entry (k, c) of a batch has the loss ``weight[k, c] * term(logit[k, c] + offset[c])``.

    weight[k, c] = scale[k] * curve(row[k] * column[c]); what is None is left out. All in the dtype of the computation.
    """

    offset: Tensor | None = None
    """(C,)"""
    row: Tensor | None = None
    """(B, 1)"""
    column: Tensor | None = None
    """(C,)"""
    curve: Callable[[Tensor], Tensor] | None = None
    """may work in place"""
    scale: Tensor | None = None
    """(B, 1)"""

    def weights(self, rows: slice, out: Tensor) -> Tensor:
        """The weights of some rows, written to `out` (R, C)."""
        if self.row is not None and self.column is not None:
            torch.mul(self.row[rows], self.column, out=out)
        elif self.row is not None:
            out.copy_(self.row[rows].expand_as(out))
        elif self.column is not None:
            out.copy_(self.column.expand_as(out))
        else:
            out.fill_(1)
        weight = out if self.curve is None else self.curve(out)
        return weight if self.scale is None else weight.mul_(self.scale[rows])

    def weights_at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The weights of single entries (n,), n row and n column indices being given."""
        weight = None if self.row is None else self.row.view(-1).index_select(0, rows)
        if self.column is not None:
            of_class = self.column.index_select(0, columns)
            weight = of_class if weight is None else weight.mul_(of_class)
        if weight is None:
            weight = torch.ones_like(rows, dtype=torch.float32 if self.scale is None else self.scale.dtype)
        if self.curve is not None:
            weight = self.curve(weight)
        return weight if self.scale is None else weight * self.scale.view(-1).index_select(0, rows)


class Targets:
    """The targets of a batch, summed up by image.

    Only positives count: unknown entries do not, soft ones in proportion. Where few entries are not 0, they may be
    given beside: (rows, columns, targets), each (n,). `constants` are those of the loss, where they are at hand.
    """

    def __init__(
        self,
        dense: Tensor,
        dtype: torch.dtype,
        entries: tuple[Tensor, Tensor, Tensor] | None = None,
        constants: tuple[Tensor, ...] | None = None,
    ) -> None:
        self.dense = dense
        self.dtype = dtype
        self.entries = entries
        self.constants = constants

    def sums(self, values: Tensor) -> Tensor:
        """Sum of ``y[k, c] * values[c]`` over the positives of each image, (B, 1)."""
        if self.entries is None:
            return (self.dense.to(self.dtype).relu() * values).sum(1, keepdim=True)
        rows, columns, y = self.entries
        sums = values.new_zeros(len(self.dense))
        shares = y.to(self.dtype).clamp(min=0).mul_(values.index_select(0, columns))
        return sums.index_add_(0, rows, shares).unsqueeze(1)

    def minima(self, values: Tensor) -> Tensor:
        """Smallest ``values[c]`` of the positives of each image, (B, 1): infinity where there is none."""
        if self.entries is None:
            return torch.where(self.dense > 0, values, torch.inf).amin(1, keepdim=True)
        rows, columns, y = self.entries
        minima = values.new_full((len(self.dense),), torch.inf)
        candidates = torch.where(y > 0, values.index_select(0, columns), torch.inf)
        return minima.scatter_reduce_(0, rows, candidates, "amin").unsqueeze(1)
