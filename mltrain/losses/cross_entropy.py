"""Cross-entropy over a softmax, with label smoothing and class weights."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import Reduction
from mltrain.losses.softmax import ClassWeight, SoftmaxLoss, check_smoothing


class CrossEntropy(SoftmaxLoss):
    """``-sum_c w_c t'_c log p_c``, p the softmax, t' = (1 - e) t + e / C with label smoothing e.

    One label for each image (`SoftmaxLoss` says how targets are read). Equal to `torch.nn.functional.cross_entropy`
    with the same weights and smoothing, in fp64 to 1e-12; ``mean`` differs: it divides by the number of images.

    Args:
        label_smoothing: share of the target that is spread over all classes, in [0, 1). Szegedy et al., CVPR 2016,
            arXiv:1512.00567.
        stats, class_weight, beta, reduction: see `SoftmaxLoss`.

    Raises:
        ValueError: an option outside its range; inputs as in `SoftmaxLoss`.
    """

    def __init__(
        self,
        *,
        stats: LabelStats | None = None,
        label_smoothing: float = 0.0,
        class_weight: ClassWeight = "none",
        beta: float = 0.9999,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(stats=stats, class_weight=class_weight, beta=beta, reduction=reduction)
        check_smoothing(label_smoothing)
        self.label_smoothing = label_smoothing

    def image_loss(self, x: Tensor, t: Tensor) -> Tensor:
        if self.label_smoothing:
            t = t * (1 - self.label_smoothing) + self.label_smoothing / x.shape[1]
        return -(self.weighted(t) * F.log_softmax(x, dim=1)).sum(1)
