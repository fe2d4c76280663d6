"""Class-balanced loss: Cui, Jia, Lin, Song, Belongie,
"Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, arXiv:1901.05555.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import Reduction
from mltrain.losses.frequency import FrequencyWeightedLoss

Mode = Literal["by_class", "average_n", "average_w", "min_n"]


class ClassBalancedLoss(FrequencyWeightedLoss):
    """Class-balanced BCE or focal loss: weights ``e(n) = (1 - beta) / (1 - beta^n)``, n a number of positives (eq. 12).

    The paper has one label for each image. With several, `mode` says whose n it is: ``by_class`` that of the entry's
    own class; else one weight for all entries of the image, e of the mean n of its positives (``average_n``), the mean
    e of its positives (``average_w``) or e of their smallest n (``min_n``), the three variants of the
    Distribution-Balanced code (Wu et al., ECCV 2020). An image without positives weighs 1 - beta, the limit of large n.
    Compared with the values of that code, all modes: within 1e-5 relative (`normalize=False`, focal_factor 2); with an
    independent formula in fp64: 1e-12.

    Unknown entries count nowhere; soft positives count in the means by their share. A class without training positives
    weighs as one with a single positive.

    Args:
        stats: frequencies of the training set.
        beta: beta of the effective number (1 - beta^n) / (1 - beta), in [0, 1); 0 weighs all classes alike. Towards 1
            weights come near inverse frequency. The paper tries 0.9 to 0.9999.
        mode: n of the entry's class (``by_class``), or one per image by its positives: ``average_n``, ``average_w``,
            ``min_n``.
        normalize: scale the weights to mean 1 over the classes, as the paper does. The Distribution-Balanced code does
            not, which makes the loss some ten times smaller at beta 0.9.
        focal: use the focal weight and factor; without, the loss is weighted BCE.
        gamma: focusing exponent, >= 0.
        focal_factor: constant in front of the focal loss; 2 in the Distribution-Balanced code.
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: an option outside its range; a batch of another number of classes.
    """

    def __init__(
        self,
        *,
        stats: LabelStats,
        beta: float = 0.9999,
        mode: Mode = "by_class",
        normalize: bool = True,
        focal: bool = True,
        gamma: float = 2.0,
        focal_factor: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(stats=stats, focal=focal, gamma=gamma, focal_factor=focal_factor, reduction=reduction)
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta} must be in [0, 1)")
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode!r} is unknown; allowed: {', '.join(get_args(Mode))}")
        self.beta = beta
        self.mode = mode
        self.normalize = normalize
        self.focal = focal
        self.gamma = gamma
        self.focal_factor = focal_factor

    def class_constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Compute n_c, e(n_c), and what weights are multiplied by."""
        counts = self.counts(dtype)
        weights = self._inverse_effective_number(counts)
        return counts, weights, 1 / weights.mean() if self.normalize else torch.ones_like(weights[0])

    def weight(self, targets: Tensor) -> Tensor:
        counts, weights, scale = self._constants
        if self.mode == "by_class":
            return weights * scale
        if self.mode == "min_n":
            smallest = torch.where(targets > 0, counts, torch.inf).amin(1, keepdim=True)
            return self._inverse_effective_number(smallest) * scale
        positives = targets.clamp(min=0)
        labels = positives.sum(1, keepdim=True)
        mean = (positives * (counts if self.mode == "average_n" else weights)).sum(1, keepdim=True) / labels
        if self.mode == "average_n":
            return self._inverse_effective_number(torch.where(labels > 0, mean, torch.inf)) * scale
        return torch.where(labels > 0, mean, 1 - self.beta) * scale

    def _inverse_effective_number(self, n: Tensor) -> Tensor:
        log = math.log(self.beta) if self.beta > 0 else -math.inf
        return (self.beta - 1) / torch.expm1(n * log)  # 1 - beta^n without cancellation
