"""Self-paced loss correction (SPLC): Zhang, Cheng, Huang, Wen, Feng, Li, Guo,
"Simple and Robust Loss Design for Multi-Label Learning with Missing Labels", 2021, arXiv:2112.07368.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.losses.base import PerLabelLoss, Reduction
from mltrain.losses.formula import Sigmoid, focused
from mltrain.losses.hill import check_margin


class SPLCLoss(PerLabelLoss):
    """Focal margin loss that takes a confident negative for a positive whose label is missing.

        positive  -(1 - s)^gamma log s, s = sigmoid(x - margin)
        negative  -p^gamma log(1 - p), p = sigmoid(x); from epoch `change_epoch` on, where p > tau: -(1 - p)^gamma log p

    A corrected negative has no margin. Missing labels are expected as 0; -1 is left out, as in every loss here. The
    weights are differentiated too. Compared with the values of the authors' code before and after the change (1e-6),
    and with the formula in fp64 with autograd (1e-11).

    The epoch comes from `set_epoch`, which the runner calls at the start of every epoch, also of a resumed one.

    Args:
        tau: negatives of a higher probability are taken for positives, in (0, 1); 0.65 if few labels are missing.
        change_epoch: epochs that train without this correction.
        margin: margin that a labelled positive's logit has to clear.
        gamma: focusing exponent, >= 0.
        reduction: see `PerLabelLoss`; the paper's is the sum.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        *,
        tau: float = 0.6,
        change_epoch: int = 1,
        margin: float = 1.0,
        gamma: float = 2.0,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(reduction=reduction)
        if not 0 < tau < 1:
            raise ValueError(f"tau={tau} must be between 0 and 1")
        if change_epoch < 0:
            raise ValueError(f"change_epoch={change_epoch} must be 0 or above")
        check_margin(margin, gamma)
        self.tau = tau
        self.change_epoch = change_epoch
        self.margin = margin
        self.gamma = gamma
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, counted from 0."""
        self.epoch = epoch
        self.correcting = epoch >= self.change_epoch  # a compiled kernel depends on this alone

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(x - self.margin)
        return focused(-s.log_p, s.q, self.gamma)

    def negative(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        loss = focused(-s.log_q, s.p, self.gamma)
        return torch.where(s.p > self.tau, focused(-s.log_p, s.q, self.gamma), loss) if self.correcting else loss
