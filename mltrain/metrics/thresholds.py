"""Thresholds and the strength of a logit adjustment, found on one set of predictions for use on another.

Each of them is a cut, a logit that a class has to exceed: the threshold of the best F1, for all classes or per class,
and post-hoc logit adjustment, ``x_c - tau * log(n_c / m_c)``, whose cut is tau times the prior log-odds. Figures on the
predictions that a cut was found on are too good; `crossed` gives unbiased ones if there is only one set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mltrain.metrics.average_precision import (
    check_shapes,
    class_blocks,
    count_at_or_above,
    refuse_nan,
    refuse_other_labels,
    to_labels,
    to_scores,
)

TAUS = tuple(k / 20 for k in range(-20, 41))
"""-1 to 2 in steps of 0.05; a model that was trained to favour the tail may need a negative one"""


@dataclass(frozen=True)
class Criterion:
    """The criterion of a cut: highest F1, highest precision at a `recall`, or highest recall at a `precision`.

    Raises:
        ValueError: both are given, or one is not in (0, 1].
    """

    recall: float | None = None
    precision: float | None = None

    def __post_init__(self) -> None:
        if self.recall is not None and self.precision is not None:
            raise ValueError(f"recall={self.recall} and precision={self.precision}: give one, the other is maximised")
        for name, value in (("recall", self.recall), ("precision", self.precision)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}={value}: must be above 0 and at most 1")

    def __str__(self) -> str:
        if self.recall is not None:
            return f"precision at a recall of {self.recall:g}"
        return "F1" if self.precision is None else f"recall at a precision of {self.precision:g}"

    def choose(self, hits: np.ndarray, predicted: np.ndarray, positives: int) -> int | None:
        """Return the index of the best cut, or None if none reaches the criterion.

        Args:
            hits, predicted: true and all predicted positives at each cut, from the lowest cut to the highest.
            positives: number of positives.
        """
        if self.recall is not None:
            # among cuts with the same precision take the lowest, whose recall is the highest
            score = np.where(hits >= self.recall * positives * (1 - 1e-12), hits / predicted, -1.0)
            best = int(np.argmax(score))
        else:
            score = 2 * hits / (predicted + positives)
            if self.precision is not None:
                score = np.where(hits >= self.precision * predicted * (1 - 1e-12), hits, -1)
            best = score.size - 1 - int(np.argmax(score[::-1]))  # the highest among equal ones
        return best if score[best] >= 0 else None


F1 = Criterion()


class BestCut(NamedTuple):
    """A cut, which a predicted class strictly exceeds, and the F1 (0..1) that it gives."""

    cut: float
    f1: float


class BestCuts(NamedTuple):
    """Cut and F1 of each class, float64 `(C,)`; `own`, bool `(C,)`: the cut is the class's own, not the common one."""

    cuts: np.ndarray
    f1: np.ndarray
    own: np.ndarray


def best_cut(logits: Tensor, targets: Tensor, criterion: Criterion = F1) -> BestCut:
    """Find the cut for all classes that is best by `criterion` over all known entries; by default by OF1, micro F1.

    The search is exact: it considers every set of entries that a cut can choose, and never separates equal logits.
    Among cuts with the same F1 or recall it takes the highest, with the same precision the lowest. The cut lies
    half-way between the last logit above and the first below it.

    Args:
        logits: `(N, C)`, floating point.
        targets: `(N, C)` of 1, 0, -1; unknown entries are ignored.
        criterion: see `Criterion`.

    Raises:
        ValueError: no positive, no cut that reaches the criterion's precision, or inputs as in `average_precision`.
    """
    check_shapes(logits, targets)
    refuse_nan(logits)
    labels = to_labels(targets).reshape(-1)
    refuse_other_labels(labels)
    if not (labels == 1).any():
        raise ValueError("no entry is positive: there is nothing to choose a threshold by")
    found = _best_cut(to_scores(logits).reshape(-1), labels, criterion)
    if found is None:
        raise ValueError(f"no threshold gives {criterion} over all classes: the model does not reach it anywhere")
    return found


def best_cuts(logits: Tensor, targets: Tensor, criterion: Criterion = F1, *, min_positives: int = 5) -> BestCuts:
    """Find the cut of each class that is best by `criterion` on that class; by default this gives the highest macro F1.

    A class with fewer than `min_positives` known positives gets the cut that is best for all classes together
    (`best_cut`), because its own would depend on a few images. So does a class that nowhere reaches the precision of
    the criterion. Otherwise as `best_cut`, per class.

    Raises:
        ValueError: min_positives is below 1, or as `best_cut`.
    """
    if min_positives < 1:
        raise ValueError(f"min_positives={min_positives} must be 1 or above")
    common = best_cut(logits, targets, criterion)
    classes = logits.shape[1]
    cuts, f1, own = np.full(classes, common.cut), np.zeros(classes), np.zeros(classes, dtype=bool)
    for start, scores, labels in class_blocks(logits, targets):
        for c, (row, known) in enumerate(zip(scores, labels, strict=True), start):
            positives = int((known == 1).sum())
            found = _best_cut(row, known, criterion) if positives >= min_positives else None
            if found is not None:
                cuts[c], f1[c], own[c] = found.cut, found.f1, True
            elif positives:
                chosen = (row > common.cut) & (known >= 0)
                f1[c] = 2 * (chosen & (known == 1)).sum() / (chosen.sum() + positives)
    return BestCuts(cuts, f1, own)


