"""Two-way multi-label loss: Kobayashi, "Two-Way Multi-Label Loss", CVPR 2023."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.losses.base import check_or_show, check_shapes

ABSENT = -1e4
"""Stands for minus infinity, whose differences would be NaN; far below any logit over a temperature."""


class TwoWayLoss(nn.Module):
    """Softmax contrast of positives and negatives, over the classes of an image and over the images of a class.

        softplus(t_n log sum over negatives of exp(x / t_n) + t_p log sum over positives of exp(-x / t_p))

    is taken of each image (its classes) and of each class (the images of the batch), and each way is averaged over
    the images or classes that have a positive. Logits are scores to rank by: 0 is no threshold. Compared with timm's
    `TwoWayLoss`, value and gradient: 1e-6.

    The second way needs positives of a class beside its negatives, so the value depends on the batch: each process and
    micro-batch compares its own images.

    Called with logits (B, C) of any floating dtype and targets (B, C): positive above 0.5 (soft ones too), negative
    from 0 to 0.5, unknown below 0 (in neither sum, no gradient). Computes in fp32 (fp64 for fp64 logits).

    Args:
        temperature_pos: temperature of the soft minimum over positives, above 0.
        temperature_neg: temperature of the soft maximum over negatives, above 0.

    Raises:
        ValueError: a temperature not above 0; inputs as in `PerLabelLoss`.
    """

    task: ClassVar[str] = "multi_label"
    reduction = "batchmean"

    def __init__(self, *, temperature_pos: float = 4.0, temperature_neg: float = 1.0) -> None:
        super().__init__()
        for name, value in (("temperature_pos", temperature_pos), ("temperature_neg", temperature_neg)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be above 0")
        self.temperature_pos = temperature_pos
        self.temperature_neg = temperature_neg

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        check_shapes(logits, targets)
        x = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not x.numel():
            return x.sum()
        positive, unknown = targets > 0.5, targets < 0
        positives = (-x / self.temperature_pos).masked_fill(~positive, ABSENT)
        negatives = (x / self.temperature_neg).masked_fill(positive | unknown, ABSENT)
        loss = x.new_zeros(()) + check_or_show(targets).to(x.dtype)
        for dim in (0, 1):
            hardest = self.temperature_pos * positives.logsumexp(dim) + self.temperature_neg * negatives.logsumexp(dim)
            valid = positive.any(dim)
            loss = loss + (F.softplus(hardest) * valid).sum() / valid.sum().clamp(min=1)
        return loss

    def extra_repr(self) -> str:
        return f"temperature_pos={self.temperature_pos}, temperature_neg={self.temperature_neg}"
