"""Self-paced balance learning: Yang et al., "Self-Paced Balance Learning for Clinical Skin Disease Recognition", IEEE
Transactions on Neural Networks and Learning Systems, 2020.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mltrain.curriculum.complexity import ClassComplexity, CostBy, check_costs
from mltrain.curriculum.resample import apply_plan, check_plan, plan
from mltrain.curriculum.select import home_classes, image_losses, lowest_of_each, random_words
from mltrain.curriculum.svm import svm_losses
from mltrain.errors import DataError
from mltrain.labels import LabelSet

logger = logging.getLogger(__name__)

Scorer = Literal["model", "svm"]

# What random words are for: the first part of their key.
_SEED_SET, _COPIES, _COSTS = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Stage:
    """What is trained on between two choices."""

    number: int
    """0: the seed set alone"""
    ratio: float
    """share of the rest that is in it"""
    indices: np.ndarray
    """int64, sorted: training images, as often as an even pass over the stage shows them"""
    sizes: np.ndarray
    """int64 (C,): images chosen, by home class, before copies and omissions"""
    delta: np.ndarray
    """int64 (C,): copies, or omissions below 0"""
    complexity: ClassComplexity
    costs: np.ndarray
    """float64 (C,)"""
    weights: np.ndarray
    """float64 (N,): what each image weighs for the SVM; empty without one"""

    def to_arrays(self) -> dict[str, Any]:
        """Plain numbers and NumPy arrays; what `from_arrays` takes."""
        kept = {key: value for key, value in vars(self).items() if key != "complexity"}
        return kept | {"mean_loss": self.complexity.mean_loss, "counts": self.complexity.counts}

    @classmethod
    def from_arrays(cls, state: dict[str, Any]) -> Stage:
        """The inverse of `to_arrays`; arrays may be CPU tensors."""
        plain: dict[str, Any] = {}
        for key, value in state.items():
            plain[key] = value if isinstance(value, (int, float)) else np.asarray(value)
        complexity = ClassComplexity(plain.pop("mean_loss"), plain.pop("counts"))
        return cls(complexity=complexity, **plain)


class SelfPacedBalance:
    """From a seed set to the whole training set in stages, of each class the easiest images first.

    Stage 0 is the seed set: a random share `train_ratio` of each class. At the start of each later stage k every
    training image is scored by the model as it stands, and of what is not in the seed set the share ``add_ratios[k-1]``
    of each class with the lowest loss joins it (hard self-paced weights with a quantile of each class as threshold).
    The loss of an image is -log p of its label; with several labels, the mean of it over its positives. Then

    - the complexity of each class over the images chosen, H_c = exp(mean loss) / n_c (`ClassComplexity`);
    - its cost, 1 to `largest_cost`, for ``loss.class_weight=curriculum``, ``sampler=class_cost`` and the SVM;
    - with `reconstruct`, complex classes get copies and over-large simple ones lose images (`resample.plan`).

    An image of several labels is counted under its rarest one, and chosen and copied as one of its images; complexities
    count it under all its labels. Images without a positive are a group of their own, in random order, never copied.

    Differences from the authors' code: the number of epochs is the run's, in equal parts, with one schedule
    over all of it, where the code restarts; complexities are over all images chosen, the seed set included, so that a
    class whose images are all in the seed set has one; reconstruction changes what the network is trained on, not
    only what the SVM is; the SVM is fitted to the present features of the images of earlier stages, not to old ones.

    Args:
        labels: the training set.
        seed: of the run.
        epochs: of the run.
        train_ratio: share of each class in the seed set, rounded up, above 0.
        add_ratios: pace: one stage for each, of rising shares of the rest.
        stage_epochs: epochs of each stage but the last; None: the run's epochs in equal parts.
        scorer: model: the network's own probabilities. svm: those of an SVM on its features, single label only.
        costs: how costs follow from complexities, see `ClassComplexity.costs`: rank, power, legacy.
        largest_cost: of the most complex class; the simplest has 1.
        cost_power: exponent of ``costs=power``.
        reconstruct: copy and leave out images, see above.
        most_copies: of a class.
        excess: a class loses images only above so many times the mean size of the classes.
        svm_c: C of the SVM.

    Raises:
        ValueError: an argument out of range, or fewer epochs than stages.
        DataError: there is no image.
    """

    def __init__(
        self,
        *,
        labels: LabelSet,
        seed: int = 0,
        epochs: int,
        train_ratio: float = 0.2,
        add_ratios: tuple[float, ...] = (0.5, 0.75, 0.9, 1.0, 1.0),
        stage_epochs: int | None = None,
        scorer: Scorer = "model",
        costs: CostBy = "rank",
        largest_cost: float = 10.0,
        cost_power: float = 1.0,
        reconstruct: bool = True,
        most_copies: int = 100,
        excess: float = 3.0,
        svm_c: float = 1.0,
    ) -> None:
        if not 0 < train_ratio <= 1:
            raise ValueError(f"train_ratio={train_ratio} must be above 0 and at most 1")
        ratios = (0.0, *add_ratios)
        if len(ratios) < 2 or any(not a <= b <= 1 for a, b in itertools.pairwise(ratios)):
            raise ValueError(f"add_ratios={list(add_ratios)} must be one or more rising numbers from 0 to 1")
        if scorer not in get_args(Scorer):
            raise ValueError(f"scorer={scorer!r} is unknown; allowed: {', '.join(get_args(Scorer))}")
        if not 0 < svm_c < float("inf"):
            raise ValueError(f"svm_c={svm_c} must be above 0")
        check_costs(costs, largest_cost, cost_power)
        check_plan(most_copies, excess)
        self._starts = _starts(epochs, len(ratios), stage_epochs)
        if not len(labels):
            raise DataError(f"{labels.name}: has no image to train on")
        self.labels = labels
        self.scorer: Scorer = scorer
        self._seed, self._ratios, self._train_ratio = seed, ratios, train_ratio
        self._costs: dict[str, Any] = {"by": costs, "largest": largest_cost, "power": cost_power}
        self._plan: dict[str, Any] | None = {"most_copies": most_copies, "excess": excess} if reconstruct else None
        self._svm_c = svm_c
        self._homes = home_classes(labels)
        self._rows, self._columns = labels.positive_pairs()
        self._ties = random_words(len(labels), _SEED_SET, seed)
        everything = np.zeros(len(labels))
        self._seed_set = lowest_of_each(everything, self._ties, self._homes, train_ratio)

    @property
    def num_stages(self) -> int:
        """The seed set and one for each of `add_ratios`."""
        return len(self._ratios)

    def stage_at(self, epoch: int) -> int:
        """Number of the stage that an epoch (from 0) belongs to."""
        return int(np.searchsorted(self._starts, epoch, side="right")) - 1

    def first(self) -> Stage:
        """Stage 0: nothing has been scored yet, so all costs are 1 and there are no copies."""
        none = ClassComplexity.from_losses(np.empty(0), np.empty(0, np.int64), self.labels.num_classes)
        return self._stage(0, self._seed_set, none, np.zeros(self.labels.num_classes, np.int64), np.empty(0))

    def next(self, stage: Stage, losses: np.ndarray) -> Stage:
        """The stage after `stage`, from the loss of each positive target.

        Args:
            losses: float64 (P,), in the order of `labels.positive_pairs()`.
        """
        number = stage.number + 1
        if losses.shape != self._rows.shape:
            raise ValueError(f"{len(losses)} losses for {len(self._rows)} positive targets")
        rest = np.flatnonzero(~self._seed_set)
        scores = image_losses(losses, self._rows, len(self.labels))[rest]
        chosen = self._seed_set.copy()
        chosen[rest] = lowest_of_each(scores, self._ties[rest], self._homes[rest], self._ratios[number])
        inside = chosen[self._rows]
        classes = self.labels.num_classes
        complexity = ClassComplexity.from_losses(losses[inside], self._columns[inside], classes)
        delta = np.zeros(classes, dtype=np.int64)
        if self._plan is not None:
            delta = plan(self._sizes(chosen), complexity.log_values, **self._plan)
        return self._stage(number, chosen, complexity, delta, stage.weights)

    def svm_losses(self, stage: Stage, features: np.ndarray) -> np.ndarray:
        """Losses for `next`, from features (N, D) in place of the model's logits, by an SVM on what `stage` trained."""
        return svm_losses(features[self._rows], self._columns, stage.weights[self._rows], c=self._svm_c)

    def _stage(
        self, number: int, chosen: np.ndarray, complexity: ClassComplexity, delta: np.ndarray, before: np.ndarray
    ) -> Stage:
        images = np.flatnonzero(chosen)
        words = random_words(len(images), _COPIES, self._seed, number)
        indices = apply_plan(images, self._homes[images], delta, words)
        costs = complexity.costs(seed=(_COSTS, self._seed, number), **self._costs)
        weights = np.empty(0)
        if self.scorer == "svm":
            of_image = np.append(costs, 0.0)[self._homes]
            weights = np.bincount(indices, minlength=len(chosen)) * of_image
            if number:
                # Published: what was learnt from before counts by the share of the set that it was learnt from.
                ratio = self._ratios[number - 1]
                weights += before * (ratio * (1 - self._train_ratio) + self._train_ratio)
        sizes = self._sizes(chosen)
        return Stage(number, self._ratios[number], indices, sizes, delta, complexity, costs, weights)

    def _sizes(self, chosen: np.ndarray) -> np.ndarray:
        """int64 (C,): images chosen, by home class."""
        classes = self.labels.num_classes
        return np.bincount(self._homes[chosen], minlength=classes + 1)[:classes].astype(np.int64)


def _starts(epochs: int, stages: int, stage_epochs: int | None) -> np.ndarray:
    """First epoch of each stage."""
    if stage_epochs is not None and stage_epochs < 1:
        raise ValueError(f"stage_epochs={stage_epochs} must be positive, or None for equal parts")
    needed = stages if stage_epochs is None else stage_epochs * (stages - 1) + 1
    if epochs < needed:
        raise ValueError(
            f"runner.epochs={epochs} are fewer than the {needed} that {stages} stages need (the seed set and one for "
            "each of add_ratios); raise runner.epochs, or shorten add_ratios or stage_epochs"
        )
    each = epochs / stages if stage_epochs is None else stage_epochs
    return np.floor(np.arange(stages) * each).astype(np.int64)
