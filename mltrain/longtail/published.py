"""The published generator: its algorithm and its random stream, which reproduce the published split id for id.

Distribution-Balanced Loss, Wu et al., ECCV 2020, arXiv:2007.09654, tools/create_longtail_dataset.py of
github.com/wutong16/DistributionBalancedLoss. Checked in tests/longtail/test_published.py: the labels of VOC2012
trainval with seed 0, max 800 and b 6 give the 1,142 ids of VOC-MLT in the published order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np


def published_selection(
    labels_of: Sequence[Sequence[int]], order: Sequence[int], targets: Sequence[int], *, seed: int = 0
) -> np.ndarray:
    """Return the selected images, int64, in the published order.

    Works class by class: if the selection has too few images of the class, random others are added with all their
    labels; if it has too many, random ones are removed, which may leave earlier classes below their targets.

    The order of elements in Python's integer sets is part of the random stream, and depends on the history of each set.
    So the sets grow and shrink image by image. `random.sample` gets them as tuples, because Python 3.11 and later
    refuse sets.

    Args:
        labels_of: positive class indices of each image, ascending.
        order: all classes, in the order in which they are brought to their targets.
        targets: (C,) wanted images of each class.
        seed: seed of Python's random stream; 0 was published.

    Raises:
        ValueError: a class has fewer images than its target.
    """
    stream = random.Random(seed)
    members: list[list[int]] = [[] for _ in targets]
    for image, labels in enumerate(labels_of):
        for c in labels:
            members[c].append(image)
    selected: set[int] = set()
    selected_of: list[set[int]] = [set() for _ in targets]
    for c in order:
        surplus = len(selected_of[c]) - targets[c]
        if surplus < 0:
            for image in stream.sample(tuple(set(members[c]) - selected_of[c]), -surplus):
                selected.add(image)
                for label in labels_of[image]:
                    selected_of[label].add(image)
        elif surplus > 0:
            for image in stream.sample(tuple(selected_of[c]), surplus):
                selected.remove(image)
                for label in labels_of[image]:
                    selected_of[label].remove(image)
    return np.fromiter(selected, dtype=np.int64, count=len(selected))
