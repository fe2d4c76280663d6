"""Iterative stratification of multi-label data, for images or for groups of images that stay together.

K. Sechidis, G. Tsoumakas, I. Vlahavas: On the Stratification of Multi-Label Data (ECML PKDD 2011), Algorithm 1: the
label with the fewest images left comes first, and each of its images goes to the part that lacks most of that label; of
several, to the one that lacks most images. The paper breaks remaining ties at random; here hashes of the names do, so
the result depends on a seed and on the images, not on their order. Counts are integers, so no tie is lost to rounding.

Two extensions: a unit may be a group of images, which counts with all its images and comes the earlier the more of the
label it has; and a unit that has none of the labels goes to the part that lacks most images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy import sparse

from mltrain.labels import LabelSet, row_entries

_LARGEST_DENOMINATOR = 10_000


def stratify(
    labels: LabelSet,
    shares: Sequence[float | Fraction],
    *,
    seed: int,
    groups: Sequence[str] | None = None,
    by_labels: bool = True,
) -> np.ndarray:
    """Return the part that each image goes to, int64 (N,).

    Args:
        labels: images to divide; only positive labels count.
        shares: share of each part, above 0; they add up to 1.
        seed: seed of the hashes that break ties.
        groups: group of each image; images of one group go to one part. None: each image by itself.
        by_labels: False ignores the labels, so that only the sizes of the parts count.
    """
    names = labels.files if groups is None else list(groups)
    keys = sorted(set(names))
    digests = {name: _digest(seed, name) for name in keys}
    keys.sort(key=digests.__getitem__)
    place = {name: k for k, name in enumerate(keys)}
    units = np.fromiter((place[name] for name in names), dtype=np.int64, count=len(names))
    rows, columns = labels.positive_pairs() if by_labels else (np.empty(0, np.int64), np.empty(0, np.int64))
    classes = sorted(range(labels.num_classes), key=lambda k: _digest(seed, labels.class_names[k]))
    order = np.empty(labels.num_classes, dtype=np.int64)
    order[classes] = np.arange(labels.num_classes)
    counts = sparse.csc_matrix(
        (np.ones(len(rows), dtype=np.int64), (units[rows], order[columns])), shape=(len(keys), labels.num_classes)
    )
    ties = [int.from_bytes(digests[name][:8], "big") for name in keys]
    return divide_units(counts, np.bincount(units, minlength=len(keys)), shares, ties)[units]


def divide_units(
    counts: sparse.csc_matrix, sizes: np.ndarray, shares: Sequence[float | Fraction], ties: Sequence[int]
) -> np.ndarray:
    """Return the part that each unit goes to, int64 (U,); units and classes that come first win ties.

    Args:
        counts: (U, C); images of the unit with the label.
        sizes: (U,); images of the unit.
        shares: share of each of the P parts.
        ties: an integer of each unit; of T parts that lack the same it takes number `ties[u] % T`.
    """
    exact = [Fraction(share).limit_denominator(_LARGEST_DENOMINATOR) for share in shares]
    scale = int(np.lcm.reduce([share.denominator for share in exact]))
    weights = np.array([int(share * scale) for share in exact], dtype=np.int64)
    counts.sum_duplicates()
    counts.sort_indices()
    by_unit = counts.tocsr()
    left = np.asarray(counts.sum(axis=0)).ravel().astype(np.int64)  # (C,), images with the label to be placed
    # What a part lacks is counted in images times `scale`.
    lacking = weights[:, None] * left  # (P, C)
    room = (weights * int(sizes.sum())).tolist()  # (P,), images of any labels
    part = np.full(len(sizes), -1, dtype=np.int64)
    never = np.iinfo(np.int64).max
    while left.any():
        label = int(np.argmin(np.where(left > 0, left, never)))
        span = slice(counts.indptr[label], counts.indptr[label + 1])
        units, having = counts.indices[span], counts.data[span]
        free = part[units] < 0
        units, having = units[free], having[free]
        larger_first = np.argsort(-having, kind="stable")
        units, having = units[larger_first], having[larger_first]
        want = lacking[:, label].tolist()
        chosen = [
            _place(want, room, number * scale, size * scale, ties[unit])
            for unit, number, size in zip(units.tolist(), having.tolist(), sizes[units].tolist(), strict=True)
        ]
        part[units] = chosen
        entries, lengths = row_entries(by_unit.indptr, units)
        columns, images = by_unit.indices[entries], by_unit.data[entries]
        np.subtract.at(lacking, (np.repeat(part[units], lengths), columns), images * scale)
        np.subtract.at(left, columns, images)
    bare = np.flatnonzero(part < 0)
    bare = bare[np.argsort(-sizes[bare], kind="stable")]
    for unit, size in zip(bare.tolist(), sizes[bare].tolist(), strict=True):
        part[unit] = _place(room, room, 0, size * scale, ties[unit])
    return part


def _place(want: list[int], room: list[int], number: int, size: int, tie: int) -> int:
    """Return the part that lacks most of the label, then most images, and take the unit off what it lacks."""
    most = max(want)
    if want.count(most) == 1:
        chosen = want.index(most)
    else:
        tied = [j for j, lack in enumerate(want) if lack == most]
        space = max(room[j] for j in tied)
        tied = [j for j in tied if room[j] == space]
        chosen = tied[tie % len(tied)]
    want[chosen] -= number
    room[chosen] -= size
    return chosen


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogateescape")).digest()
