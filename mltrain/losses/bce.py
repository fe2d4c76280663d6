"""Binary cross-entropy on each label, the baseline of every multi-label paper."""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.losses.base import PerLabelLoss, Reduction
from mltrain.losses.formula import Sigmoid


class BinaryCrossEntropy(PerLabelLoss):
    """Binary cross-entropy with logits: ``-w y log p - (1 - y) log(1 - p)``, p = sigmoid(x).

    Equal to `torch.nn.functional.binary_cross_entropy_with_logits` (fp64: 1e-12) where every label is known.

    Args:
        pos_weight: weight of the positive term.
        label_smoothing: e: targets of 1 become 1 - e/2, those of 0 become e/2, unknown ones stay. Soft targets move in
            proportion.
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: pos_weight not positive, label_smoothing outside [0, 1).
    """

    def __init__(self, *, pos_weight: float = 1.0, label_smoothing: float = 0.0, reduction: Reduction = "sum") -> None:
        super().__init__(reduction=reduction)
        if not 0 < pos_weight < float("inf"):
            raise ValueError(f"pos_weight={pos_weight} must be above 0")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1)")
        self.pos_weight = pos_weight
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.label_smoothing:
            targets = targets.to(torch.promote_types(targets.dtype, torch.float32))
            smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            targets = torch.where(targets < 0, -1, smooth)
        return super().forward(logits, targets)

    def positive(self, x: Tensor) -> Tensor:
        return -self.pos_weight * Sigmoid(x).log_p

    def negative(self, x: Tensor) -> Tensor:
        return -Sigmoid(x).log_q
