"""Samplers choose the images of an epoch and their order.

A sampler has `order(epoch)`, a pure function of its seed and the epoch that returns int64 indices, and a length: the
number of indices in every epoch. It may repeat images and leave some out. `TrainLoader` cuts this one order into steps,
ranks and micro-batches, so every sampler is the same on any number of ranks and resumes in the middle of an epoch.

All samplers take these arguments:
    labels: the training set. Only positives count: an unknown target is not positive.
    stats: its statistics.
    seed: of the run.
    epoch_size: images per epoch, so that runs with different samplers can have the same number of steps; by default N,
        the number of images, or what the sampler's paper says.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from mltrain.errors import DataError
from mltrain.labels import LabelSet, LabelStats
from mltrain.seeding import ORDER, integer_generator, integer_hash
from mltrain.text import counted

logger = logging.getLogger(__name__)


class Sampler(Protocol):
    """The interface of a sampler."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray: ...


@dataclass(kw_only=True, eq=False)
class _Sampler:
    """Base of samplers: an epoch has as many indices as there are images, unless a subclass sets another size."""

    labels: LabelSet
    stats: LabelStats | None = None
    seed: int = 0
    epoch_size: int | None = None

    def __post_init__(self) -> None:
        self._set_size(len(self.labels))

    def __len__(self) -> int:
        return self._size

    def _set_size(self, default: int) -> None:
        if self.epoch_size is not None and self.epoch_size < 1:
            raise ValueError(f"epoch_size={self.epoch_size}: must be positive, or None for {default}")
        self._size = default if self.epoch_size is None else self.epoch_size


