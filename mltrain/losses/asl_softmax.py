"""Asymmetric loss for one label an image: the single-label form in the code of Ridnik, Ben-Baruch, Zamir, Noy,
Friedman, Protter, Zelnik-Manor, "Asymmetric Loss For Multi-Label Classification", ICCV 2021, arXiv:2009.14119.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import Reduction
from mltrain.losses.softmax import ClassWeight, SoftmaxLoss, check_gamma, check_smoothing, log_probabilities

Form = Literal["published", "corrected"]


class AsymmetricSoftmaxLoss(SoftmaxLoss):
    """ASL over a softmax p, with smoothed targets t' = (1 - e) t + e / C.

    ``published``, as the authors' code has it: ``-sum_c t'_c w_c log p_c``, w_c = (1 - p_c)^gamma_pos for the label and
    p_c^gamma_neg for the other classes. These have a term through label smoothing alone: at e = 0 gamma_neg does
    nothing, and gamma_pos 0 is cross-entropy.

    ``corrected``: ASL's two terms as in the multi-label loss, ``-sum_c t'_c (1 - p_c)^gamma_pos log p_c
    + (1 - t'_c) p_c^gamma_neg log(1 - p_c)``: a wrong class is pushed down for its own probability, the more so the
    higher that is, with or without smoothing.

    The weights are not detached, as in that code. Its values are matched to 1e-6 (`published`); both forms equal the
    plain formula in fp64 to 1e-10. No clip: it is none of the single-label code's. Soft targets are read as
    `SoftmaxLoss` says: the loss is linear in them.

    Args:
        gamma_neg: focusing exponent of the other classes, >= 0.
        gamma_pos: focusing exponent of the label, >= 0.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
        form: with ``published`` gamma_neg acts through label smoothing alone, with ``corrected`` on a term of its own.
        stats, class_weight, beta, reduction: see `SoftmaxLoss`.

    Raises:
        ValueError: an option outside its range; inputs as in `SoftmaxLoss`.
    """

    def __init__(
        self,
        *,
        stats: LabelStats | None = None,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        label_smoothing: float = 0.1,
        form: Form = "published",
        class_weight: ClassWeight = "none",
        beta: float = 0.9999,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(stats=stats, class_weight=class_weight, beta=beta, reduction=reduction)
        check_gamma(gamma_neg=gamma_neg, gamma_pos=gamma_pos)
        check_smoothing(label_smoothing)
        if form not in get_args(Form):
            raise ValueError(f"form={form!r} is unknown; allowed: {', '.join(get_args(Form))}")
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.label_smoothing = label_smoothing
        self.form = form

    def image_loss(self, x: Tensor, t: Tensor) -> Tensor:
        logp, log1mp = log_probabilities(x)
        t = self.weighted(t)
        whole = t.sum(1, keepdim=True)  # 1, or the weight of the label's class
        floor = self.label_smoothing / x.shape[1]
        # Powers from logarithms: their gradients stay finite where p is 0 or 1.
        label = (self.gamma_pos * log1mp).exp() * logp
        others = (self.gamma_neg * logp).exp()
        if self.form == "corrected":
            smooth = t * (1 - self.label_smoothing) + whole * floor
            terms = smooth * label + (whole - smooth) * others * log1mp
        else:
            terms = t * (1 - self.label_smoothing + floor) * label + (whole - t) * floor * others * logp
        return -terms.sum(1)
