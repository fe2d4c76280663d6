"""Re-weighting by inverse frequency, or its square root: the plain baseline of long-tailed learning."""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import Reduction
from mltrain.losses.frequency import FrequencyWeightedLoss


class InverseFrequencyLoss(FrequencyWeightedLoss):
    """BCE or focal loss with all entries of class c weighted by ``(N_c / n_c)^power``, n_c positives in N_c images.

    The re-weighting baselines ("RW") of the Distribution-Balanced paper (Wu et al., ECCV 2020, arXiv:2007.09654): power
    1 is its code's ``inv``, 0.5 its ``sqrt_inv``. Positives and negatives of a class weigh the same. Compared with the
    values of that code: within 1e-5 relative (`normalize=False`). A class without training positives weighs as one with
    a single positive; unknown entries count nowhere.

    Args:
        stats: frequencies of the training set.
        power: the weight of a class is (images / positives) ^ power, power above 0.
        normalize: scale the weights to mean 1 over the classes, unlike the Distribution-Balanced code. Without it those
            of rare classes are in the hundreds.
        focal: use the focal weight and factor; without, the loss is weighted BCE.
        gamma: focusing exponent, >= 0.
        focal_factor: constant in front of the focal loss.
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: an option outside its range; a batch of another number of classes.
    """

    def __init__(
        self,
        *,
        stats: LabelStats,
        power: float = 1.0,
        normalize: bool = True,
        focal: bool = False,
        gamma: float = 2.0,
        focal_factor: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(stats=stats, focal=focal, gamma=gamma, focal_factor=focal_factor, reduction=reduction)
        if not 0 < power < float("inf"):
            raise ValueError(f"power={power} must be above 0")
        self.power = power
        self.normalize = normalize
        self.focal = focal
        self.gamma = gamma
        self.focal_factor = focal_factor

    def class_constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Compute the weights."""
        weights = (self.known.clamp(min=1) / self.counts(dtype)).pow(self.power)
        return (weights / weights.mean() if self.normalize else weights,)

    def weight(self, targets: Tensor) -> Tensor:
        return self._constants[0]