class UniformSampler(_Sampler):
    """Instance sampling: every image once per epoch, shuffled.

    With an `epoch_size` other than N, epochs are consecutive pieces of an endless stream of such shuffles.
    """

    def order(self, epoch: int) -> np.ndarray:
        if not self._size:
            return np.empty(0, np.int64)
        first, count = epoch * self._size, len(self.labels)
        cycles = range(first // count, (first + self._size - 1) // count + 1)
        shuffled = [torch.randperm(count, generator=integer_generator(ORDER, self.seed, k)) for k in cycles]
        start = first - cycles[0] * count
        return torch.cat(shuffled)[start : start + self._size].numpy()


@dataclass(kw_only=True, eq=False)
class ClassAwareSampler(_Sampler):
    """Class-aware sampling: draw classes in shuffled rounds, and for each class its next few images.

    Shen et al., Relay Backpropagation, arXiv 1512.05830; with `images_per_draw` 3 and `reduce` 4 as the repository of
    Distribution-Balanced Loss ran it (Wu et al., arXiv 2007.09654, "RS"). Every class has an endless cycle of its
    positives, reshuffled after each pass, and there is one such cycle of the classes. An image is in the cycle of
    each of its positive classes. Images without positives are not shown, classes without images are left out (with a
    warning) and not counted in C. The published length of an epoch is int(max_c n_c * C / reduce).

    Cycles continue across epochs. So from the first step to any other, the numbers of draws of two classes differ by at
    most one, and so do those of two images of a class. This needs no state: the class and the image at any position of
    the stream are functions of the position.

    Args:
        images_per_draw: consecutive images of a class each time it is drawn.
        reduce: divisor in the length of an epoch.

    Raises:
        ValueError: an argument is out of range.
        DataError: no image has a positive.
    """

    images_per_draw: int = 3
    reduce: float = 4.0

    def __post_init__(self) -> None:
        if self.images_per_draw < 1:
            raise ValueError(f"images_per_draw={self.images_per_draw}: must be positive")
        if not 0 < self.reduce < math.inf:
            raise ValueError(f"reduce={self.reduce}: must be above 0 and finite")
        rows, columns = self.labels.positive_pairs()
        counts = np.bincount(columns, minlength=self.labels.num_classes)
        _warn_of_empty_classes(self.labels, counts)
        images = rows[np.argsort(columns, kind="stable")]
        ends = np.cumsum(counts)
        self._classes = [(c, images[ends[c] - counts[c] : ends[c]]) for c in np.flatnonzero(counts).tolist()]
        self._per_draw = self.images_per_draw
        self._set_size(max(1, int(counts.max() * len(self._classes) / self.reduce)))

    def order(self, epoch: int) -> np.ndarray:
        # A round draws each of the C classes once. So the k-th round shows the images k * p to k * p + p - 1 of the
        # cycle of each class, p = images_per_draw, whatever the order of the classes was.
        per_round = len(self._classes) * self._per_draw
        first = epoch * self._size
        start = first // per_round
        rounds = (first + self._size - 1) // per_round + 1 - start
        images = np.empty((rounds, len(self._classes), self._per_draw), np.int64)
        for place, (c, members) in enumerate(self._classes):
            shuffled = self._cycle(c, len(members), start * self._per_draw, rounds * self._per_draw)
            images[:, place] = members[shuffled].reshape(rounds, self._per_draw)
        classes = self._cycle(-1, len(self._classes), start * len(self._classes), rounds * len(self._classes))
        drawn = np.take_along_axis(images, classes.reshape(rounds, -1, 1), axis=1).reshape(-1)
        return drawn[first - start * per_round :][: self._size]

    def _cycle(self, key: int, length: int, first: int, count: int) -> np.ndarray:
        """Return positions `first` to `first + count - 1` of an endless sequence of shuffles of 0..length - 1."""
        turn = first // length
        turns = (first + count - 1) // length + 1 - turn
        words = _random_words(integer_hash(ORDER, self.seed, key, length), turn * length, turns * length)
        shuffled = np.argsort(words.reshape(turns, length), axis=1).reshape(-1)
        return shuffled[first - turn * length :][:count]


class _ExpectedCountSampler(_Sampler):
    """Base of the samplers that show image i `expected[i]` times per epoch on average, rounded again in each epoch."""

    _expected: np.ndarray

    def order(self, epoch: int) -> np.ndarray:
        return _rounded(self._expected, self._size, integer_generator(ORDER, self.seed, epoch))


@dataclass(kw_only=True, eq=False)
class RepeatFactorSampler(_ExpectedCountSampler):
    """Repeat-factor sampling: show image i r_i = max(1, max_c sqrt(t / f_c)) times per epoch on average.

    Gupta et al., LVIS, arXiv 1908.03195: c runs over the positive classes of the image, f_c is the share of
    images that have class c, t is `threshold`. Images without positives have r_i = 1.

    The r_i are rounded again in each epoch, see `_rounded`. The published scheme rounds the r_i independently, so its
    epochs differ in length; here all epochs have floor(sum_i r_i) images, and to fit, the fractions of the r_i shrink
    by less than one image per epoch in total. An `epoch_size` scales all r_i by the same factor, so that those of
    frequent images may fall below 1.

    Args:
        threshold: t; classes rarer than this are repeated. LVIS has 0.001; small data sets need more.

    Raises:
        ValueError: an argument is out of range.
    """

    threshold: float = 0.001

    def __post_init__(self) -> None:
        labels, threshold = self.labels, self.threshold
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold}: must be above 0 and at most 1")
        rows, columns = labels.positive_pairs()
        share = np.bincount(columns, minlength=labels.num_classes) / max(1, len(labels))
        factors = np.ones(len(labels))
        np.maximum.at(factors, rows, np.sqrt(threshold / share[columns]))
        repeated = np.count_nonzero(factors > 1)
        if not repeated:
            rarest = f"{share[share > 0].min():.2g}" if len(columns) else "none"
            logger.warning(
                "%s: threshold=%g repeats no image (share of the rarest class: %s); raise it, or use sampler=uniform",
                labels.name, threshold, rarest,
            )  # fmt: skip
        whole = np.floor(factors)
        # cumsum adds one by one; sum does not on every processor, and the length must not depend on that.
        total = int(whole.sum()) + int(np.append(0.0, np.cumsum(factors - whole))[-1])
        self._set_size(total)
        self._expected = factors if self.epoch_size is None else factors * (self._size / np.cumsum(factors)[-1])
        logger.info(
            "%s: repeat factors above 1 for %d of %d images, at most %.2f; %d images an epoch",
            labels.name, repeated, len(labels), factors.max(initial=1.0), self._size,
        )  # fmt: skip


