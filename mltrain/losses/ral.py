"""Robust asymmetric loss: Park, Park, Kim, Ryu,
"Robust Asymmetric Loss for Multi-Label Long-Tailed Learning", ICCV Workshops 2023, arXiv:2308.05542.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.losses._focusing import LARGE, TINY, power_, softplus
from mltrain.losses.base import PerLabelLoss, Reduction


class RobustAsymmetricLoss(PerLabelLoss):
    """Robust asymmetric loss (RAL): ASL with a polynomial in the positive term and Hill's weight on the negative one.

        positive  q^gamma_pos [-log p - epsilon_1 q - epsilon_2 q^2 / 2]                      p = sigmoid(x), q = 1 - p
        negative  -p_m^gamma_neg (lam - p) p^2 (lam - (1 - p_m)) log(1 - p_m)                 p_m = max(p - clip, 0)

    The formula and the defaults are those of the authors' code, which differentiates the weights too. The last factor
    of its negative term, lam - (1 - p_m), could not be verified in the paper. Compared with the formula in fp64 with
    autograd: 1e-11. Two differences by design, as in `AsymmetricLoss`: logarithms are not cut at 1e-8, and a soft
    target is the weighted sum of both terms. It needs no class counts.

    Args:
        gamma_neg: focusing exponent of the negatives, >= 0.
        gamma_pos: focusing exponent of the positives, >= 0.
        clip: probability margin in [0, 1): negatives with p <= clip are free.
        lam: Hill's lambda, >= 1; 1.5 as in Hill's paper.
        epsilon_1: change of the first coefficient of -log p as a series in q, at most 1.
        epsilon_2: the same, of the second coefficient, at most 1: -2.5 makes it 1/2 + 5/4.
        reduction: see `PerLabelLoss`; the authors' is the sum.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        lam: float = 1.5,
        epsilon_1: float = 1.0,
        epsilon_2: float = -2.5,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(reduction=reduction)
        for name, gamma in (("gamma_neg", gamma_neg), ("gamma_pos", gamma_pos)):
            if not 0 <= gamma < float("inf"):
                raise ValueError(f"{name}={gamma} must be 0 or above")
        if not 0 <= clip < 1:
            raise ValueError(f"clip={clip} must be in [0, 1)")
        if not 1 <= lam < float("inf"):
            raise ValueError(f"lam={lam} must be 1 or above")
        if not -float("inf") < epsilon_1 <= 1:
            raise ValueError(f"epsilon_1={epsilon_1} must be 1 or below, or a positive has a negative loss")
        if not -float("inf") < epsilon_2 <= 1:
            raise ValueError(f"epsilon_2={epsilon_2} must be 1 or below, or a positive has a negative loss")
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.lam = lam
        self.epsilon_1 = epsilon_1
        self.epsilon_2 = epsilon_2

    def positive(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p, q = torch.sigmoid(x), torch.sigmoid(-x)
        inner = softplus(-x) - (self.epsilon_1 + self.epsilon_2 / 2 * q) * q
        slope = q * (p * (self.epsilon_1 + self.epsilon_2 * q) - 1)
        if self.gamma_pos == 0:
            return inner, slope
        weight = power_(q.clone(), self.gamma_pos)  # its derivative is -gamma p weight
        return inner * weight, weight * (slope - self.gamma_pos * p * inner.clamp(max=LARGE))

    def negative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p, q = torch.sigmoid(x), torch.sigmoid(-x)
        shifted = (p - self.clip).clamp_(min=0) if self.clip else p
        log = -torch.log1p(-shifted) if self.clip else softplus(x).clamp(max=LARGE)
        weight = power_(shifted.clone(), self.gamma_neg)
        hill, other = (self.lam - 1 + q) * p * p, self.lam - 1 + shifted
        # The derivatives in p of the factors, times p q; q / (1 - p_m) is 1 at clip 0, where 1 - p_m may be 0.
        share = q / (1 - shifted) if self.clip else 1.0
        slope = hill * other * share + q * log * (hill + other * p * (2 * self.lam - 3 * p))
        if self.gamma_neg:
            slope = slope + q * self.gamma_neg * (log * hill * other) / shifted.clamp(min=TINY)
        value = log * weight * hill * other
        slope = slope * weight * p * (p > self.clip)
        return value, slope
