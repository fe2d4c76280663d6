"""Label-distribution-aware margin loss: Cao, Wei, Gaidon, Arechiga, Ma,
"Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, arXiv:1906.07413.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses._focusing import negative_term, negative_term_sum_, positive_term
from mltrain.losses.base import At, PerClassLoss, Reduction


class LDAMLoss(PerClassLoss):
    """LDAM for sigmoids: ``-y log sigmoid(s (x - m_c)) - (1-y) log(1 - sigmoid(s x))``, m_c = C / n_c^(1/4).

    A positive of class c has to clear the margin m_c, which is larger the fewer positives n_c the class has
    in training; C is set so that the rarest class has `max_margin`, as in the authors' code. The paper's loss is a
    softmax over one label; here each label has its own sigmoid and negatives have no margin. The Distribution-Balanced
    paper lists LDAM for multi-label sets without publishing its form, so this one is not verified against it. Compared
    with the formula in fp64 with autograd: 3e-8, the margins being fp32.

    Deferred re-weighting (DRW, the paper's section 3.3), with `drw_epoch`: from that epoch on, counted from 0, all
    entries of class c weigh (1 - beta) / (1 - beta^n_c), scaled to mean 1 over the classes. The authors switch at 160
    of 200 epochs, with beta 0.9999 and a lower rate. The epoch comes from `set_epoch`, which the runner calls at the
    start of every epoch, also of a resumed one.

    Args:
        max_margin: margin of the rarest class, in logits, >= 0; the authors' 0.5, and 0.3 on iNaturalist. 0 and scale 1
            is binary cross-entropy.
        scale: s; 1 for an ordinary linear head. The authors' 30 belongs to cosine logits in [-1, 1].
        drw_epoch: epoch from which classes are weighted; None: never.
        drw_beta: beta of the weights, in [0, 1).
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: max_margin or drw_epoch negative, scale not positive, drw_beta outside its range.
    """

    margins: Tensor
    drw_weights: Tensor

    def __init__(
        self,
        *,
        stats: LabelStats,
        max_margin: float = 0.5,
        scale: float = 1.0,
        drw_epoch: int | None = None,
        drw_beta: float = 0.9999,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(num_classes=len(stats.class_names), reduction=reduction)
        if not 0 <= max_margin < float("inf"):
            raise ValueError(f"max_margin={max_margin} must be 0 or above")
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale={scale} must be above 0")
        check_drw_epoch(drw_epoch)
        if not 0 <= drw_beta < 1:
            raise ValueError(f"drw_beta={drw_beta} must be in [0, 1)")
        self.max_margin = max_margin
        self.scale = scale
        self.drw_epoch = drw_epoch
        self.drw_beta = drw_beta
        self.reweighted = drw_epoch == 0
        counts = torch.tensor(stats.positives, dtype=torch.float64).clamp(min=1)  # without images: as with one
        margins = max_margin * (counts / counts.min()) ** -0.25
        self.register_buffer("margins", margins.float())
        weights = (1 - drw_beta) / (1 - drw_beta**counts)
        self.register_buffer("drw_weights", (weights / weights.mean()).float(), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch it is, from 0."""
        self.reweighted = self.drw_epoch is not None and epoch >= self.drw_epoch

    def class_positive(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        value, derivative = positive_term((x - at(self.margins)) * self.scale, gamma=0, detach=True)
        return self._weighted(value, derivative * self.scale, at)

    def class_negative(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        value, derivative = negative_term(x * self.scale, gamma=0, clip=0, detach=True)
        return self._weighted(value, derivative * self.scale, at)

    def _weighted(self, value: Tensor, derivative: Tensor, at: At) -> tuple[Tensor, Tensor]:
        if not self.reweighted:
            return value, derivative
        weights = at(self.drw_weights)
        return value * weights, derivative * weights

    def class_negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor, at: At) -> float:
        if self.reweighted:
            return super().class_negative_sum_(x, skip, out, work, at)
        if self.scale != 1:
            x = torch.mul(x, self.scale, out=out)
        flat = out.view(-1)
        total = negative_term_sum_(x.view(-1), skip, flat, work.view(2, -1), gamma=0, clip=0, detach=True)
        if self.scale != 1:
            flat.mul_(self.scale)
        return total


def check_drw_epoch(drw_epoch: int | None) -> None:
    """ValueError for an epoch that there is not."""
    if drw_epoch is not None and drw_epoch < 0:
        raise ValueError(f"drw_epoch={drw_epoch} must be 0 or above")
