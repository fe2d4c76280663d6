"""Which images an epoch shows, in which order.

A sampler has `order(epoch)`, a pure function of its seed and the epoch that gives int64 indices, and a length: the
number of indices of every epoch. It may repeat images and leave some out. `TrainLoader` cuts this one order into steps,
ranks and micro-batches, so every sampler is the same on any number of ranks and resumes in the middle of an epoch.

All have `epoch_size`, so that runs with different samplers can have equally many steps. Where it is not N, the samplers
that cycle through images (`UniformSampler`, `ClassAwareSampler`) go on in an epoch where the one before ended.
"""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
import torch

from mltrain.errors import DataError
from mltrain.labels import LabelSet, LabelStats
from mltrain.seeding import ORDER, integer_generator, integer_hash

logger = logging.getLogger(__name__)


class Sampler(Protocol):
    """What a loader needs of a sampler."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray: ...


class UniformSampler:
    """Every image once an epoch, shuffled (instance sampling).

    With an `epoch_size` other than N, epochs are consecutive pieces of an endless stream of such shuffles.

    Args:
        labels: the training set.
        stats: its statistics; not needed here, part of the constructor that all samplers share.
        seed: of the run.
        epoch_size: images an epoch; None: N.
    """

    def __init__(
        self, *, labels: LabelSet, stats: LabelStats | None = None, seed: int = 0, epoch_size: int | None = None
    ) -> None:
        self._count = len(labels)
        self._seed = seed
        self._size = _epoch_size(epoch_size, self._count)

    def __len__(self) -> int:
        return self._size

    def order(self, epoch: int) -> np.ndarray:
        if not self._size:
            return np.empty(0, np.int64)
        first = epoch * self._size
        cycles = range(first // self._count, (first + self._size - 1) // self._count + 1)
        shuffled = [torch.randperm(self._count, generator=integer_generator(ORDER, self._seed, k)) for k in cycles]
        start = first - cycles[0] * self._count
        return torch.cat(shuffled)[start : start + self._size].numpy()


class ClassAwareSampler:
    """Class-aware sampling: classes in shuffled rounds, and of the class drawn its next few images.

    Shen et al., Relay Backpropagation, arXiv 1512.05830; with `images_per_draw` 3 and `reduce` 4 as the repository of
    Distribution-Balanced Loss ran it (Wu et al., arXiv 2007.09654, "RS"). Every class has an endless cycle of its
    positives, shuffled anew each time round, and there is one such cycle of the classes. An image is in the cycle of
    each of its positive classes. The published length of an epoch is int(max_c n_c * C / reduce).

    Cycles do not start afresh with an epoch. So from the first step to any other, two classes differ by at most one
    draw, and two images of a class by at most one showing on behalf of that class. Nothing has to be stored for it: the
    class and the image at any place of the stream are computed from the place.

    Args:
        labels: the training set. Only positives count: unknown is not positive. Images without positives are not shown,
            classes without images are left out (with a warning) and not counted in C.
        stats: not needed here.
        seed: of the run.
        images_per_draw: consecutive images of a class each time it is drawn.
        reduce: divisor in the length of an epoch.
        epoch_size: images an epoch, in place of the published length.

    Raises:
        ValueError: an argument is out of range.
        DataError: no image has a positive.
    """

    def __init__(
        self,
        *,
        labels: LabelSet,
        stats: LabelStats | None = None,
        seed: int = 0,
        images_per_draw: int = 3,
        reduce: float = 4.0,
        epoch_size: int | None = None,
    ) -> None:
        if images_per_draw < 1:
            raise ValueError(f"images_per_draw={images_per_draw}: must be positive")
        if reduce <= 0:
            raise ValueError(f"reduce={reduce}: must be above 0")
        rows, columns = labels.positive_pairs()
        counts = np.bincount(columns, minlength=labels.num_classes)
        _warn_of_empty_classes(labels, counts)
        images = rows[np.argsort(columns, kind="stable")]
        ends = np.cumsum(counts)
        self._classes = [(c, images[ends[c] - counts[c] : ends[c]]) for c in np.flatnonzero(counts).tolist()]
        self._seed = seed
        self._per_draw = images_per_draw
        self._size = _epoch_size(epoch_size, max(1, int(counts.max() * len(self._classes) / reduce)))

    def __len__(self) -> int:
        return self._size

    def order(self, epoch: int) -> np.ndarray:
        # A round draws each of the C classes once. So the k-th round shows of a class the images k * p to k * p + p - 1
        # of its own cycle, p = images_per_draw, whatever the order of the classes was.
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
        """Places `first` to `first + count - 1` of an endless row of shuffles of 0..length - 1."""
        turn = first // length
        turns = (first + count - 1) // length + 1 - turn
        words = _random_words(integer_hash(ORDER, self._seed, key, length), turn * length, turns * length)
        shuffled = np.argsort(words.reshape(turns, length), axis=1).reshape(-1)
        return shuffled[first - turn * length :][:count]


class RepeatFactorSampler:
    """Repeat-factor sampling: image i is shown r_i = max(1, max_c sqrt(t / f_c)) times an epoch on average.

    Gupta et al., LVIS, arXiv 1908.03195: c runs over the positive classes of the image, f_c is the share of
    images that have class c, t is `threshold`. Images without positives have r_i = 1.

    The fractions of the r_i are rounded anew in each epoch, up or down, see `_rounded`. The published scheme rounds
    each image for itself, so its epochs differ in length; here all epochs have floor(sum_i r_i) images, for which the
    fractions (not the ones) are scaled down by less than one image an epoch in all.

    Args:
        labels: the training set. Only positives count: unknown is not positive.
        stats: not needed here.
        seed: of the run.
        threshold: t; classes rarer than this are repeated. 0.001 is LVIS's; small sets need more.
        epoch_size: images an epoch, all r_i scaled to it alike (then below 1 for frequent images, where it is small).

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        labels: LabelSet,
        stats: LabelStats | None = None,
        seed: int = 0,
        threshold: float = 0.001,
        epoch_size: int | None = None,
    ) -> None:
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
        self._size = _epoch_size(epoch_size, total)
        self._expected = factors if epoch_size is None else factors * (epoch_size / np.cumsum(factors)[-1])
        self._seed = seed
        logger.info(
            "%s: repeat factors above 1 for %d of %d images, at most %.2f; %d images an epoch",
            labels.name, repeated, len(labels), factors.max(initial=1.0), self._size,
        )  # fmt: skip

    def __len__(self) -> int:
        return self._size

    def order(self, epoch: int) -> np.ndarray:
        return _rounded(self._expected, self._size, integer_generator(ORDER, self._seed, epoch))


