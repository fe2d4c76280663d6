"""The training loop.

    fit:  restore -> (train an epoch -> evaluate raw and EMA weights -> keep the best -> save)* -> outcome

All randomness is a function of (seed, step), and the input of (seed, epoch). So the number of optimizer steps is the
whole position of a run: a checkpoint holds that number, weights, EMA, optimizer and history, and a resumed run
continues bit for bit as if it had not stopped.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import torch

from mltrain.engine.callbacks import Callbacks
from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.curriculum import Curriculum
from mltrain.engine.distributed import Distributed
from mltrain.engine.evaluator import Evaluation, Inference, evaluate
from mltrain.engine.kept import KeptEpochs, Patience
from mltrain.engine.logging import Sinks
from mltrain.engine.nonfinite import dumped
from mltrain.engine.progress import Progress, epoch_line
from mltrain.engine.run_folder import NONFINITE
from mltrain.engine.shard import gathered, load_optimizer
from mltrain.engine.signals import StopSignal
from mltrain.engine.state import TrainingPosition, TrainState, named_models, read_best, repair_best
from mltrain.engine.step import StepResult, TrainStep
from mltrain.errors import CheckpointError, DataError, Interrupted, NonFiniteError
from mltrain.labels import LabelSet, LabelStats
from mltrain.metrics.summary import Summary
from mltrain.models.classifier import Classifier
from mltrain.optim.ema import ModelEma
from mltrain.pipeline.loader import Batch, EvalLoader, TrainLoader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Results of a finished run, on the main rank only."""

    result: dict[str, Any]
    validation: Evaluation
    test: Evaluation | None