class SquareRootSampler(_ExpectedCountSampler):
    """Square-root sampling: draw a class with probability sqrt(n_c) / sum_k sqrt(n_k), then one of its images.

    Kang et al., Decoupling Representation and Classifier, arXiv 1910.09217, equation 1 with q = 1/2. The expected count
    of an image is the sum over its positive classes. Independent draws would leave out some images and show others
    often by chance; here each is shown its expected number of times, rounded up or down, see `_rounded`. Images without
    positives are not shown, classes without images are left out (with a warning).

    Raises:
        ValueError: an argument is out of range.
        DataError: no image has a positive.
    """

    def __post_init__(self) -> None:
        rows, columns = self.labels.positive_pairs()
        counts = np.bincount(columns, minlength=self.labels.num_classes)
        _warn_of_empty_classes(self.labels, counts)
        self._set_size(len(self.labels))
        weights = np.bincount(rows, 1 / np.sqrt(counts[columns]), minlength=len(self.labels))
        self._expected = weights * (self._size / np.cumsum(np.sqrt(counts))[-1])


@dataclass(kw_only=True, eq=False)
class ClassCostSampler(_ExpectedCountSampler):
    """Sampling in proportion to the cost of an image's class, or to the mean cost of its classes.

    An image without positives counts as one of cost 1, the lowest. Each is shown its expected number of times per
    epoch, rounded up or down, see `_rounded`.

    Args:
        class_costs: float64 (C,), above 0, from the curriculum (`curriculum=spbl`); None: all equal.

    Raises:
        ValueError: an argument is out of range.
    """

    class_costs: np.ndarray | None = None

    def __post_init__(self) -> None:
        labels = self.labels
        costs = np.ones(labels.num_classes) if self.class_costs is None else self.class_costs
        if costs.shape != (labels.num_classes,) or not (costs > 0).all():
            raise ValueError(f"class_costs must be {labels.num_classes} numbers above 0, found {costs}")
        self._set_size(len(labels))
        rows, columns = labels.positive_pairs()
        counts = np.bincount(rows, minlength=len(labels))
        weights = np.bincount(rows, costs[columns], minlength=len(labels)) / np.maximum(counts, 1)
        weights[counts == 0] = 1.0
        # cumsum adds one by one; sum does not on every processor
        self._expected = weights * (self._size / np.cumsum(weights)[-1]) if len(labels) else weights


def _rounded(expected: np.ndarray, total: int, generator: torch.Generator) -> np.ndarray:
    """Return `total` shuffled indices: i appears floor(expected[i]) times or once more, on average expected[i] times.

    Systematic sampling (Madow, 1949): lay the fractions end to end in random order and put points at distance 1 on them
    from a random start; a fraction that holds a point is rounded up. If `total` is less than the sum of `expected`, the
    fractions are scaled down to fit.
    """
    whole = np.floor(expected)
    fraction = expected - whole
    counts = whole.astype(np.int64)
    points = total - int(counts.sum())
    candidates = np.flatnonzero(fraction)
    if points > 0 and len(candidates):
        candidates = candidates[torch.randperm(len(candidates), generator=generator).numpy()]
        ends = np.cumsum(fraction[candidates])
        start = torch.rand((), dtype=torch.float64, generator=generator).item()
        places = (np.arange(points) + start) * (ends[-1] / points)
        hit = np.searchsorted(ends, places, side="right")
        np.add.at(counts, candidates[np.minimum(hit, len(candidates) - 1)], 1)
    order = np.repeat(np.arange(len(expected)), counts)
    return order[torch.randperm(len(order), generator=generator).numpy()]


def _random_words(key: int, first: int, count: int) -> np.ndarray:
    """Return words `first` to `first + count - 1` of an endless random sequence, without computing the others."""
    block, skip = divmod(first, 4)  # Philox returns four words for each value of its counter
    words: np.ndarray = np.random.Philox(key=key, counter=block).random_raw(skip + count)
    return words[skip:]


def _warn_of_empty_classes(labels: LabelSet, counts: np.ndarray) -> None:
    if not counts.any():
        raise DataError(f"{labels.name}: no image has a positive label, so none can be drawn by its class")
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        names = ", ".join(labels.class_names[c] for c in empty[:5]) + (", ..." if len(empty) > 5 else "")
        logger.warning(
            "%s: %s no image and cannot be drawn: %s", labels.name, counted(len(empty), "class", "have"), names
        )
