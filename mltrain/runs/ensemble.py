"""Several runs, or several views of an image, as one model: the mean of their probabilities."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from mltrain.config.build import instantiate
from mltrain.config.rules import SINGLE_LABEL
from mltrain.console import rank
from mltrain.engine.evaluator import Forward, forward_logits
from mltrain.engine.run_folder import THRESHOLDS
from mltrain.errors import ConfigError
from mltrain.models.classifier import Classifier
from mltrain.models.ensemble import mean_logits
from mltrain.pipeline.batch import Transform
from mltrain.pipeline.views import SeveralResizes, Tta, resizes_for, views
from mltrain.runs.eval_size import eval_size
from mltrain.sizes import ImageSize, in_pixels, spelled
from mltrain.text import counted, first_few

logger = logging.getLogger(__name__)

PASSES = {None: 1, "flip": 2, "five_crop": 5, "sizes": 3}
"""forward passes of a model for an image"""


@dataclass(frozen=True)
class Member:
    """A model with its own config: it resizes images in its own way, and runs in its own precision."""

    folder: Path
    config: DictConfig
    model: Classifier
    """on its device, in evaluation mode"""
    class_names: tuple[str, ...]
    amp_dtype: torch.dtype | None = None


class Averager:
    """The mean of the probabilities of one or more models, each over its views of an image.

    Args:
        members: by name; the first decides the order of the classes.
        tta: views of every member; None: the image as it is evaluated in training.

    Raises:
        ConfigError: the members have other classes or another task than the first, or a model cannot take other sizes.
    """

    def __init__(self, members: Mapping[str, Member], tta: Tta | None = None) -> None:
        first = next(iter(members.values()))
        self.class_names = first.class_names
        self.single_label = first.config.task == SINGLE_LABEL
        self._members = dict(members)
        self._tta = tta
        self._sizes: list[list[str]] = []
        resizes: dict[str, Transform] = {}
        self._inputs: dict[str, list[int]] = {}
        """for each member, which of the sizes it takes"""
        self._columns = {name: _columns(member, first) for name, member in members.items()}
        for name, member in members.items():
            member.model.eval()
            own = {repr(resize): resize for resize in _resizes(member, tta)}
            self._sizes.append([spelled(resize.image_size) for resize in own.values()])
            resizes |= {key: resize for key, resize in own.items() if key not in resizes}
            self._inputs[name] = [list(resizes).index(key) for key in own]
        self._packed = SeveralResizes(list(resizes.values())) if len(resizes) > 1 else None
        self.resize: Transform = self._packed or next(iter(resizes.values()))
        """transform of the images that `logits` takes"""

    def __str__(self) -> str:
        """Say what is averaged, and what it costs."""
        passes = PASSES[self._tta] * len(self._members)
        runs = [counted(len(self._members), "run")] if len(self._members) > 1 else []
        views = [] if self._tta is None else [f"tta={self._tta}"]
        if self._tta == "sizes":
            views = [f"tta=sizes ({'; '.join(dict.fromkeys(map(', '.join, self._sizes)))} px)"]
        return f"mean of probabilities, {' with '.join(runs + views)}: {counted(passes, 'forward pass')} an image"

    @property
    def models(self) -> dict[str, Classifier]:
        """The models by name."""
        return {name: member.model for name, member in self._members.items()}

    def each(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits fp32 (B, C) of each member for a batch, its classes in the order of the first member's."""
        sizes = self._packed.unpack(images) if self._packed is not None else [images]
        return {name: self._logits(name, [sizes[k] for k in chosen]) for name, chosen in self._inputs.items()}

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits fp32 (B, C) of the mean probabilities."""
        return self.mean(list(self.each(images).values()))

    def mean(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the logits of the mean probabilities of logits (B, C)."""
        return mean_logits(logits, single_label=self.single_label)

    def _logits(self, name: str, images: Sequence[Tensor]) -> Tensor:
        member, columns = self._members[name], self._columns[name]
        seen = views(self._tta, images, eval_size(member.config, member.model.backbone))
        found = self.mean([forward_logits(member.model, view, member.amp_dtype) for view in seen])
        return found if columns is None else found[:, columns]


def _columns(member: Member, first: Member) -> list[int] | None:
    """Return the member's column of each class of the first, or None if the classes have the same order.

    Raises:
        ConfigError: the two have other classes or tasks.
    """
    if member.config.task != first.config.task:
        raise ConfigError(
            f"{member.folder}: task={member.config.task}, and {first.folder} has task={first.config.task}; only "
            "runs of one task can be averaged"
        )
    own, wanted = member.class_names, first.class_names
    if own == wanted:
        return None
    if set(own) != set(wanted):
        parts = [
            f"only {where} has {first_few(sorted(names))}"
            for where, names in ((member.folder, set(own) - set(wanted)), (first.folder, set(wanted) - set(own)))
            if names
        ]
        raise ConfigError(
            f"{member.folder}: {counted(len(own), 'class')} that are not those of {first.folder} "
            f"({len(wanted)}): {'; '.join(parts)}. Only runs of the same classes can be averaged"
        )
    place = {name: k for k, name in enumerate(own)}
    return [place[name] for name in wanted]


def _resizes(member: Member, tta: Tta | None) -> list[Transform]:
    """Return the transforms of a member's views.

    Raises:
        ConfigError: its model cannot take other sizes.
    """

    def resize(size: ImageSize) -> Any:
        return instantiate(member.config.eval_resize, "eval_resize", image_size=size)

    backbone = member.model.backbone
    size = eval_size(member.config, backbone)
    if tta != "sizes":
        return resizes_for(tta, resize, size, step=(1, 1))
    where, rest = f"tta=sizes: {member.folder}: {member.config.model.get('name')}", "use tta=flip or tta=five_crop"
    try:
        found = resizes_for(tta, resize, size, step=backbone.step)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; {rest}") from error
    try:
        for item in found:
            backbone.check_size(item.image_size)
    except ValueError as error:
        raise ConfigError(f"{where} takes images of {in_pixels(size)} alone ({error}); {rest}") from error
    return found


def note_thresholds(folders: Sequence[Path], threshold: float) -> None:
    """Tell that thresholds of single runs are not used for their mean."""
    tuned = [folder for folder in folders if (folder / THRESHOLDS).exists()]
    if tuned:
        logger.info(
            "the thresholds tuned for %s do not fit the mean and are not used: a class counts above %g",
            first_few([str(folder) for folder in tuned]),
            threshold,
        )


def over_views(members: Mapping[str, Member], tta: Tta) -> tuple[Transform, Forward]:
    """Return the transform and the `Inference.forward` for evaluating every member by itself, over its views.

    The members are weights of one run, and so have the same config.
    """
    averagers = {name: Averager({name: member}, tta) for name, member in members.items()}
    first = next(iter(averagers.values()))
    if rank() == 0:
        logger.info("%s", first)

    def forward(models: Mapping[str, Classifier], images: Tensor) -> dict[str, Tensor]:
        return {name: averagers[name].logits(images) for name in models}

    return first.resize, forward


def over_members(averager: Averager, mean: str) -> tuple[Transform, Forward]:
    """Return the transform and the `Inference.forward` for evaluating each member, and their mean of that name."""

    def forward(models: Mapping[str, Classifier], images: Tensor) -> dict[str, Tensor]:
        found = averager.each(images)
        return {mean: averager.mean(list(found.values())), **found}

    return averager.resize, forward
