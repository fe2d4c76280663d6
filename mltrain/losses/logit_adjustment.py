"""Logit-adjusted loss: Menon, Jayasumana, Rawat, Jain, Veit, Kumar,
"Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import PerClassLoss, Reduction
from mltrain.losses.formula import Sigmoid


class LogitAdjustedLoss(PerClassLoss):
    """Binary cross-entropy of logits that carry the prior: ``x + tau * log(n_c / m_c)``, in training only.

    The paper's loss adds tau log(prior) to the logits of a softmax; the prior of a sigmoid is its class's odds, n_c
    known positives to m_c known negatives of the training set. The logit x itself, which is what is evaluated, then
    learns what the image adds to the prior: at tau = 1 its threshold 0 is the optimum of the balanced error. The
    multi-label form is ours; compared with the formula in fp64 with autograd: 3e-8, the offsets being fp32.
    The same adjustment of a model trained without: `mltrain.metrics.thresholds`.

    Args:
        tau: strength: tau times the log prior odds is added to the logits in training; 0 is BCE.
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: tau is not finite.
    """

    offsets: Tensor

    def __init__(self, *, stats: LabelStats, tau: float = 1.0, reduction: Reduction = "sum") -> None:
        super().__init__(num_classes=len(stats.class_names), reduction=reduction)
        if not abs(tau) < float("inf"):
            raise ValueError(f"tau={tau} must be a number")
        self.tau = tau
        self.register_buffer("offsets", torch.as_tensor(tau * stats.log_prior_odds(), dtype=torch.float32))

    def positive(self, x: Tensor) -> Tensor:
        return -Sigmoid(x + self.offsets).log_p

    def negative(self, x: Tensor) -> Tensor:
        return -Sigmoid(x + self.offsets).log_q
