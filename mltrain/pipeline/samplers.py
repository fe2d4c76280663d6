"""Which images an epoch shows, in which order.

A sampler has `order(epoch)`, a pure function of its seed and the epoch that gives int64 indices, and a length: the
number of indices of every epoch. It may repeat images and leave some out.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from mltrain.labels import LabelSet, LabelStats
from mltrain.pipeline.keys import ORDER, keyed_generator


class Sampler(Protocol):
    """What a loader needs of a sampler."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> np.ndarray: ...


class UniformSampler:
    """Every image once an epoch, shuffled.

    Args:
        labels: the training set.
        stats: its statistics; not needed here, part of the constructor that all samplers share.
        seed: of the run.
    """

    def __init__(self, *, labels: LabelSet, stats: LabelStats | None = None, seed: int = 0) -> None:
        self._count = len(labels)
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def order(self, epoch: int) -> np.ndarray:
        return torch.randperm(self._count, generator=keyed_generator(ORDER, self._seed, epoch)).numpy()
