"""Likely missing and likely wrong labels, from predictions of images that a model was not trained on.

Confident learning (Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021,
arXiv:1911.00068), class by class as for multi-label data in Thyagarajan et al., "Identifying Incorrect Annotations in
Multi-Label Classification Data", arXiv:2211.13895; the work is done by the package cleanlab.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mltrain.engine.saved_tables import SavedPredictions
from mltrain.errors import ConfigError, DataError
from mltrain.text import counted, first_few

Kind = Literal["missing", "wrong", "unknown"]
GIVEN: dict[Kind, int] = {"missing": 0, "wrong": 1, "unknown": -1}
"""kind of a candidate -> target in the data"""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions of images that none of the models was trained on, each image once."""

    files: tuple[str, ...]
    """N image files, relative to the root of their data set"""
    class_names: tuple[str, ...]
    """C names"""
    targets: np.ndarray
    """int8 (N, C): 1 positive, 0 negative, -1 unknown"""
    probability: np.ndarray
    """fp64 (N, C)"""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Labels that are likely to be wrong, the likeliest first; k of them."""

    rows: np.ndarray
    """int64 (k,), images"""
    columns: np.ndarray
    """int64 (k,), classes"""
    given: np.ndarray
    """int8 (k,), targets in the data"""
    scores: np.ndarray
    """fp64 (k,) in 0..1, quality of the given label: low where it is likely to be wrong"""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def suggested(self) -> np.ndarray:
        """Targets instead, int8 (k,)."""
        return np.where(self.given == 1, 0, 1).astype(np.int8)

    def take(self, chosen: np.ndarray | slice) -> Candidates:
        """Return some of the candidates: a slice, indices, or bool (k,)."""
        return Candidates(self.rows[chosen], self.columns[chosen], self.given[chosen], self.scores[chosen])

    def counts(self) -> dict[Kind, int]:
        """Return the number of candidates of each kind."""
        return {kind: int((self.given == value).sum()) for kind, value in GIVEN.items()}


def join(runs: Sequence[tuple[str, SavedPredictions]]) -> HeldOut:
    """Put the predictions of several runs together, such as those of the folds of a data set.

    An image that several runs have held out, as with several seeds, gets the mean of their probabilities.

    Args:
        runs: name and predictions of each run.

    Raises:
        DataError: the runs have other classes, or an image has other labels in them.
    """
    (first_name, first), *_ = runs
    place: dict[str, int] = {}
    sums: list[np.ndarray] = []
    counts: list[int] = []
    targets: list[np.ndarray] = []
    for name, saved in runs:
        if set(saved.class_names) != set(first.class_names):
            other = sorted(set(saved.class_names) ^ set(first.class_names))
            raise DataError(
                f"{name}: other classes than {first_name} ({counted(len(other), 'name')} that one of the two lacks: "
                f"{first_few(other)}); name runs of one data set"
            )
        order = [saved.class_names.index(label) for label in first.class_names]
        probability = 1 / (1 + np.exp(-saved.logits[:, order].astype(np.float64)))
        for file, row, labels in zip(saved.files, probability, saved.targets[:, order], strict=True):
            k = place.setdefault(file, len(sums))
            if k == len(sums):
                sums.append(row)
                counts.append(1)
                targets.append(labels)
                continue
            if not np.array_equal(labels, targets[k]):
                raise DataError(
                    f"{name}: {file} has other labels than in another of the runs; name runs that were trained on the "
                    "same labels (dataset.corrections, partial and the annotation files change them)"
                )
            sums[k] = sums[k] + row
            counts[k] += 1
    mean = np.stack(sums) / np.array(counts)[:, None]
    return HeldOut(tuple(place), first.class_names, np.stack(targets), mean)


def find_candidates(
    held_out: HeldOut,
    kinds: Sequence[Kind] = ("missing", "wrong"),
    *,
    count: int | None = None,
    columns: Sequence[int] = (),
) -> Candidates:
    """Rank labels by how likely they are errors.

    Labels of a kind are ranked by the probability of their value ("self confidence"). The kinds take turns in the list:
    positives are few and less probable, so that one ranking would begin with positives alone. How long the list is,
    confident learning says (`filter_by="confident_learning"` in cleanlab): a label is in it if the probability of the
    other value is at least what images with that value have on average, in its class.

    Unknown labels are no part of this: they count neither as positives nor as negatives. With the kind "unknown" they
    are ranked as if they were negative.

    Args:
        held_out: predictions.
        kinds: kinds of errors to list.
        count: length of the list instead, if there are so many labels.
        columns: classes whose labels are listed; none: all.

    Raises:
        ConfigError: cleanlab is not installed.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise ConfigError("finding label errors needs cleanlab: pip install 'mltrain-vision[clean]'")
    fit = judged(held_out)
    chosen = [k for k in (columns or range(len(fit))) if fit[k]]
    parts = [part for k in chosen for part in _of_class(held_out, k, kinds, count)]
    rows, classes, given, scores = (
        np.concatenate([np.zeros(0, dtype), *(part[i] for part in parts)]).astype(dtype)
        for i, dtype in enumerate((np.int64, np.int64, np.int8, np.float64))
    )
    turn = np.zeros(len(rows), dtype=np.int64)
    for value in GIVEN.values():
        of_kind = np.flatnonzero(given == value)
        turn[of_kind[np.lexsort((classes[of_kind], rows[of_kind], scores[of_kind]))]] = np.arange(len(of_kind))
    order = np.lexsort((-given, turn))[:count]
    return Candidates(rows[order], classes[order], given[order], scores[order])


