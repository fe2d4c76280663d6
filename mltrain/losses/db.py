"""Distribution-Balanced loss: Wu, Huang, Liu, Wang, Lin,
"Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets", ECCV 2020, arXiv:2007.09654.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import Reduction
from mltrain.losses.formula import Sigmoid
from mltrain.losses.frequency import FrequencyWeightedLoss

Form = Literal["repository", "paper"]
WeightNorm = Literal["by_instance", "by_batch"]


class DistributionBalancedLoss(FrequencyWeightedLoss):
    """Distribution-Balanced loss (DB, DB-Focal): re-balanced weights, negative-tolerant regularisation, focal loss.

    Entry (k, c) of a batch, with n_c training positives of class c among N_c images, has the loss

        w * F(z + b_c)         where positive    F(s) = factor * (1 - sigmoid(s))^gamma * softplus(-s)
        w/l * F(-l (z + b_c))  where negative    b_c = -kappa/l * log(N_c / n_c - 1)
        w = alpha + sigmoid(beta * (r - mu))     r = (1/n_c) / sum_j y_kj / n_j

    Re-balancing: r compares how often class c alone would draw image k with how often all its labels draw it. An image
    without positives is the limit r = inf, w = alpha + 1. Negative-tolerant regularisation (NTR) starts from the class
    prior and lets negatives go once their logits are low; l is `neg_scale`, kappa `init_bias`. `form="paper"` has
    b_c = -kappa * log(N_c / n_c - 1), as the paper writes it; its authors' code divides by l besides, and so does the
    default.

    Compared with values and gradients of the authors' code on the published class frequencies, for each part alone and
    all together: within 1e-5 relative; with an independent formula in fp64: 1e-12. The gradient is the full one,
    through the focal weight too, as theirs. Two differences: logits are never changed, and NTR works without weights.

    Unknown entries have no loss and are absent from r; soft positives (mixup) count in r by their share, so that the
    image is drawn as often as its parts together. A class without training positives is weighted like one with a single
    positive, and its prior is half an image; so is that of a class without negatives, from above.

    Args:
        stats: frequencies of the training set.
        rebalance: use the weights alpha + sigmoid(beta * (r - mu)).
        alpha: lowest weight, >= 0.
        beta: steepness of the weights, above 0.
        mu: r at which the weight is alpha + 0.5; ``auto``: mean of r over the training positives; the paper: 0.2 and
            0.3. The mean is N / sum_c n_c if each image has a positive (0.23 for COCO-MLT, where the paper has 0.2;
            0.49 for VOC-MLT, where it has 0.3), and at most 1, the largest r of a positive.
        weight_norm: divide the weights by the largest of their image (``by_instance``) or of the batch (``by_batch``).
        ntr: use negative-tolerant regularisation.
        neg_scale: lambda, above 0; the paper has 2 for COCO-MLT and 5 for VOC-MLT.
        init_bias: kappa, the strength of the class prior.
        focal: use the focal weight and factor.
        gamma: focusing exponent, >= 0.
        focal_factor: constant in front of the focal loss, "balance_param" in the authors' code.
        form: ``repository`` divides the class prior by lambda, as the authors' code does; ``paper`` does not.
        reduction: see `PerLabelLoss`; the authors' is the mean.

    Raises:
        ValueError: an option outside its range; weight_norm without rebalance; a batch of another number of classes.
    """

    def __init__(
        self,
        *,
        stats: LabelStats,
        rebalance: bool = True,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float | Literal["auto"] = "auto",
        weight_norm: WeightNorm | None = None,
        ntr: bool = True,
        neg_scale: float = 2.0,
        init_bias: float = 0.05,
        focal: bool = True,
        gamma: float = 2.0,
        focal_factor: float = 2.0,
        form: Form = "repository",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            stats=stats,
            focal=focal,
            gamma=gamma,
            focal_factor=focal_factor,
            reduction=reduction,
            neg_scale=neg_scale if ntr else 1.0,
        )
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha={alpha} must be 0 or above")
        if not 0 < beta < float("inf"):
            raise ValueError(f"beta={beta} must be above 0")
        if mu != "auto" and (isinstance(mu, str) or not abs(mu) < float("inf")):
            raise ValueError(f"mu={mu} must be a number or auto")
        if weight_norm is not None and weight_norm not in get_args(WeightNorm):
            allowed = ", ".join(get_args(WeightNorm))
            raise ValueError(f"weight_norm={weight_norm!r} is unknown; allowed: None, {allowed}")
        if weight_norm is not None and not rebalance:
            raise ValueError(f"weight_norm={weight_norm!r} needs rebalance=True: there are no weights to divide")
        if not abs(init_bias) < float("inf"):
            raise ValueError(f"init_bias={init_bias} must be a number")
        if form not in get_args(Form):
            raise ValueError(f"form={form!r} is unknown; allowed: {', '.join(get_args(Form))}")
        self.rebalance = rebalance
        self.alpha = alpha
        self.beta = beta
        self.mu = min(stats.num_images / max(int(stats.positives.sum()), 1), 1.0) if isinstance(mu, str) else mu
        self.weight_norm = weight_norm
        self.ntr = ntr
        self.neg_scale = neg_scale
        self.init_bias = init_bias
        self.focal = focal
        self.gamma = gamma
        self.focal_factor = focal_factor
        self.form = form

    @property
    def weight_needs_batch(self) -> bool:
        return self.weight_norm == "by_batch"

    def class_constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Compute 1 / n_c and b_c."""
        known = self.known.clamp(min=1).to(dtype)
        positives = torch.minimum(self.positives.to(dtype).clamp(min=0.5), known - 0.5)
        strength = self.init_bias if self.form == "paper" else self.init_bias / self.neg_scale
        return 1 / self.counts(dtype), -strength * torch.log((known - positives) / positives)

    def shift(self, x: Tensor) -> Tensor:
        return x + self._constants[1] if self.ntr else x

    def weight(self, targets: Tensor) -> Tensor | None:
        if not self.rebalance:
            return None
        inverse = self._constants[0]
        # Infinite without positives. Bounded, it still takes every class of fewer than 1e10 positives to the limit.
        rate = (targets.clamp(min=0) * inverse).sum(1, keepdim=True).reciprocal().clamp(max=1e12)
        weight = self._map(rate * inverse)
        if self.weight_norm is None:
            return weight
        top = self._map(rate * inverse.amax())
        return weight / (top if self.weight_norm == "by_instance" else top.amax())

    def _map(self, r: Tensor) -> Tensor:
        return self.alpha + Sigmoid(self.beta * (r - self.mu)).p
