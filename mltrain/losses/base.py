"""The common ground of losses that treat each label on its own.

Such a loss is ``y * positive(x) + (1 - y) * negative(x)`` for each logit x with target y. A subclass states the two
terms and their derivatives, and may weight entries and offset logits by class frequencies (`adjust`); everything else
is here: fp32 inside, unknown labels, soft targets, reductions, and one fused pass for value and gradient (`_pass`).
`PerLabelLoss` is for terms that are the same for all classes, `PerClassLoss` for terms with constants of the class.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from mltrain.losses._adjust import Adjustment, At, Targets
from mltrain.losses._pass import Fused, evaluate

Reduction = Literal["sum", "mean", "batchmean", "none"]


class PerLabelLoss(nn.Module):
    """Base of losses of the form ``y * positive(x) + (1 - y) * negative(x)`` per entry.

    Called with logits (B, C) of any floating dtype and targets (B, C) of any real dtype: 1 positive, 0 negative,
    anything below 0 unknown (no loss, no gradient), between 0 and 1 soft (the weighted sum of both terms). Computes in
    fp32 (fp64 for fp64 logits), autocast or not; the gradient has the dtype of the logits. Targets are constants, and
    the gradient can't be differentiated again.

    Args:
        reduction: ``sum``; ``mean`` over the known entries; ``batchmean``, the sum over B; ``none``, (B, C).

    Raises:
        ValueError: logits not floating or not 2-D, targets of another shape or requiring a gradient, an unknown
            reduction; on the CPU also a target above 1 (elsewhere the check would stall the device).
    """

    task: ClassVar[str] = "multi_label"

    compiled = False
    """set by `compile`"""
    _surprised = (
        False  # whether a compiled kernel has met other targets than 1 and 0: what it costs depends on it, only
    )

    def __init__(self, *, reduction: Reduction) -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"reduction={reduction!r} is unknown; allowed: {', '.join(get_args(Reduction))}")
        self.reduction: Reduction = reduction

    def positive(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a positive label at logit x, and its derivative: finite for every x, also an infinite one."""
        raise NotImplementedError

    def negative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a negative label at logit x, and its derivative: finite for every x, also an infinite one."""
        raise NotImplementedError

    def negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor) -> float:
        """Sum the negative term over x (n,) but for the indices `skip`, and write its derivative to `out`, 0 at `skip`.

        The hot path on the CPU; override it to work in place, with `work` (2, n) as scratch space. `out` may be `x`; if
        it isn't, `x` is read only.
        """
        loss, derivative = self.negative(x)
        out.copy_(derivative).index_fill_(0, skip, 0)
        return loss.index_fill_(0, skip, 0).sum().item()

    # The three terms as the pass calls them: `at` looks up what belongs to the class of each entry.

    def _positive(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return self.positive(x)

    def _negative(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return self.negative(x)

    def _negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor, at: At) -> float:
        return self.negative_sum_(x, skip, out, work)

    @property
    def by_class(self) -> bool:
        """Whether terms or weights differ between classes."""
        return type(self).adjust is not PerLabelLoss.adjust

    def compile(self) -> None:
        """Let torch.compile make one kernel of the pass: several times faster where there are thousands of classes.

        Takes a C++ compiler on the CPU, Triton on an accelerator, and some seconds at the first call.
        """
        self.compiled = True

    def _selected(self, x: Tensor, y: Tensor, at: At, finite: bool) -> tuple[Tensor, Tensor]:
        """The positive term where y is 1, the negative one where it is 0.

        Both may be NaN where x is infinite, if it is called as `finite`.
        """
        pairs = zip(self._positive(x, at), self._negative(x, at), strict=True)
        value, derivative = (torch.where(y > 0, a, b) for a, b in pairs)
        return value, derivative

    def constants(self, device: torch.device, dtype: torch.dtype, classes: int) -> tuple[Tensor, ...]:
        """What `adjust` takes from the training statistics, none of which belongs into a compiled loop over entries."""
        return ()

    def adjust(self, targets: Targets) -> Adjustment | None:
        """Weights of the entries and offsets of the logits of a batch with these targets; None for neither."""
        return None

    def weighted_negative_sum_(self, x: Tensor, weight: Tensor, work: Tensor) -> float:
        """Sum weight * negative term over x (n,), and replace x by the derivative of that.

        The hot path on the CPU where there is an adjustment; override it to work in place, with `weight` (n,) and
        `work` (n,) as scratch space. x has its offset already.
        """
        loss, derivative = self.negative(x)
        torch.mul(derivative, weight, out=x)
        return weight.mul_(loss).sum().item()  # torch.dot is less accurate

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        check_shapes(logits, targets)
        if torch.is_grad_enabled() and logits.requires_grad:
            return Fused.apply(logits, targets, self)
        return evaluate(self, logits.detach(), targets, with_grad=False).loss

    def extra_repr(self) -> str:
        return ", ".join(
            f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_") and name != "training"
        )


class PerClassLoss(PerLabelLoss):
    """Base of losses whose terms hold constants of the class: margins, offsets, weights, exponents.

    A subclass keeps them as buffers (C,) and states the terms as in `PerLabelLoss`, with one more argument:
    ``at(buffer)`` broadcasts with x and has its dtype. Entries come as whole rows (R, C) or picked out (k,).

    Args:
        num_classes: C, to which logits are held.
        reduction: see `PerLabelLoss`.

    Raises:
        ValueError: as `PerLabelLoss`, and logits of another number of classes.
    """

    def __init__(self, *, num_classes: int, reduction: Reduction) -> None:
        super().__init__(reduction=reduction)
        self.num_classes = num_classes

    @property
    def by_class(self) -> bool:
        return True

    def class_positive(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """As `positive`; x (R, C) or (k,)."""
        raise NotImplementedError

    def class_negative(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        """As `negative`; x (R, C) or (k,)."""
        raise NotImplementedError

    def class_negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor, at: At) -> float:
        """As `negative_sum_`, of the flat indices `skip`; x and `out` (R, C), `work` (2, R, C)."""
        loss, derivative = self.class_negative(x, at)
        out.copy_(derivative).view(-1).index_fill_(0, skip, 0)
        return loss.view(-1).index_fill_(0, skip, 0).sum().item()

    def _positive(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return self.class_positive(x, at)

    def _negative(self, x: Tensor, at: At) -> tuple[Tensor, Tensor]:
        return self.class_negative(x, at)

    def _negative_sum_(self, x: Tensor, skip: Tensor, out: Tensor, work: Tensor, at: At) -> float:
        shape = (-1, self.num_classes)
        return self.class_negative_sum_(x.view(shape), skip, out.view(shape), work.view(2, *shape), at)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.dim() == 2 and logits.shape[1] != self.num_classes:
            raise ValueError(f"logits {tuple(logits.shape)} have to be of the loss's {self.num_classes} classes")
        return super().forward(logits, targets)


def check_shapes(logits: Tensor, targets: Tensor) -> None:
    """Refuse what is no batch of logits (B, C) with targets of the same shape, with a ValueError."""
    if logits.dim() != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be a floating tensor (B, C), got {logits.dtype} {tuple(logits.shape)}")
    if targets.shape != logits.shape:
        raise ValueError(
            f"targets {tuple(targets.shape)} and logits {tuple(logits.shape)} must have the same shape (B, C); "
            "class indices have to be turned into a 0/1 matrix first"
        )
    if targets.requires_grad:
        raise ValueError("targets require a gradient, which this loss does not give them: pass targets.detach()")
    if targets.is_complex():
        raise ValueError(f"targets must be real numbers, got {targets.dtype}")
