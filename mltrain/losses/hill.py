"""Hill loss: Zhang, Cheng, Huang, Wen, Feng, Li, Guo,
"Simple and Robust Loss Design for Multi-Label Learning with Missing Labels", 2021, arXiv:2112.07368.
"""

from __future__ import annotations

from torch import Tensor

from mltrain.losses.base import PerLabelLoss, Reduction
from mltrain.losses.formula import Sigmoid, focused


class HillLoss(PerLabelLoss):
    """Hill loss for missing labels: focal margin on the positives, a bounded term on the negatives.

        positive  -(1 - s)^gamma log s, s = sigmoid(x - margin)        negative  (lam - p) p^2, p = sigmoid(x)

    At lam 1.5 the gradient of a negative is 3 p^2 (1 - p)^2: largest at p = 0.5 and back to 0 for p near 1, where
    a negative is likely a positive that nobody labelled. So missing labels are expected as 0; -1 is left out, as in
    every loss here. The weight (1 - s)^gamma is differentiated too. Compared with the value of the authors' code
    (1e-6) and with the formula in fp64 with autograd (1e-11). Theirs takes log(sigmoid), which is NaN below about -104.

    Args:
        lam: lambda of the negative term (lambda - p) p^2, >= 1.
        margin: margin that a positive's logit has to clear.
        gamma: focusing exponent of the positives, >= 0.
        reduction: see `PerLabelLoss`; the paper's is the sum.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self, *, lam: float = 1.5, margin: float = 1.0, gamma: float = 2.0, reduction: Reduction = "sum"
    ) -> None:
        super().__init__(reduction=reduction)
        if not 1 <= lam < float("inf"):
            raise ValueError(f"lam={lam} must be 1 or above, or a negative has a negative loss")
        check_margin(margin, gamma)
        self.lam = lam
        self.margin = margin
        self.gamma = gamma

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(x - self.margin)
        return focused(-s.log_p, s.q, self.gamma)

    def negative(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        return (self.lam - 1 + s.q) * s.p**2


def check_margin(margin: float, gamma: float) -> None:
    """Raise a ValueError unless both are finite and gamma is not negative."""
    if not abs(margin) < float("inf"):
        raise ValueError(f"margin={margin} must be a finite number")
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"gamma={gamma} must be 0 or above")