def judged(held_out: HeldOut) -> np.ndarray:
    """Return which classes have known positives and known negatives, as candidates need; bool (C,)."""
    return (held_out.targets == 1).any(axis=0) & (held_out.targets == 0).any(axis=0)


def skill(held_out: HeldOut) -> tuple[float, float]:
    """Return the mAP over the judged classes, and the mAP that random scores would have: the share of positives."""
    import torch

    from mltrain.metrics import average_precision

    fits = judged(held_out)
    targets = held_out.targets[:, fits]
    if not fits.any():
        return 0.0, 0.0
    values = average_precision(torch.from_numpy(held_out.probability[:, fits]), torch.from_numpy(targets))
    shares = (targets == 1).sum(axis=0) / (targets >= 0).sum(axis=0)
    return float(values.mean()), float(shares.mean())


_Part = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""rows, columns, given, scores"""


def _of_class(held_out: HeldOut, k: int, kinds: Sequence[Kind], count: int | None) -> Iterator[_Part]:
    """Yield the candidates of class k by kind: those that confident learning finds, or the first `count`."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    targets, p = held_out.targets[:, k], held_out.probability[:, k]
    known = np.flatnonzero(targets >= 0)
    labels = targets[known].astype(np.int64)
    probability = np.stack([1 - p[known], p[known]], axis=1)
    scores = 1 - p  # of an unknown label, as if it were negative
    scores[known] = get_label_quality_scores(labels, probability, method="self_confidence")
    found = np.zeros(len(p), dtype=bool)
    if count is None:
        found[known] = find_label_issues(labels, probability, filter_by="confident_learning", n_jobs=1)
        if "unknown" in kinds:
            # cleanlab takes known labels only. The same rule, with the averages of the known ones:
            of_negatives, of_positives = (probability[labels == value, value].mean() for value in (0, 1))
            found |= (targets < 0) & (p >= of_positives) & ((1 - p < of_negatives) | (p > 1 - p))
    for kind in kinds:
        of_kind = targets == GIVEN[kind]
        rows = np.flatnonzero(of_kind & found if count is None else of_kind)
        if count is not None:
            rows = rows[np.argsort(scores[rows], kind="stable")[:count]]
        yield rows, np.full(len(rows), k), targets[rows], scores[rows]
