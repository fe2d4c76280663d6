"""One optimizer step: micro-batches in, updated weights and EMA out."""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mltrain.engine.seeding import generator_for, seed_step
from mltrain.errors import NonFiniteError
from mltrain.losses import PerLabelLoss
from mltrain.optim import schedules

if TYPE_CHECKING:
    from mltrain.engine.distributed import Distributed
    from mltrain.optim.ema import ModelEma
    from mltrain.optim.schedules import Schedule

# A loss scale below this has overflowed in every recent step: no longer the scaler at work but a diverged model.
MIN_LOSS_SCALE = 2.0**-10


class MicroBatch(Protocol):
    """What the step reads of `mltrain.pipeline.batch.Batch`."""

    @property
    def images(self) -> torch.Tensor: ...

    @property
    def targets(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class StepResult:
    """What a step reports; the same on every rank."""

    loss: float
    """the loss of the whole global batch, as its reduction defines it"""
    grad_norm: float
    """L2 norm of all gradients before clipping"""
    signum: int | None
    """a signal that some rank has received"""


class TrainStep:
    """Forward, backward, checks, optimizer and EMA.

    The gradients are those of one big batch, however it is cut into micro-batches and ranks: each part is weighted by
    what the loss's `reduction` says (`_weights`). DistributedDataParallel averages over ranks, so each weight also
    carries the world size.

    A step reads the device once: loss, gradient norm and the ranks' stop signals come back together, before the
    optimizer moves, so that a loss or gradient that is not finite leaves the weights as they were.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        ema: ModelEma | None,
        mix: Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]] | None,
        dist: Distributed,
        seed: int,
        amp_dtype: torch.dtype | None = None,
        clip_grad_norm: float | None = None,
        channels_last: bool = True,
        compile_model: bool = False,
        compile_loss: bool = False,
    ) -> None:
        self.loss, self.optimizer, self.schedule, self.ema, self.mix = loss, optimizer, schedule, ema, mix
        self.dist, self.seed = dist, seed
        self.amp_dtype, self.clip_grad_norm = amp_dtype, clip_grad_norm
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.scaler = torch.amp.GradScaler(dist.device.type) if amp_dtype is torch.float16 else None
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        forward: nn.Module = torch.compile(model) if compile_model else model  # type: ignore[assignment]
        for part in loss.modules() if compile_loss else ():
            if isinstance(part, PerLabelLoss):  # the losses that compiling is tested for; a loss may hold several
                part.compile(required=compile_model)
        if dist.world_size > 1:
            device_ids = [dist.device.index] if dist.device.type == "cuda" else None
            forward = DistributedDataParallel(forward, device_ids=device_ids, gradient_as_bucket_view=True)
        self.forward_model = forward

    def __call__(self, step: int, batches: Sequence[MicroBatch], signum: int | None = None) -> StepResult:
        """Run optimizer step `step` (counted over the whole run) on this rank's micro-batches.

        Raises:
            NonFiniteError: on all ranks alike, with weights, optimizer and EMA as before the step.
        """
        schedules.apply(self.optimizer, self.schedule, step)
        total = self._accumulate(step, batches)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        result = self._agree(total, norm, signum)
        self._refuse_non_finite(result, step)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end_step = getattr(self.loss, "end_step", None)  # of a loss that follows the training
        if end_step is not None:
            end_step(self.dist.all_reduce_sum)
        # Where loss scaling has met an infinite gradient, the scaler left the weights as they were.
        if self.ema is not None and math.isfinite(result.grad_norm):
            self.ema.update()
        return result

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss, where it asks, that an epoch (counted from 0) begins or goes on."""
        set_epoch = getattr(self.loss, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def _accumulate(self, step: int, batches: Sequence[MicroBatch]) -> torch.Tensor:
        total = None
        # A micro-batch is empty where all its images were corrupt and left out; its place still counts as a key.
        weights = self._weights(batches)
        filled = [micro for micro, batch in enumerate(batches) if len(batch.targets)]
        for micro in filled:
            batch, weight = batches[micro], weights[micro]
            seed_step(self.seed, step, micro, self.dist.rank)
            with self._sync_gradients(micro == filled[-1]):
                logits, targets = self._forward(batch, step, micro)
                loss = self.loss(logits, targets)
                loss = loss if weight == 1.0 else loss * weight
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None, "a step needs at least one image on each rank"
        return total

    def _forward(self, batch: MicroBatch, step: int, micro: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.dist.device
        images = batch.images.to(device, non_blocking=True, memory_format=self.memory_format)
        targets = batch.targets.to(device, non_blocking=True)
        if self.mix is not None:
            images, targets = self.mix(images, targets, mix_generator(self.seed, step, micro, self.dist.rank))
        with torch.autocast(device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            logits = self.forward_model(images)
        return logits, targets

    def _weights(self, batches: Sequence[MicroBatch]) -> list[float]:
        """Weight of each micro-batch's loss, so that the averaged gradients are those of the global batch."""
        reduction = getattr(self.loss, "reduction", "batchmean")
        world = self.dist.world_size
        if reduction == "sum":
            return [float(world)] * len(batches)
        if len(batches) == world == 1:
            return [1.0]
        count = getattr(self.loss, "divisor", _known) if reduction == "mean" else len
        counts = [float(count(batch.targets)) for batch in batches]
        total = self.dist.all_reduce_sum(torch.tensor(sum(counts), dtype=torch.float64)).item()
        return [part * world / max(total, 1.0) for part in counts]  # 0 where every target is unknown: so is the loss

    def _sync_gradients(self, last: bool) -> contextlib.AbstractContextManager[None]:
        if last or not isinstance(self.forward_model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.forward_model.no_sync()

    def _gradient_norm(self) -> torch.Tensor:
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad_norm, norm)
        return norm

    def _agree(self, total: torch.Tensor, norm: torch.Tensor, signum: int | None) -> StepResult:
        world = self.dist.world_size
        if world == 1:
            loss, grad_norm = torch.stack((total, norm.to(total.dtype))).tolist()
            return StepResult(loss, grad_norm, signum)
        # Gradients, and so their norm, are equal on all ranks; a loss that is not finite on one spreads by the sum.
        signals = torch.tensor([signum == signal.SIGTERM, signum == signal.SIGINT], device=total.device)
        values = torch.cat((torch.stack((total, norm)).double() / world, signals.double()))
        loss, grad_norm, terms, interrupts = self.dist.all_reduce_sum(values).tolist()
        agreed = signal.SIGTERM if terms else signal.SIGINT if interrupts else None
        return StepResult(loss, grad_norm, agreed)

    def _refuse_non_finite(self, result: StepResult, step: int) -> None:
        # With loss scaling an infinite gradient is the scaler's business: it skips the step and lowers the scale.
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            return
        if math.isfinite(result.loss) and self.scaler is not None:
            scale = self.scaler.get_scale()  # waits for the device: asked for after an overflow only
            if scale >= MIN_LOSS_SCALE:
                return
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(f"step {step}: fp16 gradients overflow at every loss scale down to {scale:.1e}")
        self.optimizer.zero_grad(set_to_none=True)
        what = "the loss" if not math.isfinite(result.loss) else "the gradient norm"
        value = result.loss if not math.isfinite(result.loss) else result.grad_norm
        raise NonFiniteError(
            f"step {step}: {what} is {value}; stopped before the optimizer step, weights are unchanged"
        )


def mix_generator(seed: int, step: int, micro: int = 0, rank: int = 0) -> torch.Generator:
    """What the mixing of a micro-batch of optimizer step `step` (of the whole run) draws from."""
    return generator_for(seed, "mix", step, micro, rank)


def _known(targets: torch.Tensor) -> int:
    return int((targets >= 0).sum())
