"""The asymmetric losses under their authors' names: ASL, RAL, and CSL for unknown labels."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mltrain.losses import asl, asl_softmax, csl, ral
from mltrain.losses.base import PerLabelLoss
from mltrain.losses.csl import read_prior_table
from mltrain.losses.formula import Sigmoid, focused, shifted


class AnyShape(PerLabelLoss):
    """Take logits and targets (..., C), say (B, N, C), as the authors' elementwise code does."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


class AsymmetricLoss(AnyShape, asl.AsymmetricLoss):
    """ASL as in github.com/Alibaba-MIIL/ASL (Ridnik et al., ICCV 2021), a sum over all entries.

    Args:
        gamma_neg: focusing exponent of the negatives.
        gamma_pos: focusing exponent of the positives.
        clip: probability margin of the negatives; None and 0: none.
        eps: probabilities below it count as it, so that their logits have no gradient.
        disable_torch_grad_focal_loss: hold the focusing weight constant in the gradient.
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = True,
    ) -> None:
        super().__init__(
            gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip or 0.0, detach_weight=disable_torch_grad_focal_loss
        )
        self._least_log = _least_log(eps)

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        return focused(-s.log_p.clamp(min=self._least_log), s.q, self.gamma_pos, detach=self.detach_weight)

    def negative(self, x: Tensor) -> Tensor:
        p, log_q = shifted(Sigmoid(x), self.clip)
        return focused(-log_q.clamp(min=self._least_log), p, self.gamma_neg, detach=self.detach_weight)


class AsymmetricLossOptimized(AsymmetricLoss):
    """ASL with the default of the authors' second class: the focusing weight is differentiated."""

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 1,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        disable_torch_grad_focal_loss: bool = False,
    ) -> None:
        super().__init__(gamma_neg, gamma_pos, clip, eps, disable_torch_grad_focal_loss)


class ASLSingleLabel(asl_softmax.AsymmetricSoftmaxLoss):
    """ASL of one label per image, as in github.com/Alibaba-MIIL/ASL: logits (B, C), class indices (B,).

    Args:
        gamma_pos: focusing exponent of the label.
        gamma_neg: focusing exponent of the other classes.
        eps: label smoothing.
        reduction: ``mean``; anything else returns the loss of each image, (B,).
    """

    def __init__(self, gamma_pos: float = 0, gamma_neg: float = 4, eps: float = 0.1, reduction: str = "mean") -> None:
        super().__init__(
            gamma_neg=gamma_neg,
            gamma_pos=gamma_pos,
            label_smoothing=eps,
            reduction="mean" if reduction == "mean" else "none",
        )

    def forward(self, inputs: Tensor, target: Tensor) -> Tensor:
        return super().forward(inputs, F.one_hot(target.long(), inputs.shape[-1]))


class Ralloss(AnyShape, ral.RobustAsymmetricLoss):
    """RAL as in github.com/kalelpark/RAL (Park et al., 2023), a sum over all entries.

    Args:
        gamma_neg: focusing exponent of the negatives.
        gamma_pos: focusing exponent of the positives.
        clip: probability margin of the negatives; None and 0: none.
        eps: probabilities below it count as it, so that their logits have no gradient.
        lamb: lambda of Hill's weight on the negatives.
        epsilon_neg: change of the first coefficient of the negative term's series.
        epsilon_pos: change of the first coefficient of the positive term's series.
        epsilon_pos_pow: change of its second coefficient.
        disable_torch_grad_focal_loss: hold the focusing weight constant in the gradient.
    """

    def __init__(
        self,
        gamma_neg: float = 4,
        gamma_pos: float = 0,
        clip: float | None = 0.05,
        eps: float = 1e-8,
        lamb: float = 1.5,
        epsilon_neg: float = 0.0,
        epsilon_pos: float = 1.0,
        epsilon_pos_pow: float = -2.5,
        disable_torch_grad_focal_loss: bool = False,
    ) -> None:
        super().__init__(
            gamma_neg=gamma_neg,
            gamma_pos=gamma_pos,
            clip=clip or 0.0,
            lam=lamb,
            epsilon_1=epsilon_pos,
            epsilon_2=epsilon_pos_pow,
        )
        self.eps, self.epsilon_neg, self.detach_weight = eps, epsilon_neg, disable_torch_grad_focal_loss
        self._least_log = _least_log(eps)

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        q = s.q.clamp(max=1 - self.eps)
        series = self.epsilon_1 * q + self.epsilon_2 / 2 * q**2
        loss = -s.log_p.clamp(min=self._least_log) - series
        return focused(loss, s.q, self.gamma_pos, detach=self.detach_weight)

    def negative(self, x: Tensor) -> Tensor:
        s = Sigmoid(x)
        p_m, log_q = shifted(s, self.clip)
        loss = -log_q.clamp(min=self._least_log) - self.epsilon_neg * (1 - p_m).clamp(min=self.eps)
        hill = (self.lam - 1 + s.q) * s.p**2 * (self.lam - 1 + p_m)
        return focused(loss * hill, p_m, self.gamma_neg, detach=self.detach_weight)


class PartialSelectiveLoss(csl.ClassAwareSelectiveLoss):
    """CSL as in github.com/Alibaba-MIIL/PartialLabelingCSL (Ben-Baruch et al., CVPR 2022), a sum over all entries.

    Args:
        args: an object with the attributes clip, gamma_pos, gamma_neg, gamma_unann, alpha_pos, alpha_neg,
            alpha_unann, partial_loss_mode (None, negative, ignore, ignore_normalize_classes or selective),
            prior_path, and for ``selective`` likelihood_topk and prior_threshold. The file at prior_path has the
            columns Classes and avg_pred, its rows in the order of the logits.
    """

    def __init__(self, args: Any) -> None:
        modes = {None: "negative", "ignore_normalize_classes": "ignore_normalize"}
        mode = modes.get(args.partial_loss_mode, args.partial_loss_mode)
        selective = mode == "selective"
        super().__init__(
            mode=mode,
            topk=args.likelihood_topk if selective else 0,
            prior_threshold=(args.prior_threshold or 0.0) if selective else 0.0,
        )
        options = {"clip": args.clip, "detach_weight": True}
        kind = _NormalizedPartial if mode == "ignore_normalize" else _Partial
        self.known = kind(args.gamma_pos, args.gamma_neg, args.alpha_pos, args.alpha_neg, **options)
        self.unknown = _Partial(args.gamma_pos, args.gamma_unann, args.alpha_pos, args.alpha_unann, **options)
        if selective and args.prior_path is not None and args.prior_threshold:
            values = list(read_prior_table(args.prior_path).values())
            self.prior = torch.tensor(values, dtype=torch.float32)


class _Partial(AsymmetricLoss):
    """ASL with a factor for either term."""

    def __init__(
        self,
        gamma_pos: float,
        gamma_neg: float,
        alpha_pos: float,
        alpha_neg: float,
        *,
        clip: float | None,
        detach_weight: bool,
    ) -> None:
        super().__init__(gamma_neg, gamma_pos, clip, 1e-8, detach_weight)
        self.alpha_pos, self.alpha_neg = alpha_pos, alpha_neg

    def positive(self, x: Tensor) -> Tensor:
        return self.alpha_pos * super().positive(x)

    def negative(self, x: Tensor) -> Tensor:
        return self.alpha_neg * super().negative(x)


class _NormalizedPartial(_Partial):
    def weight(self, targets: Tensor) -> Tensor:
        return csl.normalized_weight(targets)


def _least_log(eps: float) -> float:
    return math.log(eps) if eps > 0 else -math.inf
