"""The callbacks of a run: call each on the main rank, keep their states, and name the one that fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from mltrain.callbacks import Callback, Stop, TrainingView
from mltrain.engine.distributed import Distributed
from mltrain.engine.evaluator import Evaluation
from mltrain.engine.run_folder import RAW
from mltrain.engine.shard import SpreadModel
from mltrain.errors import ConfigError, Interrupted, MltrainError, described

logger = logging.getLogger(__name__)

_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Named:
    """A callback with its place in the config."""

    key: str
    """callbacks.0"""
    target: str
    """class or function that made it"""
    callback: Callback
    may_stop: bool
    """it counts for the run's identity, so it may end the training"""

    def __str__(self) -> str:
        return f"{self.key} ({self.target})"


class Callbacks:
    """All callbacks of a run, in the order of the config.

    Attributes:
        stopped: why the training ends early: the callback and its reason; the same on every rank after `stop_together`.
    """

    def __init__(self, items: Sequence[Named] = ()) -> None:
        self.items = list(items)
        self.stopped: str | None = None
        self._loss: float | None = None

    def at(self, point: str, run: Any, **now: Any) -> None:
        """Call the method `point` of those that define it, on the main rank.

        Args:
            point: start, step, evaluation or end.
            run: the `Runner`.
            now: `loss` of a step, `evaluation`, `result`; see `training_view`.

        Raises:
            MltrainError: a callback failed; the message has its name, and the line of its code.
        """
        self._loss = now.pop("loss", self._loss)
        items = [item for item in self.items if getattr(type(item.callback), point) is not getattr(Callback, point)]
        if not (items and run.dist.is_main):
            return
        view, training = training_view(run, self._loss, **now), run.model.training
        for item in items:
            answer = self._call(item, point, view)
            if isinstance(answer, Stop) and self.stopped is None:
                self._stop(item, answer)
            elif answer is not None and not isinstance(answer, Stop):
                raise MltrainError(f"{item}: {point}() returned {answer!r:.100}; it returns None, or Stop(REASON)")
        if run.model.training is not training:  # a callback has looked at predictions
            run.model.train(training)
        if point == "start":
            self.state_dict()  # refuses now what a checkpoint could not keep

    def _stop(self, item: Named, answer: Stop) -> None:
        if not item.may_stop:
            raise MltrainError(
                f"{item}: it asks to end the training ({answer.reason}), which changes the result, so it must count "
                "for the run's identity: give it in callbacks=[...]"
            )
        self.stopped = f"{item}: {answer.reason}"
        logger.info("the training ends after this epoch, as asked by %s", self.stopped)

    def _call(self, item: Named, method: str, *arguments: Any) -> Any:
        try:
            return getattr(item.callback, method)(*arguments)
        except Interrupted:
            raise
        except Exception as error:
            raise MltrainError(f"{item} failed in {method}(): {described(error)}") from error

    def stop_together(self, dist: Distributed) -> bool:
        """Return on every rank whether a callback has asked to end the training."""
        if self.items:
            self.stopped = dist.broadcast(self.stopped)
        return self.stopped is not None

    def state_dict(self) -> dict[str, Any] | None:
        """Return the states and `stopped`, for a checkpoint; None without callbacks.

        Raises:
            ConfigError: a state holds what a checkpoint cannot keep.
        """
        if not self.items:
            return None
        states = []
        for item in self.items:
            state = self._call(item, "state_dict")
            problem = _not_plain(state)
            if problem is not None:
                raise ConfigError(
                    f"{item}: state_dict(){problem}; a checkpoint keeps dicts and lists of numbers, text, None and "
                    "tensors: convert it with float(), list() or torch.as_tensor()"
                )
            states.append([item.target, state])
        return {"states": states, "stopped": self.stopped}

    def load_state_dict(self, content: dict[str, Any] | None) -> None:
        """Give the states of a checkpoint to the callbacks of the same class, in their order; say where one is missing.

        None is the content of a run that had no callbacks.
        """
        content = content or {"states": [], "stopped": None}
        self.stopped = content["stopped"]
        waiting = [(target, state) for target, state in content["states"] if state]
        for item in self.items:
            found = next((pair for pair in waiting if pair[0] == item.target), None)
            if found is not None:
                waiting.remove(found)
                self._call(item, "load_state_dict", found[1])
            elif self._call(item, "state_dict"):
                logger.warning("%s: the checkpoint has no state of it, so it begins anew here", item)
        for target, _ in waiting:
            logger.warning("%s: the checkpoint has a state of this callback, which is no longer given", target)


def training_view(
    run: Any, loss: float | None, *, evaluation: Evaluation | None = None, result: dict[str, Any] | None = None
) -> TrainingView:
    """Return what callbacks are shown of a `Runner`, with the last loss, and the evaluation or result of this point."""
    evaluated: dict[str, Any] = next((record for record in reversed(run.history) if RAW in record), {})
    kept = None if evaluation is None else evaluation.predictions
    unseen: Any = SpreadModel() if run.train_step.sharded else None
    return TrainingView(
        folder=run.folder,
        config=MappingProxyType(run.config),
        class_names=run.stats.class_names,
        stats=run.stats,
        step=run.step,
        total_steps=run.total_steps,
        epoch=-(-run.step // run.steps_per_epoch),
        epochs=run.epochs,
        loss=loss,
        lr=run.train_step.optimizer.param_groups[0]["lr"],
        model=unseen or run.model,
        ema_model=None if run.ema is None else unseen or run.ema.module,
        metrics={name: dict(evaluated[name]) for name in run.models() if name in evaluated},
        best=dict(run.best),
        logits=None if kept is None else kept.logits,
        targets=None if kept is None else kept.targets,
        result=result,
    )


def _not_plain(value: Any, place: str = "") -> str | None:
    """Return where a state holds what loading with `weights_only=True` refuses, and what it is; None if nowhere."""
    if not place and not isinstance(value, dict):
        return f" is {type(value).__name__}, not a dict"
    if type(value) in _PLAIN or isinstance(value, torch.Tensor):
        return None
    if isinstance(value, dict):
        odd = next((key for key in value if type(key) not in _PLAIN), None)
        if odd is not None:
            return f"{place} has the key {odd!r}"
        pairs = [(f"{place}[{key!r}]", inner) for key, inner in value.items()]
    elif type(value) in (list, tuple):
        pairs = [(f"{place}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return f"{place} is {type(value).__module__}.{type(value).__qualname__}"
    return next((text for text in (_not_plain(inner, here) for here, inner in pairs) if text is not None), None)