class SquareRootSampler:
    """Square-root sampling: a class with probability sqrt(n_c) / sum_k sqrt(n_k), then one of its images.

    Kang et al., Decoupling Representation and Classifier, arXiv 1910.09217, equation 1 with q = 1/2. The number of
    showings to expect of an image is the sum of this over its positive classes. Independent draws would leave out some
    images and show others often by chance; here each is shown its expected number rounded up or down, see `_rounded`.

    Args:
        labels: the training set. Only positives count: unknown is not positive. Images without positives are not shown,
            classes without images left out (with a warning).
        stats: not needed here.
        seed: of the run.
        epoch_size: images an epoch; None: N.

    Raises:
        ValueError: an argument is out of range.
        DataError: no image has a positive.
    """

    def __init__(
        self, *, labels: LabelSet, stats: LabelStats | None = None, seed: int = 0, epoch_size: int | None = None
    ) -> None:
        rows, columns = labels.positive_pairs()
        counts = np.bincount(columns, minlength=labels.num_classes)
        _warn_of_empty_classes(labels, counts)
        self._size = _epoch_size(epoch_size, len(labels))
        weights = np.bincount(rows, 1 / np.sqrt(counts[columns]), minlength=len(labels))
        self._expected = weights * (self._size / np.cumsum(np.sqrt(counts))[-1])
        self._seed = seed

    def __len__(self) -> int:
        return self._size

    def order(self, epoch: int) -> np.ndarray:
        return _rounded(self._expected, self._size, integer_generator(ORDER, self._seed, epoch))


class ClassCostSampler:
    """Images in proportion to the cost of their class; with several labels, to the mean of their costs.

    An image without positives is shown as one of cost 1, the least. Each is shown its expected number an epoch,
    rounded up or down, see `_rounded`.

    Args:
        labels: the training set, or the images that a curriculum has chosen of it.
        stats: not needed here.
        seed: of the run.
        class_costs: float64 (C,), above 0, from the curriculum (`curriculum=spbl`); None: all the same.
        epoch_size: images an epoch; None: N.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        labels: LabelSet,
        stats: LabelStats | None = None,
        seed: int = 0,
        class_costs: np.ndarray | None = None,
        epoch_size: int | None = None,
    ) -> None:
        costs = np.ones(labels.num_classes) if class_costs is None else class_costs
        if costs.shape != (labels.num_classes,) or not (costs > 0).all():
            raise ValueError(f"class_costs must be {labels.num_classes} numbers above 0, found {costs}")
        self._size = _epoch_size(epoch_size, len(labels))
        rows, columns = labels.positive_pairs()
        counts = np.bincount(rows, minlength=len(labels))
        weights = np.bincount(rows, costs[columns], minlength=len(labels)) / np.maximum(counts, 1)
        weights[counts == 0] = 1.0
        # cumsum adds one by one; sum does not on every processor
        self._expected = weights * (self._size / np.cumsum(weights)[-1]) if len(labels) else weights
        self._seed = seed

    def __len__(self) -> int:
        return self._size

    def order(self, epoch: int) -> np.ndarray:
        return _rounded(self._expected, self._size, integer_generator(ORDER, self._seed, epoch))


def _rounded(expected: np.ndarray, total: int, generator: torch.Generator) -> np.ndarray:
    """Indices, shuffled, `total` of them: i appears floor(expected[i]) or one time more, on average expected[i] times.

    Systematic sampling (Madow, 1949): the fractions are laid end to end in random order and points at distance 1 put
    over them from a random start; a fraction is rounded up where it holds a point. `total` is the sum of `expected`, or
    less; then the fractions are scaled down to fit.
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
    """Words `first` to `first + count - 1` of an endless row of 64-bit random words, without computing those before."""
    block, skip = divmod(first, 4)  # Philox gives four words for each value of its counter
    words: np.ndarray = np.random.Philox(key=key, counter=block).random_raw(skip + count)
    return words[skip:]


def _epoch_size(given: int | None, default: int) -> int:
    if given is None:
        return default
    if given < 1:
        raise ValueError(f"epoch_size={given}: must be positive, or None for {default}")
    return given


def _warn_of_empty_classes(labels: LabelSet, counts: np.ndarray) -> None:
    if not counts.any():
        raise DataError(f"{labels.name}: no image has a positive label, so none can be drawn by its class")
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        names = ", ".join(labels.class_names[c] for c in empty[:5]) + (", ..." if len(empty) > 5 else "")
        logger.warning("%s: %d classes have no image and are never drawn: %s", labels.name, len(empty), names)
