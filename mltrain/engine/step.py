"""One optimizer step: micro-batches in, updated weights and EMA out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mltrain.engine.distributed import Distributed
from mltrain.engine.signals import from_flags, to_flags
from mltrain.engine.teacher import Teacher
from mltrain.errors import DataError, MltrainError, NonFiniteError, described
from mltrain.losses import PerLabelLoss
from mltrain.losses.base import knows_unknown
from mltrain.optim import schedules
from mltrain.optim.ema import ModelEma
from mltrain.optim.schedules import Schedule
from mltrain.optim.shards import is_sharded, own_part
from mltrain.pipeline.batch import Batch, to_device
from mltrain.seeding import generator_for, seed_step

# A loss scale below this has overflowed in every recent step: the model has diverged, and no scale will help.
MIN_LOSS_SCALE = 2.0**-10


@dataclass(frozen=True)
class StepResult:
    """The report of a step, the same on every rank."""

    loss: float
    """the loss of the whole global batch, as its reduction defines it"""
    grad_norm: float
    """L2 norm of all gradients before clipping"""
    signum: int | None
    """a signal that some rank has received"""


@dataclass(kw_only=True, eq=False)
class TrainStep:
    """Forward, backward, checks, optimizer and EMA.

    The gradients are those of one big batch, however it is cut into micro-batches and ranks: the loss's `reduction`
    determines the weight of each part (`_weights`). DistributedDataParallel averages over ranks, as FSDP2 does, so each
    weight also contains the world size. A sharded model adds up its parts of the gradients at each micro-batch.

    A step waits for the device once: loss, gradient norm and the ranks' stop signals are read together, before the
    optimizer step, so that a loss or gradient that is not finite leaves the weights unchanged.
    """

    model: nn.Module
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: ModelEma | None
    mix: Callable[[torch.Tensor, torch.Tensor, torch.Generator], tuple[torch.Tensor, torch.Tensor]] | None
    dist: Distributed
    seed: int
    amp_dtype: torch.dtype | None = None
    clip_grad_norm: float | None = None
    channels_last: bool = True
    compile_model: bool = False
    compile_loss: bool = False
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        # Losses of other packages, such as torch.nn.BCEWithLogitsLoss, want targets of the type of the logits.
        self.float_targets = not knows_unknown(self.loss)
        self.memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        device = self.dist.device
        self.scaler = torch.amp.GradScaler(device.type) if self.amp_dtype is torch.float16 else None
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        forward: nn.Module = torch.compile(self.model) if self.compile_model else self.model  # type: ignore[assignment]
        for part in self.loss.modules() if self.compile_loss else ():
            if isinstance(part, PerLabelLoss):  # the losses that compiling is tested for; a loss may hold several
                part.compile(required=self.compile_model)
        self.sharded = is_sharded(self.model)
        if self.dist.world_size > 1 and not self.sharded:
            device_ids = [device.index] if device.type == "cuda" else None
            forward = DistributedDataParallel(forward, device_ids=device_ids, gradient_as_bucket_view=True)
        self.forward_model = forward

    def __call__(self, step: int, batches: Sequence[Batch], signum: int | None = None) -> StepResult:
        """Run optimizer step `step` (counted over the whole run) on this rank's micro-batches.

        Raises:
            NonFiniteError: on all ranks, with weights, optimizer and EMA as before the step.
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
        end_step = getattr(self.loss, "end_step", None)  # for losses whose state follows the training
        if end_step is not None:
            end_step(self.dist.all_reduce_sum)
        # If loss scaling has met an infinite gradient, the scaler has skipped the step: there is nothing to average.
        if self.ema is not None and math.isfinite(result.grad_norm):
            self.ema.update()
        return result

    def set_epoch(self, epoch: int) -> None:
        """Tell a loss that has `set_epoch` which epoch (counted from 0) begins or continues."""
        set_epoch = getattr(self.loss, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def _accumulate(self, step: int, batches: Sequence[Batch]) -> torch.Tensor:
        total = None
        # A micro-batch is empty if all its images were corrupt and left out; it keeps its number in the random key.
        weights = self._weights(batches)
        teacher_weights = [] if self.teacher is None else self._weights(batches, count=len)
        filled = [micro for micro, batch in enumerate(batches) if len(batch.targets)]
        for micro in filled:
            batch, weight = batches[micro], weights[micro]
            seed_step(self.seed, step, micro, self.dist.rank)
            with self._sync_gradients(micro == filled[-1]):
                images, targets = self._inputs(batch, step, micro)
                logits = self._forward(images, step)
                if self.float_targets:
                    logits = logits.float()
                    targets = targets.to(logits.dtype)
                loss = self._loss_of(logits, targets)
                loss = loss if weight == 1.0 else loss * weight
                if self.teacher is not None:
                    loss = loss + teacher_weights[micro] * self._divergence(self.teacher, images, logits)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None, "a step needs at least one image on each rank"
        return total

    def _loss_of(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not self.float_targets:
            return self.loss(logits, targets)
        try:
            loss: torch.Tensor = self.loss(logits, targets)
        except Exception as error:
            raise MltrainError(f"loss ({type(self.loss).__qualname__}) failed: {described(error)}") from error
        if not isinstance(loss, torch.Tensor) or loss.ndim:
            shape = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise MltrainError(
                f"loss ({type(self.loss).__qualname__}) returned {shape} for logits {tuple(logits.shape)}; training "
                "needs a tensor of one number, e.g. .sum(1).mean()"
            )
        return loss

    def _inputs(self, batch: Batch, step: int, micro: int) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.dist.device
        images = to_device(batch.images, device, self.memory_format)
        targets = batch.targets.to(device, non_blocking=True)
        if self.mix is not None:
            images, targets = self.mix(images, targets, mix_generator(self.seed, step, micro, self.dist.rank))
        return images, targets

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.dist.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def _divergence(self, teacher: Teacher, images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        with self._autocast():
            return teacher.loss(images, logits, getattr(self.loss, "reduction", "batchmean"))

    def _forward(self, images: torch.Tensor, step: int) -> torch.Tensor:
        try:
            with self._autocast():
                return self.forward_model(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise DataError(
                f"step {step}: a batch of one image has no variance at a batch-norm layer whose map is 1 x 1. Each "
                "process needs at least two images in each part of a step: raise runner.batch_size (it is over all "
                "processes), lower runner.accumulate, train on more images, or use a larger model.image_size"
            ) from error

    def _weights(self, batches: Sequence[Batch], count: Callable[..., int] | None = None) -> list[float]:
        """Return the weight of each micro-batch's loss that makes the averaged gradients those of the global batch.

        `count` counts what a mean of a micro-batch is over; by default what the loss's own mean is over.
        """
        reduction = getattr(self.loss, "reduction", "batchmean")
        world = self.dist.world_size
        if reduction == "sum":
            return [float(world)] * len(batches)
        if len(batches) == world == 1:
            return [1.0]
        of_loss = getattr(self.loss, "divisor", _known) if reduction == "mean" else len
        count = of_loss if count is None else count
        counts = [float(count(batch.targets)) for batch in batches]
        total = self.dist.all_reduce_sum(torch.tensor(sum(counts), dtype=torch.float64)).item()
        return [part * world / max(total, 1.0) for part in counts]  # 0 if every target is unknown; the loss is 0 too

    def _sync_gradients(self, last: bool) -> contextlib.AbstractContextManager[None]:
        if last or not isinstance(self.forward_model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.forward_model.no_sync()

    def _gradient_norm(self) -> torch.Tensor:
        grads = [own_part(p.grad) for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.sharded:
            norm = self.dist.all_reduce_sum(norm.double().square()).sqrt().to(norm.dtype)
        if self.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad_norm, norm)
        return norm

    def _agree(self, total: torch.Tensor, norm: torch.Tensor, signum: int | None) -> StepResult:
        world = self.dist.world_size
        if world == 1:
            loss, grad_norm = torch.stack((total, norm.to(total.dtype))).tolist()
            return StepResult(loss, grad_norm, signum)
        # Gradients, and so their norm, are equal on all ranks; a non-finite loss of one rank makes the sum non-finite.
        flags = torch.tensor(to_flags(signum), device=total.device)
        values = torch.cat((torch.stack((total, norm)).double() / world, flags.double()))
        loss, grad_norm, *sums = self.dist.all_reduce_sum(values).tolist()
        return StepResult(loss, grad_norm, from_flags(sums))

    def _refuse_non_finite(self, result: StepResult, step: int) -> None:
        # With loss scaling the scaler handles an infinite gradient: it skips the step and lowers the scale.
        if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
            return
        if math.isfinite(result.loss) and self.scaler is not None:
            scale = self.scaler.get_scale()  # waits for the device, so only after an overflow
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
    """Return the generator that mixes a micro-batch of optimizer step `step`, counted over the whole run."""
    return generator_for(seed, "mix", step, micro, rank)


def _known(targets: torch.Tensor) -> int:
    return int((targets >= 0).sum())
