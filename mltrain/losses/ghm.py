"""Gradient harmonizing (GHM-C): Li, Liu, Wang,
"Gradient Harmonized Single-stage Detector", AAAI 2019, arXiv:1811.05181.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mltrain.losses.base import PerLabelLoss, Reduction
from mltrain.losses.formula import Sigmoid


class GHMLoss(PerLabelLoss):
    """GHM-C on each label: binary cross-entropy weighted by the inverse density of its gradient norm.

    The gradient norm of an entry is g = |p - y|, p = sigmoid(x). With the share R_j of all known entries whose g lies
    in bin j of `bins` equal ones, and n bins that are not empty, an entry of bin j weighs 1 / (n R_j): every such bin
    has the same sum of weights, so the many easy entries and the few outliers are held down. Weights are constant in
    the gradient.

    R is an exponential moving average over optimizer steps, the current micro-batch included, corrected for its
    start at 0; `momentum` 0 looks at the micro-batch alone. The average is a buffer, part of the state dict, so a
    resumed run goes on with it. It moves in `end_step`, which the training step calls once per optimizer step and
    which adds up micro-batches and processes: all processes have the same average. Without that call it stays put.

    The authors' code differs where it averages: it moves counts, not shares, has no correction (the first weights
    are 1 / (1 - momentum) too large) and leaves empty bins as they were. Both divide by the bins that are not empty;
    the paper divides by all. A soft target counts with its share in both of its terms. Compared with the formula in
    fp64: 1e-6.

    Args:
        bins: equal bins of the gradient norm in [0, 1].
        momentum: momentum of the moving average of the density, in [0, 1); 0 looks at each micro-batch alone. The
            authors' configuration is 0.75 with 30 bins.
        reduction: see `PerLabelLoss`; the mean over the known entries is the paper's.

    Raises:
        ValueError: an argument outside its range.
    """

    shares: Tensor
    """fp32 (bins,): the moving average, before its correction"""
    steps: Tensor
    """int64 (): optimizer steps in it"""
    pending: Tensor
    """fp32 (bins,): entries of the current step so far"""

    def __init__(self, *, bins: int = 30, momentum: float = 0.75, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        if bins < 1:
            raise ValueError(f"bins={bins} must be 1 or above")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be in [0, 1)")
        self.bins = bins
        self.momentum = momentum
        self.register_buffer("shares", torch.zeros(bins))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pending", torch.zeros(bins), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.shape != targets.shape or not logits.is_floating_point():
            return super().forward(logits, targets)  # which says what is wrong
        with torch.no_grad():
            counts = self._count(logits.detach(), targets)
            if self.training:
                self.pending += counts
            weights = self._weights(counts)
        return _Weighted(weights, self.reduction)(logits, targets)

    def end_step(self, all_reduce: Callable[[Tensor], Tensor] | None = None) -> None:
        """Move the average by what was seen since the last call; `all_reduce` sums a tensor over all processes."""
        counts = self.pending if all_reduce is None else all_reduce(self.pending.clone())
        total = counts.sum()
        seen = total > 0  # nothing moves where no target was known
        moved = self.momentum * self.shares + (1 - self.momentum) * counts / total.clamp(min=1)
        self.shares.copy_(torch.where(seen, moved, self.shares))
        self.steps += seen
        self.pending.zero_()

    def _count(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Known entries by bin of their gradient norm, (bins,)."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        wide = dtype if logits.device.type == "mps" else torch.float64  # in which ones add up exactly
        x, y = logits.to(dtype).flatten(), targets.to(dtype).flatten()
        counts = torch.zeros(self.bins, dtype=wide, device=x.device)
        known = y >= 0
        counts.scatter_add_(0, _bin(torch.sigmoid(x), self.bins), ((1 - y) * known).to(wide))
        return counts.scatter_add_(0, _bin(torch.sigmoid(-x), self.bins), (y * known).to(wide))

    def _weights(self, counts: Tensor) -> Tensor:
        """Weight of each bin, (bins,); 0 where nothing was ever seen."""
        share = counts / counts.sum().clamp(min=1)
        correction = 1 - self.momentum ** (self.steps + 1)
        density = (self.momentum * self.shares + (1 - self.momentum) * share) / correction
        filled = density > 0
        return torch.where(filled, 1 / (density * filled.sum()), 0)

    def extra_repr(self) -> str:
        return f"bins={self.bins}, momentum={self.momentum}, reduction={self.reduction!r}"


class _Weighted(PerLabelLoss):
    """BCE with a weight by bin of the gradient norm: one batch's, so that nothing of it stays in the loss."""

    def __init__(self, weights: Tensor, reduction: Reduction) -> None:
        super().__init__(reduction=reduction)
        self._weight_of_bin = weights

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        return -self._weight(s.q) * s.log_p

    def negative(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        return -self._weight(s.p) * s.log_q

    def _weight(self, norm: Tensor) -> Tensor:
        return self._weight_of_bin.to(norm.dtype)[_bin(norm.detach(), len(self._weight_of_bin))]


def _bin(norm: Tensor, bins: int) -> Tensor:
    """Bin of each gradient norm in [0, 1]; NaN, which the loss shows anyway, goes to the first."""
    return (norm * bins).nan_to_num(0).long().clamp_(0, bins - 1)
