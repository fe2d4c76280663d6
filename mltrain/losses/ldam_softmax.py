"""Label-distribution-aware margin loss over a softmax: Cao, Wei, Gaidon, Arechiga, Ma,
"Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, arXiv:1906.07413.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import Reduction
from mltrain.losses.ldam import check_drw_epoch
from mltrain.losses.softmax import ClassWeight, SoftmaxLoss


class LDAMSoftmaxLoss(SoftmaxLoss):
    """Cross-entropy of ``s (x_c - m_c [c is the label])``, m_c = K / n_c^(1/4): the paper's loss.

    The label has to clear a margin, which is larger the fewer images n_c its class has in training; K is set so that
    the rarest class has `max_margin`, as in the authors' code. A soft target gets its share of the margin. Compared
    with the formula in fp64: 3e-8, the margins being fp32.

    Deferred re-weighting (DRW, the paper's section 3.3) is ``class_weight=effective`` with `drw_epoch`: all classes
    weigh the same before that epoch, counted from 0. The authors switch at 160 of 200 epochs, with beta 0.9999 and a
    lower rate. The epoch comes from `set_epoch`, which the runner calls at the start of every epoch.

    Args:
        max_margin: margin of the rarest class in logits, >= 0; the authors' 0.5, on iNaturalist 0.3. 0 and scale 1 is
            cross-entropy.
        scale: factor of the logits, 1 for an ordinary linear head; the authors' 30 is for cosine logits. These lie in
            [-1, 1].
        drw_epoch: deferred re-weighting: class_weight (the paper's: effective) applies from this epoch on; null:
            always.
        stats, class_weight, beta, reduction: see `SoftmaxLoss`.

    Raises:
        ValueError: max_margin or drw_epoch negative, scale not positive, drw_epoch without class_weight; inputs as in
            `SoftmaxLoss`.
    """

    margins: Tensor

    def __init__(
        self,
        *,
        stats: LabelStats,
        max_margin: float = 0.5,
        scale: float = 1.0,
        drw_epoch: int | None = None,
        class_weight: ClassWeight = "none",
        beta: float = 0.9999,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(stats=stats, class_weight=class_weight, beta=beta, reduction=reduction)
        if not 0 <= max_margin < float("inf"):
            raise ValueError(f"max_margin={max_margin} must be 0 or above")
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale={scale} must be above 0")
        check_drw_epoch(drw_epoch)
        if drw_epoch is not None and class_weight == "none":
            raise ValueError(
                f"drw_epoch={drw_epoch} has no effect with class_weight=none; the paper's is class_weight=effective"
            )
        self.max_margin = max_margin
        self.scale = scale
        self.drw_epoch = drw_epoch
        self.reweighted = not drw_epoch
        counts = torch.tensor(stats.positives, dtype=torch.float64).clamp(min=1)  # without images: as with one
        self.register_buffer("margins", (max_margin * (counts / counts.min()) ** -0.25).float(), persistent=False)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch it is, from 0."""
        self.reweighted = self.drw_epoch is None or epoch >= self.drw_epoch

    def image_loss(self, x: Tensor, t: Tensor) -> Tensor:
        if x.shape[1] != len(self.margins):
            raise ValueError(f"logits {tuple(x.shape)} have to be of the loss's {len(self.margins)} classes")
        logp = F.log_softmax(self.scale * (x - self.margins.to(x.dtype) * t), dim=1)
        return -((self.weighted(t) if self.reweighted else t) * logp).sum(1)
