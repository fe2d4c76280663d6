"""Choosing images so that many classes come near their targets at once, though every image brings all its labels.

Images are drawn class by class, rarest class first, at random among those that lift no class above its limit. Then
single images are added or removed as long as that lowers the weighted distance to the targets,
sum_c |n_c - t_c| / max(t_c, 1), and chosen images are swapped for others that show the same classes and one more that
is still below its target. The work is done in rounds of array operations: a round sorts the images, ranks each among
those with the same label, and takes all whose ranks leave room.
"""

from __future__ import annotations

import numpy as np

from mltrain.labels import row_entries

ROUNDS = 50
WORTH = 0.99  # `improve` stops when a round leaves more than this part of the distance


class Chooser:
    """Images with their positive labels, the chosen ones among them, and the number of chosen images per class."""

    def __init__(
        self, rows: np.ndarray, cols: np.ndarray, *, num_images: int, num_classes: int, seed: list[int]
    ) -> None:
        """Start with no image chosen, from (rows, cols) of the positives, sorted by row."""
        self.cols = cols
        self.indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_images))])
        by_class = np.argsort(cols, kind="stable")
        self.members = np.split(rows[by_class], np.cumsum(np.bincount(cols, minlength=num_classes))[:-1])
        self.free = np.ones(num_images, dtype=bool)
        """images that may still be chosen"""
        self.chosen = np.zeros(num_images, dtype=bool)
        self.counts = np.zeros(num_classes, dtype=np.int64)
        self.rng = np.random.default_rng(seed)

    def fill(self, wanted: np.ndarray, limits: np.ndarray) -> None:
        """Bring every class to `wanted` (C,), rarest first, unless a class would exceed its limit (C,)."""
        sizes = np.array([len(m) for m in self.members])
        for c in np.lexsort((sizes, wanted)):
            if self.counts[c] < wanted[c]:
                self._take(self._candidates(c), limits, need=int(wanted[c] - self.counts[c]))

    def lift(self, floors: np.ndarray, targets: np.ndarray, caps: np.ndarray) -> None:
        """Bring every class to its floor (C,) with the images that exceed targets least; no class exceeds its cap."""
        for c in np.argsort(floors - self.counts, kind="stable")[::-1]:
            need = int(floors[c] - self.counts[c])
            if need > 0:
                candidates = self._candidates(c)
                cost = self._sums(candidates, np.where(self.counts >= targets, 1 / np.maximum(targets, 1), 0.0))
                self._take(candidates[np.argsort(cost, kind="stable")], caps, need=need)

    def improve(self, targets: np.ndarray, floors: np.ndarray, caps: np.ndarray) -> None:
        """Add and remove images while the weighted distance to the targets falls, within floors and caps."""
        weight = 1 / np.maximum(targets, 1)
        distance = np.inf
        for _ in range(ROUNDS):
            gain = self._sums(None, np.where(self.counts < targets, weight, -weight))
            better = np.flatnonzero((gain > 1e-12) & self.free & ~self.chosen)
            # A class below its target may rise to it; a class above may rise on, because its cost is in the gain.
            self._take(self._best(better, gain), np.where(self.counts < targets, targets, caps))
            gain = self._sums(None, np.where(self.counts > targets, weight, -weight))
            better = np.flatnonzero((gain > 1e-12) & self.chosen)
            self._drop(self._best(better, gain), np.where(self.counts > targets, targets, floors))
            self._swap(targets)
            before, distance = distance, float((weight * np.abs(self.counts - targets)).sum())
            if distance == 0 or distance > WORTH * before:
                return

    def _swap(self, targets: np.ndarray) -> None:
        """Swap chosen images for free ones that have the same labels and a class below its target."""
        # Label sets are compared by sums of random numbers, one per class, which wrap around.
        keys = self.rng.integers(2**63, size=len(targets), dtype=np.uint64)
        ends = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(keys[self.cols])])[self.indptr]
        labels = ends[1:] - ends[:-1]
        old = self.rng.permutation(np.flatnonzero(self.chosen))
        old = old[np.argsort(labels[old], kind="stable")]
        old_labels = labels[old]
        missing = targets - self.counts
        for c in np.argsort(-missing / np.maximum(targets, 1), kind="stable"):
            if missing[c] <= 0 or not len(old):
                return
            new = self._candidates(c)
            wanted = labels[new] - keys[c]
            # The k-th new image that wants the same labels gets the k-th old one that has them.
            first = np.searchsorted(old_labels, wanted)
            at = first + _ranks(np.unique(first, return_inverse=True)[1])
            found = old_labels[np.minimum(at, len(old) - 1)] == wanted
            found &= at < len(old)
            found[found] = self.chosen[old[at[found]]]  # not swapped for an earlier class already
            picked = np.flatnonzero(found)[: missing[c]]
            self._count(old[at[picked]], -1)
            self._count(new[picked], 1)

    def _candidates(self, c: int) -> np.ndarray:
        """Return the images of class c that can still be chosen, in random order."""
        images = self.members[c]
        return self.rng.permutation(images[self.free[images] & ~self.chosen[images]])

    def _take(self, candidates: np.ndarray, limits: np.ndarray, need: int | None = None) -> None:
        """Choose candidates in their order while all their classes stay within the limits."""
        need = len(candidates) if need is None else need
        while need > 0 and len(candidates):
            room = limits - self.counts
            candidates = candidates[self._sums(candidates, (room <= 0).astype(np.float64)) == 0]
            batch, rest = candidates[:need], candidates[need:]
            taken = self._within(batch, room)
            self._count(batch[taken], 1)
            need -= int(taken.sum())
            candidates = np.concatenate([batch[~taken], rest])

    def _drop(self, candidates: np.ndarray, limits: np.ndarray) -> None:
        """Drop candidates in their order while all their classes stay at or above the limits."""
        while len(candidates):
            room = self.counts - limits
            candidates = candidates[self._sums(candidates, (room <= 0).astype(np.float64)) == 0]
            dropped = self._within(candidates, room)
            self._count(candidates[dropped], -1)
            candidates = candidates[~dropped]

    def _count(self, images: np.ndarray, step: int) -> None:
        self.chosen[images] = step > 0
        self.counts += step * np.bincount(self._labels(images)[0], minlength=len(self.counts))

    def _best(self, images: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """Sort images by falling gain, ties at random."""
        return images[np.lexsort((self.rng.random(len(images)), -gain[images]))]

    def _within(self, images: np.ndarray, room: np.ndarray) -> np.ndarray:
        """Return bool (n,): images whose rank among `images` is below the room of the class in all their classes."""
        labels, sizes = self._labels(images)
        rank = _ranks(labels)
        late = np.repeat(np.arange(len(images)), sizes)[rank >= room[labels]]
        within = np.ones(len(images), dtype=bool)
        within[late] = False
        return within

    def _sums(self, images: np.ndarray | None, per_class: np.ndarray) -> np.ndarray:
        """Return the sum of `per_class` over the labels of each image (None: of all images)."""
        if images is None:
            labels, sizes = self.cols, np.diff(self.indptr)
        else:
            labels, sizes = self._labels(images)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        return np.bincount(owner, weights=per_class[labels], minlength=len(sizes))

    def _labels(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of the images, one after the other, and the number of labels of each."""
        entries, sizes = row_entries(self.indptr, images)
        return self.cols[entries], sizes


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the number of equal values (whole numbers from 0) before each value."""
    order = np.argsort(values, kind="stable")
    sizes = np.bincount(values)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks
