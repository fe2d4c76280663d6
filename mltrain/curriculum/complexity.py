"""The class complexity of self-paced balance learning, and the class costs that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mltrain.curriculum.select import random_words

CostBy = Literal["rank", "power", "legacy"]


@dataclass(frozen=True, eq=False)
class ClassComplexity:
    """Complexity ``H_c = exp(l_c) / n_c`` of each class: high if its images are hard or few.

    l_c is the mean loss of the positive targets of class c among the images chosen for training, n_c their number.
    Yang et al., "Self-Paced Balance Learning for Clinical Skin Disease Recognition", IEEE TNNLS 2020.
    """

    mean_loss: np.ndarray
    """float64 (C,): l_c; 0 for a class without a positive"""
    counts: np.ndarray
    """int64 (C,): n_c"""

    @classmethod
    def from_losses(cls, losses: np.ndarray, classes: np.ndarray, num_classes: int) -> ClassComplexity:
        """Compute from the loss of each positive target (P,) and its class (P,)."""
        counts = np.bincount(classes, minlength=num_classes)
        total = np.bincount(classes, weights=losses, minlength=num_classes)
        return cls(total / np.maximum(counts, 1), counts.astype(np.int64))

    @property
    def log_values(self) -> np.ndarray:
        """Logarithm of H_c, float64 (C,); -infinity for a class without a positive."""
        known = self.counts > 0
        return np.where(known, self.mean_loss - np.log(np.maximum(self.counts, 1)), -np.inf)

    @property
    def values(self) -> np.ndarray:
        """H_c, float64 (C,); 0 for a class without a positive, infinity if it exceeds fp64."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_values)

    def costs(
        self, *, by: CostBy = "rank", largest: float = 10.0, power: float = 1.0, seed: tuple[int, ...] = (0,)
    ) -> np.ndarray:
        """Return the cost of each class, float64 (C,), from 1 for the simplest to `largest` for the most complex.

        - ``rank``: even steps of the rank of H_c; equal complexities have equal costs.
        - ``power``: linear in H_c^power: ``1 + (largest - 1) (H_c^p - min) / (max - min)``.
        - ``legacy``: as published, with the cost vector of a routine for random consistent cost matrices (Liu and Zhou,
          2006): numbers drawn from U(1, largest), divided by the smallest. The simplest and the most complex class get
          the smallest and the largest number, all others get theirs at random. A function of `seed`.

        A class without a positive costs 1.

        Raises:
            ValueError: `by` is unknown, `largest` is below 1, or `power` is not above 0.
        """
        check_costs(by, largest, power)
        known = np.flatnonzero(self.counts > 0)
        costs = np.ones(len(self.counts))
        if len(known) < 2:
            return costs
        level = self.log_values[known]
        if by == "legacy":
            costs[known] = _legacy(level, largest, seed)
            return costs
        if by == "rank":
            _, place, equal = np.unique(level, return_inverse=True, return_counts=True)
            height = (np.cumsum(equal) - (equal + 1) / 2)[place]  # mid-rank, from 0
            costs[known] = 1 + (largest - 1) * height / (len(known) - 1)
            return costs
        height = np.exp(power * (level - level.max()))
        spread = height.max() - height.min()
        if spread > 0:
            costs[known] = 1 + (largest - 1) * (height - height.min()) / spread
        return costs


def check_costs(by: str, largest: float, power: float) -> None:
    """Raise ValueError if `ClassComplexity.costs` would refuse these options."""
    if by not in get_args(CostBy):
        raise ValueError(f"costs={by!r} is unknown; allowed: {', '.join(get_args(CostBy))}")
    if not 1 <= largest < float("inf"):
        raise ValueError(f"largest_cost={largest} must be 1 or above")
    if not 0 < power < float("inf"):
        raise ValueError(f"cost_power={power} must be above 0")


def _legacy(level: np.ndarray, largest: float, seed: tuple[int, ...]) -> np.ndarray:
    words = random_words(2 * len(level), *seed)
    drawn = 1 + (largest - 1) * (words[: len(level)] >> np.uint64(11)).astype(np.float64) / 2**53
    drawn = np.sort(drawn / drawn.min())
    order = np.argsort(level, kind="stable")
    costs = np.empty(len(level))
    costs[order[0]], costs[order[-1]] = drawn[0], drawn[-1]
    between = order[1:-1]
    costs[between] = drawn[1:-1][np.argsort(words[len(level) :][: len(between)], kind="stable")]
    return costs
