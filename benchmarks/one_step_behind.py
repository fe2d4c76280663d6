"""A training step for which the host does not wait, to measure what the wait of `TrainStep` costs.

`TrainStep` reads loss and gradient norm before it starts the optimizer, so the device idles until the host has started
the optimizer's kernels and the next forward pass. Here the device decides itself: fused Adam, AdamW and SGD change
nothing where their attribute `found_inf` is 1. The host reads the figures of a step once it has started the next one.

It is no part of mltrain, because more than this class depends on the order of a step. docs/design.md says what a
training with it would have to keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from mltrain.engine.step import TrainStep
from mltrain.errors import NonFiniteError
from mltrain.optim import schedules
from mltrain.pipeline.batch import Batch


class OneStepBehind:
    """The parts of a `TrainStep` of one process without loss scaling, in an order without a wait."""

    def __init__(self, parts: TrainStep) -> None:
        if parts.dist.world_size > 1 or parts.scaler is not None:
            raise ValueError("for one process and for bf16 or fp32")
        if not all(group.get("fused") for group in parts.optimizer.param_groups):
            raise ValueError("the optimizer must be fused: others look at no found_inf")
        self.parts = parts
        self.unread: tuple[int, torch.Tensor, torch.cuda.Event | None] | None = None

    def __call__(self, step: int, batches: Sequence[Batch]) -> tuple[float, float] | None:
        """Start a step; return loss and gradient norm of the one before, None at the first.

        Raises:
            NonFiniteError: the step before was not finite. Neither it nor this one has changed a weight.
        """
        parts = self.parts
        schedules.apply(parts.optimizer, parts.schedule, step)
        total = parts._accumulate(step, batches)
        norm = parts._gradient_norm()
        figures = torch.stack((total, norm.to(total.dtype)))
        refused = figures.isfinite().logical_not().any().float()
        if self.unread is not None:  # what follows a refused step is refused, too
            refused = torch.maximum(refused, parts.optimizer.found_inf)  # type: ignore[attr-defined]
        parts.optimizer.found_inf = refused  # type: ignore[attr-defined]
        parts.optimizer.step()
        parts.optimizer.zero_grad(set_to_none=True)
        if parts.ema is not None:
            parts.ema.update()
        before, self.unread = self.unread, self._to_host(step, figures)
        return None if before is None else self._read(*before)

    def finish(self) -> tuple[float, float] | None:
        """Read the last step, as before an evaluation or a checkpoint, and leave the optimizer as it was."""
        last, self.unread = self.unread, None
        if last is None:
            return None
        del self.parts.optimizer.found_inf  # type: ignore[attr-defined]
        return self._read(*last)

    def _to_host(self, step: int, figures: torch.Tensor) -> tuple[int, torch.Tensor, torch.cuda.Event | None]:
        if figures.device.type != "cuda":
            return step, figures, None
        host = torch.empty(2, dtype=figures.dtype, pin_memory=True)
        host.copy_(figures, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        return step, host, event

    def _read(self, step: int, figures: torch.Tensor, event: torch.cuda.Event | None) -> tuple[float, float]:
        if event is not None:
            event.synchronize()
        loss, norm = figures.tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(f"step {step}: loss {loss}, gradient norm {norm}; weights are as before it")
        return loss, norm
