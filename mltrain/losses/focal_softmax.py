"""Focal loss over a softmax: Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", ICCV 2017,
arXiv:1708.02002, with the probability of a softmax instead of the paper's sigmoid.
"""

from __future__ import annotations

from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import Reduction
from mltrain.losses.softmax import ClassWeight, SoftmaxLoss, check_gamma, log_probabilities


class FocalSoftmaxLoss(SoftmaxLoss):
    """``-(1 - p_y)^gamma log p_y``, p_y the softmax probability of the label; gamma 0 is cross-entropy.

    One label for each image (`SoftmaxLoss` says how targets are read). With ``class_weight=effective`` it is the
    class-balanced softmax focal loss. Compared with the plain formula in fp64: 1e-10.

    Args:
        gamma: focusing exponent, >= 0.
        stats, class_weight, beta, reduction: see `SoftmaxLoss`.

    Raises:
        ValueError: an option outside its range; inputs as in `SoftmaxLoss`.
    """

    def __init__(
        self,
        *,
        stats: LabelStats | None = None,
        gamma: float = 2.0,
        class_weight: ClassWeight = "none",
        beta: float = 0.9999,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(stats=stats, class_weight=class_weight, beta=beta, reduction=reduction)
        check_gamma(gamma=gamma)
        self.gamma = gamma

    def image_loss(self, x: Tensor, t: Tensor) -> Tensor:
        logp, log1mp = log_probabilities(x)
        # A power from the logarithm: its gradient stays finite where p is 1.
        return -(self.weighted(t) * (self.gamma * log1mp).exp() * logp).sum(1)
