"""Robust asymmetric loss: Park, Park, Kim, Ryu,
"Robust Asymmetric Loss for Multi-Label Long-Tailed Learning", ICCV Workshops 2023, arXiv:2308.05542.
"""

from __future__ import annotations

from torch import Tensor

from mltrain.losses.base import PerLabelLoss, Reduction
from mltrain.losses.formula import Sigmoid, focused, shifted


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
        lam: lambda of Hill's weight on the negatives, >= 1; 1.5 as in Hill's paper.
        epsilon_1: change of the first coefficient of -log p as a series in q, at most 1.
        epsilon_2: change of the second coefficient, at most 1; -2.5 makes it 1/2 + 5/4.
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

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        series = self.epsilon_1 * s.q + self.epsilon_2 / 2 * s.q**2
        return focused(-s.log_p - series, s.q, self.gamma_pos)

    def negative(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        p_m, log_q = shifted(s, self.clip)
        hill = (self.lam - 1 + s.q) * s.p**2
        return focused(-hill * (self.lam - 1 + p_m) * log_q, p_m, self.gamma_neg)
