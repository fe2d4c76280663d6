"""Class-wise focusing of COMIC's multi-focal modifier loss: Zhang, Liu, Zeng, Ooi, Tang, Zhuang, "Learning in Imperfect
Environment: Multi-Label Classification with Long-Tailed Distribution and Partial Labels", ICCV 2023, arXiv:2304.10539.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import PerClassLoss, Reduction
from mltrain.losses.formula import TINY, Sigmoid, focused, shifted


class MultiFocalLoss(PerClassLoss):
    """ASL whose weight and negative focusing grow towards the tail: ``w_c ASL(gamma_neg + w_c, gamma_pos, clip)``.

        w_c = (1 - log(n_c / n_max))^exponent, n_c positives of class c in training; 1 for the most frequent class

    This is the part of COMIC that needs nothing but class counts: the weights of its multi-focal modifier loss, without
    the co-occurrence attention and the label corrector, with which exponent 1/3 and gamma_neg 3 are trained. The
    authors' code holds it as a loss of its own too, "multi-grained focal", with exponent 1/6 and gamma_neg 4. Both are
    from that code. Compared with the formula in fp64 with autograd: 1e-11. As in `AsymmetricLoss`, logarithms are not
    cut at 1e-8, and a soft target is the weighted sum of both terms.

    Args:
        gamma_neg: focusing exponent of the negatives, >= 0, to which the class's weight w_c is added.
        gamma_pos: focusing exponent of the positives, >= 0.
        clip: probability margin in [0, 1): negatives with p <= clip are free.
        exponent: exponent of the weight 1 - log(n / n_max), >= 0. The authors' "multi-grained focal" has 1/6 with
            gamma_neg 4; 0 weighs all classes 1 and is ASL with gamma_neg + 1.
        detach_weight: hold the focusing weight constant in the gradient, as the authors' training code does.
        reduction: see `PerLabelLoss`; the authors' is the sum.

    Raises:
        ValueError: an argument outside its range.
    """

    weights: Tensor

    def __init__(
        self,
        *,
        stats: LabelStats,
        gamma_neg: float = 3.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        exponent: float = 1 / 3,
        detach_weight: bool = True,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__(num_classes=len(stats.class_names), reduction=reduction)
        for name, value in (("gamma_neg", gamma_neg), ("gamma_pos", gamma_pos), ("exponent", exponent)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} must be 0 or above")
        if not 0 <= clip < 1:
            raise ValueError(f"clip={clip} must be in [0, 1)")
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.exponent = exponent
        self.detach_weight = detach_weight
        counts = torch.tensor(stats.positives, dtype=torch.float64).clamp(min=1)  # without images: as with one
        self.register_buffer("weights", ((1 - torch.log(counts / counts.max())) ** exponent).float())

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        return focused(-self.weights * s.log_p, s.q, self.gamma_pos, detach=self.detach_weight)

    def negative(self, x: Tensor) -> Tensor:
        p_m, log_q = shifted(Sigmoid(x), self.clip)
        log_base = torch.log((p_m.detach() if self.detach_weight else p_m).clamp(min=TINY))
        # A tenth of the time of pow with an exponent per class; as the exponent is at least 1, it is 0 where p_m is.
        focus = torch.exp(self.gamma_neg * log_base + self.weights * log_base)
        return -self.weights * focus * log_q
