"""A finished run on its data, for commands that evaluate its weights again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from mltrain.config.compose import inference_amp
from mltrain.datasets.splits import Splits
from mltrain.engine import distributed
from mltrain.engine.evaluator import Evaluation, Forward, Inference, evaluate, mean_probabilities
from mltrain.engine.precision import resolve_amp
from mltrain.engine.state import TrainState
from mltrain.labels import LabelSet, LabelStats
from mltrain.metrics.summary import Summary
from mltrain.models.classifier import Classifier
from mltrain.pipeline.batch import Transform
from mltrain.pipeline.views import Tta
from mltrain.runs.assemble import build_data, eval_loader, summarizer
from mltrain.runs.ensemble import Member, over_views
from mltrain.runs.folder import Weights, all_weights, build_model, choose_weights, on_device, read_weights
from mltrain.runs.numbered import named
from mltrain.runs.same_data import warn_of_other_data


@dataclass(frozen=True)
class RunOnData:
    """The weights of a run folder, and the data set of its config in the run's order of classes."""

    config: DictConfig
    folder: Path
    dist: distributed.Distributed
    state: TrainState
    splits: Splits
    stats: LabelStats
    """of the training set, as the run counted it; the bounds of its groups are those of the config"""
    weights: dict[str, Classifier]
    """on the device: "val" raw and, if the run has them, "ema" averaged"""
    amp: str
    """precision, a value of `runner.amp`"""
    views: tuple[Transform, Forward] | None = None
    """transform and forward pass of test-time augmentation; None: the models see the image alone"""

    @property
    def best(self) -> dict[str, Any]:
        """Epoch, step, weights and figure that validation chose; only "weights" if they were trained elsewhere."""
        return self.state.best

    @property
    def summarize(self) -> Callable[..., Summary]:
        """Metrics of (logits, targets), with the settings of the config."""
        return summarizer(self.config, self.stats)

    def evaluate(self, labels: LabelSet, weights: Weights | None = None, *, keep_all: bool) -> Evaluation | None:
        """Evaluate all weights, or the chosen ones, on a split, and return the result on the main rank.

        Args:
            weights: one set of weights; None evaluates all.
            keep_all: keep the predictions of unknown targets too.

        Raises:
            ConfigError: the run has no EMA weights.
        """
        chosen = self.weights
        if weights is not None:
            name = choose_weights(self.state, weights, self.folder)
            chosen = {name: self.weights[name]}
        return self.evaluate_models(chosen, labels, self.views, keep_all=keep_all)

    def evaluate_models(
        self,
        models: Mapping[str, Classifier],
        labels: LabelSet,
        views: tuple[Transform, Forward] | None,
        *,
        keep_all: bool,
    ) -> Evaluation | None:
        """Evaluate models on a split with this run's metrics; `views` has a transform and forward pass of their own."""
        first = next(iter(models.values()))
        resize, forward = views or (None, None)
        inference = replace(self._inference, forward=forward)
        with closing(eval_loader(self.config, self.dist, labels, first, views=resize)) as loader:
            return evaluate(models, loader, self.summarize, inference, keep_all=keep_all)

    def member(self, weights: str | None = None) -> Member:
        """Return one set of weights, by default the chosen ones, as a member of an ensemble."""
        amp = resolve_amp(self.amp, self.dist.device)
        model = self.weights[weights or self.state.chosen]
        return Member(self.folder, self.config, model, self.state.class_names, amp)

    def mean_probabilities(self, labels: LabelSet) -> np.ndarray:
        """Return the mean probability of each class over a split, (C,), with the best weights."""
        model = self.weights[self.state.chosen]
        with closing(eval_loader(self.config, self.dist, labels, model)) as loader:
            return mean_probabilities(model, loader, self._inference)

    @property
    def _inference(self) -> Inference:
        cfg, amp_dtype = self.config, resolve_amp(self.amp, self.dist.device)
        return Inference(self.dist, amp_dtype, cfg.runner.channels_last, progress=cfg.logger.progress)


@contextmanager
def open_on_data(
    cfg: DictConfig, folder: Path, *, amp: str | None = None, tta: Tta | None = None
) -> Iterator[RunOnData]:
    """Read the weights of a run folder and the data set of its config, and build its model on the device.

    Args:
        amp: precision, a value of `runner.amp`; None: `inference_amp`, that of predictions.
        tta: views of an image whose mean probabilities are evaluated; None: the image alone.

    Raises:
        CheckpointError: the folder has no weights, or they do not fit the model or the classes of the data set.
        DataError: the data set cannot be read.
    """
    with distributed.start(cfg.runner.device) as dist:
        state = read_weights(cfg, folder)
        trained = state.stats
        if trained is not None:
            trained = replace(trained, head_min=cfg.metrics.head_min, medium_min=cfg.metrics.medium_min)
        splits, stats = build_data(cfg, dist, trained, state.class_names, training=False)
        state = named(state, splits.val.class_names, folder)
        if dist.is_main:
            warn_of_other_data(cfg, folder, splits)
        model = on_device(build_model(cfg, stats.class_names, stats), cfg, dist.device)
        weights = all_weights(cfg, state, model)
        run = RunOnData(cfg, folder, dist, state, splits, stats, weights, amp or inference_amp(cfg))
        views = None if tta is None else over_views({name: run.member(name) for name in weights}, tta)
        yield replace(run, views=views)


def open_member(cfg: DictConfig, folder: Path, dist: distributed.Distributed, first: DictConfig) -> Member:
    """Read the best weights of a run as a member of an ensemble, in the precision of its training.

    Args:
        first: config of the first member, whose device and memory format hold for all.
    """
    state = read_weights(cfg, folder)
    model = all_weights(cfg, state, build_model(cfg, state.class_names, state.stats))[state.chosen]
    amp = resolve_amp(cfg.runner.amp, dist.device)
    return Member(folder, cfg, on_device(model, first, dist.device).eval(), state.class_names, amp)
