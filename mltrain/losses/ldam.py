"""Label-distribution-aware margin loss: Cao, Wei, Gaidon, Arechiga, Ma,
"Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, arXiv:1906.07413.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import PerClassLoss, Reduction
from mltrain.losses.formula import Sigmoid


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
        max_margin: margin of the rarest class in logits, >= 0; the authors' 0.5, on iNaturalist 0.3. 0 and scale 1 is
            binary cross-entropy.
        scale: factor of the logits, 1 for an ordinary linear head; the authors' 30 is for cosine logits. These lie in
            [-1, 1].
        drw_epoch: deferred re-weighting: classes are weighted from this epoch on, counted from 0; null: never.
        drw_beta: beta of these weights (1-beta)/(1-beta^n), mean 1, in [0, 1).
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
        """Begin an epoch, counted from 0."""
        self.reweighted = self.drw_epoch is not None and epoch >= self.drw_epoch

    def positive(self, x: Tensor) -> Tensor:
        return -Sigmoid(self.scale * (x - self.margins)).log_p

    def negative(self, x: Tensor) -> Tensor:
        return -Sigmoid(self.scale * x).log_q

    def weight(self, targets: Tensor) -> Tensor | None:
        return self.drw_weights if self.reweighted else None


def check_drw_epoch(drw_epoch: int | None) -> None:
    """Raise a ValueError for a negative epoch."""
    if drw_epoch is not None and drw_epoch < 0:
        raise ValueError(f"drw_epoch={drw_epoch} must be 0 or above")