def adjust_logits(logits: Tensor, log_prior_odds: ArrayLike, tau: float) -> Tensor:
    """Return ``logits - tau * log_prior_odds``, float64 `(N, C)`, since rounding to fp32 would create ties.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv:2007.07314 (post hoc), with a
    sigmoid's odds instead of a softmax's prior, as `mltrain.losses.LogitAdjustedLoss` does in training. The average
    precision of a class does not change; figures that compare classes (F1 at one threshold, top k, micro AP) do.

    Args:
        logits: `(N, C)`, left as they are.
        log_prior_odds: `(C,)` of the *training* set, `LabelStats.log_prior_odds()`.
        tau: strength; 0 changes nothing.
    """
    odds = torch.as_tensor(np.asarray(log_prior_odds, dtype=np.float64), device=logits.device)
    if odds.shape != logits.shape[1:]:
        raise ValueError(f"log_prior_odds {tuple(odds.shape)} must be one per class: logits {tuple(logits.shape)}")
    return logits.double() - tau * odds


def best_tau(
    logits: Tensor, log_prior_odds: ArrayLike, score: Callable[[Tensor], float], *, taus: Sequence[float] = TAUS
) -> tuple[float, float]:
    """Return the tau of `adjust_logits` with the highest score, and that score; among equal ones the tau nearest to 0.

    Args:
        logits: `(N, C)`.
        log_prior_odds: as in `adjust_logits`.
        score: function of adjusted logits `(N, C)`, higher is better: OF1, macro F1, F1 of five words ...
        taus: candidates.
    """
    scores = {tau: score(adjust_logits(logits, log_prior_odds, tau)) for tau in sorted(taus, key=abs)}
    best = max(scores, key=lambda tau: scores[tau])  # the first among equal ones
    return best, scores[best]


def folds(images: int, count: int, *, seed: int = 0) -> np.ndarray:
    """Assign each image a fold 0..count-1, int64 `(images,)`, by the seed alone; fold sizes differ by one at most."""
    if not 2 <= count <= images:
        raise ValueError(f"folds must be 2 to the number of images, {images}; got {count}")
    return np.random.default_rng(seed).permutation(np.arange(images) % count)


def crossed(find: Callable[[np.ndarray], Tensor], fold: np.ndarray) -> Tensor:
    """Return for each image the values found on the other folds only.

    Args:
        find: takes a bool mask `(N,)` of the images to learn from, returns values `(C,)`.
        fold: `(N,)`, from `folds`.

    Returns:
        `(N, C)`: row i holds ``find(fold != fold[i])``.
    """
    found = torch.stack([find(fold != k) for k in range(int(fold.max()) + 1)])
    return found[torch.from_numpy(fold)]


def _best_cut(scores: np.ndarray, labels: np.ndarray, criterion: Criterion) -> BestCut | None:
    """Find the best cut of one ranking `(N,)`; None without a positive, or if no cut reaches the criterion."""
    positives = np.sort(scores[labels == 1])
    total = positives.size
    positives = positives[~np.isneginf(positives)]  # no cut is below these
    if not positives.size:
        return None
    scores = scores[labels >= 0]
    # Only a cut just below a positive can be best: every further negative lowers precision, and no recall changes.
    hits = positives.size - np.searchsorted(positives, positives)
    predicted = count_at_or_above(scores, positives)
    f1 = 2 * hits / (predicted + total)
    best = criterion.choose(hits, predicted, total)
    return None if best is None else BestCut(_between(scores, positives[best]), float(f1[best]))


def _between(scores: np.ndarray, lowest: np.floating) -> float:
    """Return a number of the scores' dtype below the score `lowest` and not below the next lower score."""
    below = scores[scores < lowest]
    if not below.size:
        return float(np.nextafter(lowest, scores.dtype.type(-np.inf)))  # in NumPy 1 a Python float makes it float64
    next_lower = below.max()
    with np.errstate(over="ignore", invalid="ignore"):
        middle = scores.dtype.type(next_lower / 2 + lowest / 2)
    return float(middle if next_lower < middle < lowest else next_lower)
