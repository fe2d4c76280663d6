"""The common ground of losses that weight the entries of BCE or focal loss by class frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses._adjust import At, Targets
from mltrain.losses._focusing import LARGE, either, negative_term, positive_term, power_, sigmoid_softplus
from mltrain.losses.base import PerLabelLoss, Reduction


class _Kept:
    """Constants and the state of what they were computed from; a copy or a pickle of it is empty."""

    buffers: tuple[Tensor, ...] = ()
    state: tuple[object, ...] = ()
    constants: tuple[Tensor, ...] = ()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()


class FrequencyWeightedLoss(PerLabelLoss):
    """Base of ``weight * factor * (1-p_t)^gamma * -log p_t`` with weights from the training frequencies.

    p_t is sigmoid(x) of a positive and sigmoid(-s x) of a negative, whose term is divided by s (`neg_scale`). Without
    `focal`, factor is 1 and gamma 0. A subclass states the weights (`adjust`).

    The counts are int64 buffers: they follow the module to its device, and a change of its dtype leaves them exact.
    They are no part of its state dict, being those of the LabelStats that a checkpoint holds anyway.
    """

    positives: Tensor
    """int64 (C,): n_c, training positives of each class"""
    known: Tensor
    """int64 (C,): N_c, training images whose label of the class is known"""

    def __init__(
        self,
        *,
        stats: LabelStats,
        focal: bool,
        gamma: float,
        focal_factor: float,
        reduction: Reduction,
        neg_scale: float = 1.0,
    ) -> None:
        super().__init__(reduction=reduction)
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma={gamma} must be 0 or above")
        for name, value in (("focal_factor", focal_factor), ("neg_scale", neg_scale)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be above 0")
        self._gamma, self._factor = (float(gamma), float(focal_factor)) if focal else (0.0, 1.0)
        self._neg_scale = float(neg_scale)
        positives = torch.as_tensor(stats.positives.copy())
        self.register_buffer("positives", positives, persistent=False)
        self._kept = _Kept()
        self.register_buffer("known", positives + torch.as_tensor(stats.negatives.copy()), persistent=False)

    def counts(self, targets: Targets) -> Tensor:
        """n_c (C,), at least 1, in the dtype of the computation.

        Raises:
            ValueError: the batch has another number of classes.
        """
        return self._constants(targets)[0]

    def _class_constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What depends on the statistics only, n_c first."""
        return (self.positives.clamp(min=1).to(dtype),)

    def _constants(self, targets: Targets) -> tuple[Tensor, ...]:
        dense = targets.dense
        return targets.constants or self.constants(dense.device, targets.dtype, dense.shape[1])

    def constants(self, device: torch.device, dtype: torch.dtype, classes: int) -> tuple[Tensor, ...]:
        """`_class_constants`, of which the CPU, where small kernels count, keeps the last ones.

        Raises:
            ValueError: the batch has another number of classes.
        """
        positives, known = self._buffers["positives"], self._buffers["known"]  # `self.positives` takes its time
        assert positives is not None and known is not None
        if classes != positives.numel():
            raise ValueError(f"logits and targets have {classes} classes, the statistics {positives.numel()}")
        if device.type != "cpu" or torch.compiler.is_compiling():
            return self._class_constants(dtype)
        kept, state = self._kept, (dtype, _version(positives), _version(known))
        if kept.state != state or kept.buffers[0] is not positives or kept.buffers[1] is not known:
            kept.buffers, kept.state, kept.constants = (positives, known), state, self._class_constants(dtype)
        return kept.constants

    def positive(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, derivative = positive_term(x, gamma=self._gamma, detach=False)
        return value.mul_(self._factor), derivative.mul_(self._factor)

    def negative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, derivative = negative_term(x * self._neg_scale, gamma=self._gamma, clip=0, detach=False)
        return value * (self._factor / self._neg_scale), derivative * self._factor

    def _selected(self, x: Tensor, y: Tensor, at: At, finite: bool) -> tuple[Tensor, Tensor]:
        # Both terms are of one form, so that one exponential does for the two.
        factor, scale = self._factor, self._neg_scale
        value, derivative = negative_term(
            x * either(y, -1, scale), gamma=self._gamma, clip=0, detach=False, finite=finite
        )
        return value * either(y, factor, factor / scale), derivative * either(y, -factor, factor)

    def weighted_negative_sum_(self, x: Tensor, weight: Tensor, work: Tensor) -> float:
        if self._neg_scale != 1:
            x.mul_(self._neg_scale)
        total = _weighted_negative_term_sum_(x, weight, work, gamma=self._gamma, factor=self._factor)
        return total / self._neg_scale


def _version(buffer: Tensor) -> int:
    """How often it was written to, where that is counted."""
    return 0 if buffer.is_inference() else buffer._version


def _weighted_negative_term_sum_(x: Tensor, weight: Tensor, work: Tensor, *, gamma: float, factor: float) -> float:
    """Sum factor * weight * -p^gamma log(1-p) over the logits x (n,), and replace x by the derivative.

    In place: `weight` (n,) and `work` (n,) are used up. Where weight is 0, x must be finite.
    """
    p, loss = x, work
    low = sigmoid_softplus(x, p, loss)
    if gamma == 0:
        total = loss.mul_(weight).sum().item()
        p.mul_(weight if factor == 1 else weight.mul_(factor))
        return total * factor
    if gamma == 2:
        weight.mul_(p).mul_(p)
    else:
        weight.mul_(power_(p.clone(), gamma))
    # factor p^g [p - g (1-p) log(1-p)], where the bracket is the point at p between -g log(1-p) and 1
    loss.mul_(gamma * factor)
    torch.lerp(loss if low else loss.clamp(max=LARGE), x.new_full((), factor), p, out=x)
    x.mul_(weight)
    total = loss.mul_(weight).sum().item()
    return total / gamma
