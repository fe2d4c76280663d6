"""Self-paced balance learning: Yang et al., "Self-Paced Balance Learning for Clinical Skin Disease Recognition", IEEE
Transactions on Neural Networks and Learning Systems, 2020.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mltrain.curriculum import select
from mltrain.curriculum.complexity import ClassComplexity, CostBy, check_costs
from mltrain.curriculum.svm import svm_losses
from mltrain.errors import DataError
from mltrain.labels import LabelSet

logger = logging.getLogger(__name__)

Scorer = Literal["model", "svm"]

# Purposes of random words: the first part of their key.
_SEED_SET, _COPIES, _COSTS = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Stage:
    """The training images between two choices."""

    number: int
    """0: the seed set alone"""
    ratio: float
    """share of the images outside the seed set that the stage includes"""
    indices: np.ndarray
    """int64, sorted: training images, each as often as one pass over the stage shows it"""
    sizes: np.ndarray
    """int64 (C,): images chosen, by home class, before copies and omissions"""
    delta: np.ndarray
    """int64 (C,): copies, or omissions below 0"""
    complexity: ClassComplexity
    costs: np.ndarray
    """float64 (C,)"""
    weights: np.ndarray
    """float64 (N,): weight of each image for the SVM; empty without one"""

    def to_arrays(self) -> dict[str, Any]:
        """Return plain numbers and NumPy arrays, which `from_arrays` reads."""
        kept = {key: value for key, value in vars(self).items() if key != "complexity"}
        return kept | {"mean_loss": self.complexity.mean_loss, "counts": self.complexity.counts}

    @classmethod
    def from_arrays(cls, state: dict[str, Any]) -> Stage:
        """Build from the result of `to_arrays`; arrays may be CPU tensors."""
        plain: dict[str, Any] = {}
        for key, value in state.items():
            plain[key] = value if isinstance(value, (int, float)) else np.asarray(value)
        complexity = ClassComplexity(plain.pop("mean_loss"), plain.pop("counts"))
        return cls(complexity=complexity, **plain)


@dataclass(kw_only=True, eq=False)
class SelfPacedBalance:
    """Grow from a seed set to the whole training set in stages; the easiest images of each class come first.

    Stage 0 is the seed set: a random share `train_ratio` of each class. At the start of each later stage k the current
    model scores every training image. The share ``add_ratios[k-1]`` of each class outside the seed set that has the
    lowest losses then joins it (hard self-paced weights with a quantile of each class as threshold). The loss of an
    image is -log p of its label, or the mean over its positives if it has several. From the chosen images follow

    - the complexity of each class, H_c = exp(mean loss) / n_c (`ClassComplexity`);
    - its cost, 1 to `largest_cost`, for ``loss.class_weight=curriculum``, ``sampler=class_cost`` and the SVM;
    - with `reconstruct`, copies for complex classes and omissions from large simple ones (`select.size_changes`).

    An image with several labels is chosen and copied under its rarest one; complexities count it under all its labels.
    Images without a positive are a group of their own, in random order, and never copied.

    Differences from the authors' code: one schedule covers all epochs of the run, in equal parts, where the code
    restarts it; complexities include the seed set, so that a class whose images are all in the seed set has one;
    reconstruction changes the training images of the network, not only those of the SVM; the SVM is fitted to the
    current features of the images of earlier stages, not to old ones.

    Args:
        labels: the training set.
        seed: seed of the run.
        epochs: epochs of the run.
        train_ratio: share of each class in the seed set, rounded up, above 0.
        add_ratios: pace: one stage each, with rising shares of the images outside the seed set.
        stage_epochs: epochs of each stage but the last; None: the run's epochs in equal parts.
        scorer: model: the network's own probabilities. svm: those of an SVM on its features, single label only.
        costs: method to derive costs from complexities, see `ClassComplexity.costs`: rank, power, legacy.
        largest_cost: cost of the most complex class; the simplest has 1.
        cost_power: exponent of ``costs=power``.
        reconstruct: copy and leave out images, see above.
        most_copies: greatest number of copies per class.
        excess: a class loses images only if it is larger than so many times the mean size of the classes.
        svm_c: C of the SVM.

    Raises:
        ValueError: an argument is out of range, or there are fewer epochs than stages.
        DataError: there is no image.
    """

    labels: LabelSet
    seed: int = 0
    epochs: int
    train_ratio: float = 0.2
    add_ratios: tuple[float, ...] = (0.5, 0.75, 0.9, 1.0, 1.0)
    stage_epochs: int | None = None
    scorer: Scorer = "model"
    costs: CostBy = "rank"
    largest_cost: float = 10.0
    cost_power: float = 1.0
    reconstruct: bool = True
    most_copies: int = 100
    excess: float = 3.0
    svm_c: float = 1.0

    def __post_init__(self) -> None:
        labels = self.labels
        if not 0 < self.train_ratio <= 1:
            raise ValueError(f"train_ratio={self.train_ratio} must be above 0 and at most 1")
        self._ratios = (0.0, *self.add_ratios)
        if len(self._ratios) < 2 or any(not a <= b <= 1 for a, b in itertools.pairwise(self._ratios)):
            raise ValueError(f"add_ratios={list(self.add_ratios)} must be one or more rising numbers from 0 to 1")
        if self.scorer not in get_args(Scorer):
            raise ValueError(f"scorer={self.scorer!r} is unknown; allowed: {', '.join(get_args(Scorer))}")
        if not 0 < self.svm_c < float("inf"):
            raise ValueError(f"svm_c={self.svm_c} must be above 0")
        check_costs(self.costs, self.largest_cost, self.cost_power)
        select.check_size_options(self.most_copies, self.excess)
        self._starts = _starts(self.epochs, len(self._ratios), self.stage_epochs)
        if not len(labels):
            raise DataError(f"{labels.name}: has no image to train on")
        self._homes = select.home_classes(labels)
        self._rows, self._columns = labels.positive_pairs()
        self._ties = select.random_words(len(labels), _SEED_SET, self.seed)
        self._seed_set = select.lowest_of_each(np.zeros(len(labels)), self._ties, self._homes, self.train_ratio)

    @property
    def num_stages(self) -> int:
        """Number of stages: the seed set and one per ratio in `add_ratios`."""
        return len(self._ratios)

    def stage_at(self, epoch: int) -> int:
        """Return the number of the stage that an epoch (from 0) belongs to."""
        return int(np.searchsorted(self._starts, epoch, side="right")) - 1

    def first(self) -> Stage:
        """Return stage 0: nothing has been scored yet, so all costs are 1 and there are no copies."""
        none = ClassComplexity.from_losses(np.empty(0), np.empty(0, np.int64), self.labels.num_classes)
        return self._stage(0, self._seed_set, none, np.zeros(self.labels.num_classes, np.int64), np.empty(0))

    def next(self, stage: Stage, losses: np.ndarray) -> Stage:
        """Return the stage after `stage`, from the loss of each positive target.

        Args:
            losses: float64 (P,), in the order of `labels.positive_pairs()`.
        """
        number = stage.number + 1
        if losses.shape != self._rows.shape:
            raise ValueError(f"{len(losses)} losses for {len(self._rows)} positive targets")
        rest = np.flatnonzero(~self._seed_set)
        scores = select.image_losses(losses, self._rows, len(self.labels))[rest]
        chosen = self._seed_set.copy()
        chosen[rest] = select.lowest_of_each(scores, self._ties[rest], self._homes[rest], self._ratios[number])
        inside = chosen[self._rows]
        classes = self.labels.num_classes
        complexity = ClassComplexity.from_losses(losses[inside], self._columns[inside], classes)
        delta = np.zeros(classes, dtype=np.int64)
        if self.reconstruct:
            limits: dict[str, Any] = {"most_copies": self.most_copies, "excess": self.excess}
            delta = select.size_changes(self._sizes(chosen), complexity.log_values, **limits)
        return self._stage(number, chosen, complexity, delta, stage.weights)

    def svm_losses(self, stage: Stage, features: np.ndarray) -> np.ndarray:
        """Return losses for `next` from features (N, D), by an SVM fitted to the images of `stage` and before."""
        return svm_losses(features[self._rows], self._columns, stage.weights[self._rows], c=self.svm_c)

    def _stage(
        self, number: int, chosen: np.ndarray, complexity: ClassComplexity, delta: np.ndarray, before: np.ndarray
    ) -> Stage:
        images = np.flatnonzero(chosen)
        words = select.random_words(len(images), _COPIES, self.seed, number)
        indices = select.resample(images, self._homes[images], delta, words)
        how: dict[str, Any] = {"by": self.costs, "largest": self.largest_cost, "power": self.cost_power}
        costs = complexity.costs(seed=(_COSTS, self.seed, number), **how)
        weights = np.empty(0)
        if self.scorer == "svm":
            of_image = np.append(costs, 0.0)[self._homes]
            weights = np.bincount(indices, minlength=len(chosen)) * of_image
            if number:
                # As published: earlier weights count by the share of the training set that the last stage had.
                ratio = self._ratios[number - 1]
                weights += before * (ratio * (1 - self.train_ratio) + self.train_ratio)
        sizes = self._sizes(chosen)
        return Stage(number, self._ratios[number], indices, sizes, delta, complexity, costs, weights)

    def _sizes(self, chosen: np.ndarray) -> np.ndarray:
        """Return the number of chosen images per home class, int64 (C,)."""
        classes = self.labels.num_classes
        return np.bincount(self._homes[chosen], minlength=classes + 1)[:classes].astype(np.int64)


def _starts(epochs: int, stages: int, stage_epochs: int | None) -> np.ndarray:
    """Return the first epoch of each stage."""
    if stage_epochs is not None and stage_epochs < 1:
        raise ValueError(f"stage_epochs={stage_epochs} must be positive, or None for equal parts")
    needed = stages if stage_epochs is None else stage_epochs * (stages - 1) + 1
    if epochs < needed:
        raise ValueError(
            f"runner.epochs={epochs} are fewer than the {needed} that {stages} stages need (the seed set and one per "
            "ratio in add_ratios); raise runner.epochs, or shorten add_ratios or stage_epochs"
        )
    each = epochs / stages if stage_epochs is None else stage_epochs
    return np.floor(np.arange(stages) * each).astype(np.int64)
