"""Base of losses that weight BCE or focal loss by class frequencies of the training set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mltrain.labels import LabelStats
from mltrain.losses.base import PerLabelLoss, Reduction
from mltrain.losses.formula import Sigmoid, focused


class FrequencyWeightedLoss(PerLabelLoss):
    """Base of ``weight * factor * (1 - p_t)^gamma * -log p_t`` with weights from the training frequencies.

    p_t is sigmoid(z) of a positive and sigmoid(-s z) of a negative, whose term is divided by s (`neg_scale`); z is x
    unless a subclass shifts it (`shift`). Without `focal`, factor is 1 and gamma 0. A subclass computes constants of
    the classes from the counts (`class_constants`), and weights from these (`weight`).

    The counts are int64 buffers: they follow the module to its device, and a change of its dtype leaves them exact.
    They are not part of its state dict, as a checkpoint holds the LabelStats they come from.
    """

    positives: Tensor
    """int64 (C,): n_c, training positives of each class"""
    known: Tensor
    """int64 (C,): N_c, training images whose label of the class is known"""
    _constants: tuple[Tensor, ...] = ()
    """Result of `class_constants` for the current buffers and dtype; `prepare` keeps it up to date."""
    _constants_of: tuple[object, ...] = ()

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
        self.register_buffer("known", positives + torch.as_tensor(stats.negatives.copy()), persistent=False)

    def class_constants(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Compute from `positives` and `known` what `weight` and `shift` need, each (C,) in this dtype."""
        raise NotImplementedError

    def shift(self, x: Tensor) -> Tensor:
        """Return the logits that the loss is computed from."""
        return x

    def positive(self, x: Tensor) -> Tensor:
        s = Sigmoid(self.shift(x))
        return focused(-self._factor * s.log_p, s.q, self._gamma)

    def negative(self, x: Tensor) -> Tensor:
        s = Sigmoid(self._neg_scale * self.shift(x))
        return focused(-self._factor / self._neg_scale * s.log_q, s.p, self._gamma)

    def counts(self, dtype: torch.dtype) -> Tensor:
        """Return n_c (C,), at least 1."""
        return self.positives.clamp(min=1).to(dtype)

    def prepare(self, classes: int, dtype: torch.dtype) -> None:
        positives, known = self.positives, self.known
        if classes != len(positives):
            raise ValueError(f"logits and targets have {classes} classes, the statistics {len(positives)}")
        if torch.compiler.is_compiling():  # nothing is kept that a larger compiled graph computes
            self._constants, self._constants_of = self.class_constants(dtype), ()
            return
        current = (dtype, id(positives), _version(positives), id(known), _version(known))
        if self._constants_of != current:
            with torch.inference_mode(False):
                self._constants, self._constants_of = self.class_constants(dtype), current

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if not k.startswith("_constants")}


def _version(buffer: Tensor) -> int:
    """Return how often the buffer was written to, as far as that is counted."""
    return 0 if buffer.is_inference() else buffer._version
