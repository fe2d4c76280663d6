"""The common ground of losses over a softmax: one label for each image."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.labels import LabelStats
from mltrain.losses.base import Reduction

ClassWeight = Literal["none", "inverse", "sqrt", "effective", "curriculum"]

# What targets in half precision may sum to beside 1.
_SLACK = 1e-2


class SoftmaxLoss(nn.Module):
    """Base of losses of an image's one label: logits (B, C) and targets (B, C) with one 1 a row.

    Soft targets that sum to 1 (mixup) are taken in proportion. An image without any positive target has an unknown
    label: it adds nothing and has no gradient. Beside a positive the label is known, so -1 is then as good as 0.
    Computes in fp32 (fp64 for fp64 logits), autocast or not; targets are constants.

    Args:
        stats: frequencies of the training set; needed for class weights.
        class_weight: weight of an image by its label's class: none, inverse, sqrt, effective or curriculum. With n
            training images: ``inverse`` 1 / n; ``sqrt`` n^-1/2; ``effective`` (1 - beta) / (1 - beta^n) (Cui et al.,
            CVPR 2019, arXiv:1901.05555); scaled to mean 1 over the classes, and n of a class without images counts as
            1. ``curriculum``: the class costs of a curriculum (`set_class_costs`), all equal before there are any.
        beta: beta of ``effective``, in [0, 1).
        reduction: ``sum``, ``mean`` over images with a known label or ``batchmean`` (sum / B). The mean ignores the
            images' weights (torch's weighted mean divides by them); ``none`` returns (B,).

    Raises:
        ValueError: an option outside its range; logits that are not floating, not 2-D, of one class, or of another
            number of classes than `stats`; targets of another shape or requiring a gradient; on the CPU also targets
            of an image that sum neither to 1 nor to 0 (elsewhere the check would stall the device).
    """

    task: ClassVar[str] = "single_label"
    weight: Tensor | None
    """(C,), mean 1; None: all weigh the same"""

    def __init__(
        self, *, stats: LabelStats | None, class_weight: ClassWeight, beta: float, reduction: Reduction
    ) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction={reduction!r} is unknown; allowed: {', '.join(get_args(Reduction))}")
        self.reduction: Reduction = reduction
        if not 0 <= beta < 1:
            raise ValueError(f"beta={beta} must be in [0, 1)")
        self.class_weight = class_weight
        self.beta = beta
        weight = None if class_weight == "none" else class_weights(stats, class_weight, beta).float()
        self.register_buffer("weight", weight, persistent=False)

    def image_loss(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the loss of each image (B,), weighted by class, at logits x (B, C) and targets t (B, C) >= 0."""
        raise NotImplementedError

    def set_class_costs(self, costs: np.ndarray) -> None:
        """Weight by these costs (C,) from now on, where ``class_weight=curriculum``; otherwise nothing changes."""
        if self.class_weight == "curriculum":
            assert self.weight is not None
            self.weight.copy_(torch.from_numpy(costs / costs.mean()))

    def divisor(self, targets: Tensor) -> int:
        """Return the number of images with a known label, which ``mean`` divides by; the training step asks for it."""
        return int((targets > 0).any(dim=1).sum())

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        self._check(logits, targets)
        x = logits.to(torch.promote_types(logits.dtype, torch.float32))
        t = targets.to(x.dtype).clamp(min=0)
        share = t.sum(1)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_shares(share)
        known = ~(share <= 0)  # so that a target of NaN is known, and shows
        loss = self.image_loss(x, t).masked_fill(~known, 0)
        if self.reduction == "none":
            return loss
        total = loss.sum()
        if self.reduction == "mean":
            return total / known.sum().clamp(min=1)
        return total / max(len(logits), 1) if self.reduction == "batchmean" else total

    def weighted(self, t: Tensor) -> Tensor:
        """Targets (B, C), each times the weight of its class."""
        return t if self.weight is None else t * self.weight.to(t.dtype)

    def extra_repr(self) -> str:
        names = (name for name in vars(self) if not name.startswith("_") and name != "training")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        if logits.dim() != 2 or not logits.is_floating_point():
            raise ValueError(f"logits must be a floating tensor (B, C), got {logits.dtype} {tuple(logits.shape)}")
        if targets.shape != logits.shape:
            raise ValueError(
                f"targets {tuple(targets.shape)} and logits {tuple(logits.shape)} must have the same shape (B, C); "
                "class indices have to be turned into a 0/1 matrix first"
            )
        if logits.shape[1] < 2:
            raise ValueError("a softmax needs at least 2 classes")
        if self.weight is not None and logits.shape[1] != len(self.weight):
            raise ValueError(f"logits {tuple(logits.shape)} have to be of the loss's {len(self.weight)} classes")
        if targets.requires_grad:
            raise ValueError("targets require a gradient, which this loss does not give them: pass targets.detach()")


def class_weights(stats: LabelStats | None, kind: ClassWeight, beta: float) -> Tensor:
    """Compute the weights of `SoftmaxLoss`, float64 (C,) of mean 1."""
    if kind not in get_args(ClassWeight):
        raise ValueError(f"class_weight={kind!r} is unknown; allowed: {', '.join(get_args(ClassWeight))}")
    if not 0 <= beta < 1:
        raise ValueError(f"beta={beta} must be in [0, 1)")
    if stats is None:
        raise ValueError(f"class_weight={kind} needs stats, the frequencies of the training set")
    n = torch.tensor(stats.positives, dtype=torch.float64).clamp(min=1)
    if kind == "curriculum":
        weights = torch.ones_like(n)
    elif kind == "effective":
        weights = (1 - beta) / (1 - beta**n)
    else:
        weights = n ** (-1.0 if kind == "inverse" else -0.5)
    return weights / weights.mean()


def log_probabilities(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p and log(1 - p) of the softmax of x (B, C), exact also where p rounds to 1."""
    x = x - x.detach().amax(1, keepdim=True)
    top = x.argmax(1, keepdim=True)
    logp = F.log_softmax(x, dim=1)
    # Only the top class can be near 1: what is left for it is the sum over the others. For them log1p is exact enough.
    rest = x.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True) - x.logsumexp(1, keepdim=True)
    return logp, torch.log1p(-logp.exp().scatter(1, top, 0)).scatter(1, top, rest)


def check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing={label_smoothing} must be in [0, 1)")


def check_gamma(**gammas: float) -> None:
    for name, value in gammas.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}={value} must be 0 or above")


def _check_shares(share: Tensor) -> None:
    wrong = ~((share - 1).abs().le(_SLACK) | share.eq(0))
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        raise ValueError(
            f"the targets of image {k} of the batch sum to {share[k].item():g}: this loss takes one label for each "
            "image, or soft targets that sum to 1; for several labels take a loss for task=multi_label"
        )
