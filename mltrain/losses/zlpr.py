"""ZLPR: Su, Zhu, Luo, Zhu, Zhao, "ZLPR: A Novel Loss for Multi-label Classification", 2022, arXiv:2208.02955."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mltrain.losses.base import check_or_show, check_shapes


class ZLPRLoss(nn.Module):
    """Zero-bounded log-sum-exp and pairwise rank-based loss: softmax cross-entropy for many labels.

        log(1 + sum over negatives of exp(x_j)) + log(1 + sum over positives of exp(-x_i)), per image

    Every positive is pushed above every negative, and 0 stands between them. There is no focusing and no weight, and
    the loss does not grow with the number of negatives. Compared with timm's `ZlprLoss`, value and gradient: 1e-6.

    Called with logits (B, C) of any floating dtype and targets (B, C): positive above 0.5 (soft ones too), negative
    from 0 to 0.5, unknown below 0 (in neither sum, no gradient). Computes in fp32 (fp64 for fp64 logits).

    Args:
        reduction: ``batchmean``, the mean over B, or ``sum`` over B.

    Raises:
        ValueError: an unknown reduction; inputs as in `PerLabelLoss`.
    """

    task: ClassVar[str] = "multi_label"

    def __init__(self, *, reduction: Literal["batchmean", "sum"] = "batchmean") -> None:
        super().__init__()
        if reduction not in ("batchmean", "sum"):
            raise ValueError(f"reduction={reduction!r} is unknown; allowed: batchmean, sum")
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        check_shapes(logits, targets)
        x = logits.to(torch.promote_types(logits.dtype, torch.float32))
        positive, unknown = targets > 0.5, targets < 0
        zero = x.new_zeros(len(x), 1)  # the 1 in the logarithm; it also keeps an empty sum finite
        negatives = torch.cat((x.masked_fill(positive | unknown, -torch.inf), zero), dim=1)
        positives = torch.cat(((-x).masked_fill(~positive, -torch.inf), zero), dim=1)
        loss = (negatives.logsumexp(1) + positives.logsumexp(1)).sum() + check_or_show(targets).to(x.dtype)
        return loss / max(len(x), 1) if self.reduction == "batchmean" else loss

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"
