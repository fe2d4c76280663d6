"""Asymmetric loss: Ridnik, Ben-Baruch, Zamir, Noy, Friedman, Protter, Zelnik-Manor,
"Asymmetric Loss For Multi-Label Classification", ICCV 2021, arXiv:2009.14119.
"""

from __future__ import annotations

from torch import Tensor

from mltrain.losses.base import PerLabelLoss, Reduction
from mltrain.losses.formula import Sigmoid, focused, shifted


class AsymmetricLoss(PerLabelLoss):
    """Asymmetric loss (ASL): ``-y (1-p)^gamma_pos log p - (1-y) p_m^gamma_neg log(1-p_m)``.

    p = sigmoid(x), p_m = max(p - clip, 0). (gamma_neg, gamma_pos, clip) = (0, 0, 0) is binary cross-entropy, (2, 2, 0)
    focal loss. The defaults are those of the authors' training code, which holds the focusing weight constant in the
    gradient; the paper's analysis differentiates it (``detach_weight=False``). Compared with values and gradients the
    authors' code gives: within 2e-6. Two differences, both by design: logarithms are not cut at 1e-8, so badly wrong
    logits keep their gradient, and a soft target is the weighted sum of both terms (what mixup asks for), not a weight
    of mixed exponents.

    Args:
        gamma_neg: focusing exponent of the negatives, >= 0. The authors' ladder for new data is 0, 2, 4.
        gamma_pos: focusing exponent of the positives, >= 0. 0 in the authors' training code, 1 in their advice for new
            data.
        clip: probability margin in [0, 1): negatives with p <= clip are free.
        detach_weight: hold the focusing weight constant in the gradient, as the authors' training code does.
        reduction: see `PerLabelLoss`; the paper's is the sum, to which its learning rates belong.

    Raises:
        ValueError: a gamma negative, clip outside [0, 1).
    """

    def __init__(
        self,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        detach_weight: bool = True,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(reduction=reduction)
        for name, gamma in (("gamma_neg", gamma_neg), ("gamma_pos", gamma_pos)):
            if not 0 <= gamma < float("inf"):
                raise ValueError(f"{name}={gamma} must be 0 or above")
        if not 0 <= clip < 1:
            raise ValueError(f"clip={clip} must be in [0, 1)")
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.detach_weight = detach_weight

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        return focused(-s.log_p, s.q, self.gamma_pos, detach=self.detach_weight)

    def negative(self, x: Tensor) -> Tensor:
        p, log_q = shifted(Sigmoid(x), self.clip)
        return focused(-log_q, p, self.gamma_neg, detach=self.detach_weight)
