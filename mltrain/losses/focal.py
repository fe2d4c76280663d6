"""Focal loss: Lin, Goyal, Girshick, He, Dollar,
"Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.
"""

from __future__ import annotations

from torch import Tensor

from mltrain.losses.base import PerLabelLoss, Reduction
from mltrain.losses.formula import Sigmoid, focused


class FocalLoss(PerLabelLoss):
    """Focal loss, eq. 4 and 5: ``-a (1-p)^gamma y log p - (1-a) p^gamma (1-y) log(1-p)``, p = sigmoid(x).

    Without `alpha` (eq. 4) both terms weigh 1: the "focal" baseline of the ASL family, which is its (gamma_neg,
    gamma_pos, clip) = (2, 2, 0). With it, eq. 5; the paper detects with gamma 2, alpha 0.25. The paper differentiates
    the weight, so the gradient is the full one by default; the ASL family's training code holds it constant, which
    `detach_weight=True` does.

    Args:
        gamma: focusing exponent of positives and negatives, >= 0; 0 is (alpha-weighted) binary cross-entropy.
        alpha: weight of the positives in [0, 1], 1 - alpha for the negatives; null for none (equation 4). The paper's
            detector uses 0.25.
        detach_weight: hold the focusing weight constant in the gradient, as the ASL family's focal baseline does.
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: gamma negative, alpha outside [0, 1].
    """

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
        detach_weight: bool = False,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(reduction=reduction)
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma={gamma} must be 0 or above")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} must be in [0, 1], or None for no class weight")
        self.gamma = gamma
        self.alpha = alpha
        self.detach_weight = detach_weight

    def positive(self, x: Tensor) -> Tensor:
        s, weight = Sigmoid(x), 1.0 if self.alpha is None else self.alpha
        return focused(-weight * s.log_p, s.q, self.gamma, detach=self.detach_weight)

    def negative(self, x: Tensor) -> Tensor:
        s, weight = Sigmoid(x), 1.0 if self.alpha is None else 1 - self.alpha
        return focused(-weight * s.log_q, s.p, self.gamma, detach=self.detach_weight)