@dataclass
class Runner:
    """A run: its parts, its settings and its position."""

    model: Classifier
    ema: ModelEma | None
    train_step: TrainStep
    train_loader: TrainLoader
    val_loader: EvalLoader
    test_loader: EvalLoader | None
    train_labels: LabelSet
    stats: LabelStats
    summarize: Callable[[torch.Tensor, torch.Tensor], Summary]
    dist: Distributed
    folder: Path
    config: dict[str, Any]
    sinks: Sinks
    progress: Progress
    epochs: int
    best_by: str = "map"
    """figure of the validation split that chooses epoch and weights; higher is better"""
    accumulate: int = 1
    max_steps: int | None = None
    evaluate_every: int = 1
    checkpoint_every_minutes: float = 10.0
    keep_best: int = 1
    keep_last: int = 0
    """how many checkpoints of the best, and of the last evaluated epochs are kept, see `KeptEpochs`"""
    patience: Patience = field(default_factory=Patience)
    log_every_steps: int = 10
    keep_predictions: bool = False
    curriculum: Curriculum | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    on_evaluation: Callable[..., None] | None = None
    """called on the main rank with each evaluation: (epoch, step, evaluation, last=...)"""

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    loss_sum: float = 0.0
    """of the steps since the last evaluation point"""

    def __post_init__(self) -> None:
        self.checkpoints = CheckpointFolder(self.folder)
        self.kept = KeptEpochs(self.checkpoints, self.best_by, self.keep_best, self.keep_last)
        self.stop = StopSignal()
        step, progress = self.train_step, self.progress.mode
        channels_last = step.memory_format is torch.channels_last
        self.inference = Inference(self.dist, step.amp_dtype, channels_last, self.stop, progress)
        self.train_loader.waiting.look = partial(self.stop.check_while_waiting, self.dist.world_size)
        self._clock = self._saved_at = time.monotonic()
        self._saved = False
        """True if last.pt has the current state"""

    # -- position ----------------------------------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in an epoch."""
        return self.train_loader.steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps in the whole run."""
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def epochs_at(self, step: int) -> int:
        """Return how many epochs are finished after `step` optimizer steps; a last, partial epoch counts as one."""
        return -(-step // self.steps_per_epoch) if step >= self.total_steps else step // self.steps_per_epoch

    # -- the loop ----------------------------------------------------------------------------------------------------

    def fit(self) -> Outcome | None:
        """Train to the end; return the outcome on the main rank, None on others.

        Raises:
            Interrupted: by SIGTERM, SIGINT or SIGHUP, after saving.
            NonFiniteError: before the step that would have damaged the weights; a dump names the images of the step.
            DataError: an image could not be read, or a worker of a loader was killed; after saving.
            MltrainError: the run folder was deleted.
        """
        try:
            with self.stop, self.progress, self.sinks:
                self._restore()
                try:
                    self.callbacks.at("start", self)
                    self._train()
                    return self._finish()
                finally:
                    self._close_loaders()
        except Interrupted as error:
            raise error.saved(self._saved) from None
        except FileNotFoundError:
            self.checkpoints.check_folder()
            raise

    def _train(self) -> None:
        try:
            self._evaluate_epoch()  # if the run was stopped between an epoch and its evaluation
            while self.step < self.total_steps and not self._ends_early():
                self._train_epoch()
                self._evaluate_epoch()
                self._save()
            if self.dist.broadcast(not self.best):  # it is lost, so the last weights are evaluated again and become it
                self._keep(self.epochs_at(self.step), self.evaluate(self.val_loader))
                self._saved = False
            if not self._saved:  # killed between the last evaluation and the save after it
                self._save()
        except (Interrupted, DataError) as error:  # both are raised between two steps, so the state is consistent
            if not self.train_step.sharded or getattr(error, "agreed", False):  # one rank alone has parts of it only
                self._save()
            raise

    def _ends_early(self) -> bool:
        """Return on every rank whether patience has run out, or a callback has asked to end the training."""
        asked = self.callbacks.stop_together(self.dist)
        return asked or (self.patience.evaluations is not None and self.dist.broadcast(bool(self._why_early())))

    def _why_early(self) -> str:
        """Say why the run ends before its last epoch; empty where it does not. Only the main rank knows figures."""
        why = self.callbacks.stopped or self.patience.why(self.history, self.best_by, self.epochs)
        return why if self.step < self.total_steps else ""

    def _train_epoch(self) -> None:
        epoch, start = divmod(self.step, self.steps_per_epoch)
        steps = min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)
        if self.curriculum is not None:
            self.curriculum.start_epoch(epoch, self.stop)
        self.model.train()
        self.train_step.set_epoch(epoch)
        self.progress.start_epoch(epoch, self.epochs, steps, start, self.total_steps - self.step)
        batches = iter(self.train_loader.epoch(epoch, start))
        for _ in range(start, steps):
            waited = time.perf_counter()
            group = self._next_group(batches)
            waited = time.perf_counter() - waited
            try:
                result = self.train_step(self.step, group, self.stop.signum)
            except NonFiniteError as error:
                raise self._dump(error, group) from None
            self.step += 1
            self._saved = False
            self.loss_sum += result.loss
            self._report_step(result, group, waited)
            self.callbacks.at("step", self, loss=result.loss)
            if result.signum is not None:
                at = f"step {self.step} of {self.total_steps}"
                raise Interrupted(f"stopped by {Signals(result.signum).name} after {at}", result.signum)
            due = 0 < 60 * self.checkpoint_every_minutes < time.monotonic() - self._saved_at
            if self.dist.broadcast(due) if self.train_step.sharded else due:  # to save parts takes all ranks
                self._save()

    def _next_group(self, batches: Iterator[Batch]) -> list[Batch]:
        """Take the micro-batches of one step from the loader."""
        group = list(itertools.islice(batches, self.accumulate))
        if not any(len(batch.indices) for batch in group):
            lines = "".join(f"\n  {line}" for batch in group for line in batch.corrupt)
            raise DataError(f"no image of a step could be decoded:{lines}\nFix them or remove them from the data set.")
        return group

    def _report_step(self, result: StepResult, group: list[Batch], waited: float) -> None:
        lr = self.train_step.optimizer.param_groups[0]["lr"]
        images = sum(len(batch.targets) for batch in group) * self.dist.world_size
        self.progress.update(loss=result.loss, lr=lr, images=images, waited=waited)
        if self.step % self.log_every_steps == 0 or self.step == self.total_steps:
            scalars = {"train/loss": result.loss, "train/lr": lr, "train/grad_norm": result.grad_norm}
            self.sinks.log(self.step, {**scalars, **self.progress.rates()})

    def _evaluate_epoch(self) -> None:
        """Evaluate the epoch that has just ended, unless the history has its evaluation already."""
        if self._is_evaluated():
            return
        self._saved = False
        epoch = self.epochs_at(self.step)
        trained = self.step - (epoch - 1) * self.steps_per_epoch
        record: dict[str, Any] = {"epoch": epoch, "step": self.step, "train_loss": self.loss_sum / trained}
        evaluation = None
        if epoch % self.evaluate_every == 0 or self.step == self.total_steps:
            evaluation = self.evaluate(self.val_loader)
            self._keep(epoch, evaluation)
            if evaluation is not None:
                record |= {name: summary.scalars for name, summary in evaluation.summaries.items()}
        self.loss_sum = 0.0
        self.history.append(record)
        flat = {"train/epoch_loss": record["train_loss"], "epoch": epoch}
        for name in self.models():
            flat |= {f"{name}/{key}": value for key, value in record.get(name, {}).items()}
        self.sinks.log(self.step, flat)
        if evaluation is not None:
            if self.on_evaluation is not None:
                ends = self.step == self.total_steps or bool(self._why_early())
                self.on_evaluation(epoch, self.step, evaluation, last=ends)
            self.callbacks.at("evaluation", self, evaluation=evaluation)
        self.progress.end_epoch(epoch_line(record, self.epochs, self.best_by))

    def _is_evaluated(self) -> bool:
        """Return whether no evaluation is due at this step, or the history has it."""
        epoch = self.epochs_at(self.step)
        inside = self.step != self.total_steps and self.step % self.steps_per_epoch != 0
        return inside or epoch == 0 or bool(self.history and self.history[-1]["epoch"] >= epoch)

    def models(self) -> dict[str, Classifier]:
        """Return the models that are evaluated, with raw and with EMA weights, by name."""
        return named_models(self.model, self.ema)

    def evaluate(self, loader: EvalLoader) -> Evaluation | None:
        """Evaluate the current raw and EMA weights; return None on ranks other than the main one."""
        return evaluate(self.models(), loader, self.summarize, self.inference, keep_all=self.keep_predictions)

    def _keep(self, epoch: int, evaluation: Evaluation | None) -> None:
        """Write best.pt if this evaluation is better than all before, and a file of the epoch if it is one to keep."""
        state, by = self._state(), self.best_by
        if evaluation is None:
            return
        weights = evaluation.best(by)
        score = evaluation.summaries[weights].scalars[by]
        found = {"epoch": epoch, "step": self.step, "weights": weights, "by": by, by: score}
        is_best = not self.best or score > self.best[by]
        if is_best:
            self.best = found
        self.checkpoints.check_folder()
        self.kept.save(replace(state, best=found), self.history, is_best=is_best)

    def _finish(self) -> Outcome | None:
        """Evaluate the best weights again, so that the reported figures are those of `best.pt`."""
        self.dist.barrier()  # the main rank writes best.pt
        read_best(self.folder).restore(self.model, self.ema)
        validation = self.evaluate(self.val_loader)
        test = self.evaluate(self.test_loader) if self.test_loader is not None else None
        corrupt = [line for lines in self.dist.all_gather_objects(list(self.train_loader.corrupt)) for line in lines]
        if validation is None:
            return None
        self._tick()
        result: dict[str, Any] = {k: summary.scalars for k, summary in validation.summaries.items()}
        if test is not None:
            result["test"] = {k: summary.scalars for k, summary in test.summaries.items()}
        result |= {
            "best": self.best,
            "last": {k: self.history[-1][k] for k in self.models() if k in self.history[-1]},
            "epochs": self.epochs_at(self.step),
            "steps": self.step,
            "seconds": round(self.seconds, 2),
            "images_per_second": self.progress.mean_rate(),
            "corrupt_images": list(dict.fromkeys(corrupt)),
        }
        result |= {"ended_early": why} if (why := self._why_early()) else {}
        self.callbacks.at("end", self, evaluation=validation, result=result)
        self.sinks.finish(result, validation)
        return Outcome(result, validation, test)

    # -- state -------------------------------------------------------------------------------------------------------

    def _state(self) -> TrainState:
        """Return the current weights as the content of a checkpoint; every rank has to call it, for its parts."""
        return TrainState(
            model=gathered(self.model.state_dict(), self.dist),
            ema=None if self.ema is None else gathered(self.ema.state_dict(), self.dist),
            class_names=self.stats.class_names,
            stats=self.stats,
            best=self.best,
            config=self.config,
            step=self.step,
        )

    def _save(self) -> None:
        self._tick()
        self._saved_at = time.monotonic()
        self._saved = True
        state, optimizer = self._state(), gathered(self.train_step.optimizer.state_dict(), self.dist)
        if not self.dist.is_main:
            return
        self.checkpoints.check_folder()
        self.sinks.flush()
        scaler = self.train_step.scaler
        position = TrainingPosition(
            optimizer=optimizer,
            scaler=None if scaler is None else scaler.state_dict(),
            loss=self.train_step.loss.state_dict(),
            history=self.history,
            seconds=self.seconds,
            loss_sum=self.loss_sum,
            corrupt=list(self.train_loader.corrupt),
            curriculum=None if self.curriculum is None else self.curriculum.state_dict(),
            callbacks=self.callbacks.state_dict(),
        )
        self.checkpoints.save(replace(state, position=position).to_dict(), "last")
        self.kept.prune(self.history)

    def _restore(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        content = self.checkpoints.load_last(start_over=bool(self.config.get("rerun")))
        state = None if content is None else TrainState.from_dict(content, self.folder)
        steps = self.dist.all_gather_objects(None if state is None else state.step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"{self.folder}: the processes found checkpoints of different steps, by rank {steps}; "
                "paths.runs must be a folder that all machines share"
            )
        if state is None:
            self.sinks.resume(0)
            return
        self._saved = self.checkpoints.last_is_intact
        position = state.position
        if position is None:
            raise CheckpointError(f"{self.folder}: last.pt has weights only; rerun=true starts over")
        state.check_classes(self.stats.class_names, self.folder)
        state.restore(self.model, self.ema)
        load_optimizer(self.train_step.optimizer, position.optimizer)
        if position.loss is not None:
            self.train_step.loss.load_state_dict(position.loss)
        if self.train_step.scaler is not None and position.scaler is not None:
            self.train_step.scaler.load_state_dict(position.scaler)
        self.train_loader.corrupt.update(dict.fromkeys(position.corrupt))
        if self.curriculum is not None:
            assert position.curriculum is not None, "curriculum and checkpoint belong to the same config"
            self.curriculum.load_state_dict(position.curriculum)
        self.callbacks.load_state_dict(position.callbacks)
        self.step, self.best, self.history = state.step, state.best, position.history
        self.seconds, self.loss_sum = position.seconds, position.loss_sum
        if self.dist.is_main and self.best and not repair_best(self.checkpoints, state):
            self.best, self._saved = {}, False
        if self.dist.is_main:
            self.kept.restore(self.history)
        self.sinks.resume(self.step, evaluated=self._is_evaluated())
        logger.info("resumed at step %d of %d", self.step, self.total_steps)

    def _dump(self, error: NonFiniteError, group: list[Batch]) -> NonFiniteError:
        """Write what one needs to analyse a step that was not finite, and add the file to the error."""
        images = [self.train_labels.path(int(i)) for batch in group for i in batch.indices]
        file = self.folder / NONFINITE.format(rank=self.dist.rank)
        return dumped(error, file, self.step, self.train_step.optimizer, images, self.config)

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now

    def _close_loaders(self) -> None:
        for loader in (self.train_loader, self.val_loader, self.test_loader):
            if loader is not None:
                loader.close()
