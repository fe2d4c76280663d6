"""Base class of callbacks, and what they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mltrain.labels import LabelStats


@dataclass(frozen=True)
class Stop:
    """Request to end the training after the epoch that runs; a callback returns it."""

    reason: str


@dataclass(frozen=True)
class TrainingView:
    """A training at one point, for a callback to read.

    The models are the live ones, so a callback must not change them. It may switch them to evaluation mode.
    """

    folder: Path
    """run folder; a callback may write files of its own there"""
    config: Mapping[str, Any]
    """the checked config, as config.yaml has it"""
    class_names: tuple[str, ...]
    stats: LabelStats
    """of the training labels"""
    step: int
    """optimizer steps done; above 0 at the start of a training that is resumed"""
    total_steps: int
    epoch: int
    """epoch of the last step, from 1; 0 before the first step"""
    epochs: int
    loss: float | None
    """loss of the last step, over the whole batch of all ranks; None before the first step of this start"""
    lr: float
    """learning rate of the last step, of the first parameter group"""
    model: nn.Module
    """`Classifier`: images (B, 3, H, W) of 0..255 -> logits (B, C)"""
    ema_model: nn.Module | None
    """the same with averaged weights; None with ema=none"""
    metrics: Mapping[str, Mapping[str, float]]
    """figures of the latest evaluation of the validation split: `metrics["val"]["map"]` of the raw weights,
    `metrics["ema"]` of the averaged ones; empty before the first evaluation"""
    best: Mapping[str, Any]
    """epoch, step, weights and figure of the best evaluation; empty before the first"""
    logits: Mapping[str, Tensor] | None = None
    """in `evaluation` and `end`: logits of the validation split, fp32 (N, C) on the CPU, by the name of the weights;
    None if most labels are unknown, because then only those of known labels are kept"""
    targets: Tensor | None = None
    """with `logits`: int8 (N, C) of 1 positive, 0 negative, -1 unknown"""
    result: Mapping[str, Any] | None = None
    """in `end`: figures of the run, as result.json has them"""


class Callback:
    """Your code at points of a training. Define the methods that you need.

    They are called on the main process only. What they draw from torch, NumPy or Python at random does not disturb the
    training, because each of its steps sets its own random state.
    """

    def start(self, run: TrainingView) -> None:
        """Begin, before the first step and again whenever the training is resumed, after `load_state_dict`."""

    def step(self, run: TrainingView) -> Stop | None:
        """Look at the training after an optimizer step."""
        return None

    def evaluation(self, run: TrainingView) -> Stop | None:
        """Look at the training after an evaluation of the validation split."""
        return None

    def end(self, run: TrainingView) -> None:
        """Finish, after the best weights were evaluated and before result.json is written."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: numbers, text, None, lists, dicts and tensors. Checkpoints keep it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; called only if there is any."""
