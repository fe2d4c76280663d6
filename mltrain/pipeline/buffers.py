"""Recycled memory that workers write batches to and the main process reads them from."""

from __future__ import annotations

import itertools
import mmap
import weakref
from typing import NamedTuple

import numpy as np
import torch


class Lent(NamedTuple):
    """A reference to a buffer, which travels to a worker and back."""

    buffers: int
    number: int


class BatchBuffers:
    """`count` buffers of `size` bytes, shared with processes that are forked later.

    Fresh memory costs several times as much as copying pixels into it, because the system has to find, clear and map
    every page: without recycling a training from the cache loads half as many images per second. So a buffer is lent
    with a job, filled by a worker and handed out to the consumer; it is free again when nothing refers to that tensor
    or to a view of it. The system provides the memory at the first write.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._stride = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = mmap.mmap(-1, max(count * self._stride, 1))
        self._free = list(range(count))
        self._lent: set[int] = set()
        self._id = next(_IDS)
        _ALIVE[self._id] = self

    def lend(self) -> Lent | None:
        """Lend a free buffer; None if all are in use, because the consumer keeps many batches."""
        if not self._free:
            return None
        number = self._free.pop()
        self._lent.add(number)
        return Lent(self._id, number)

    def take_back(self) -> None:
        """Take back the buffers that are lent; only while no worker uses them."""
        self._free += self._lent
        self._lent.clear()

    def memory(self, lent: Lent) -> torch.Tensor:
        """Return the memory of a buffer, uint8 (size,), to be filled."""
        return torch.from_numpy(self._array(lent.number))

    def _hand_out(self, number: int) -> torch.Tensor:
        array = self._array(number)
        self._lent.remove(number)
        # A tensor and all its views refer to the array behind them; when the last one is gone, the buffer is free.
        weakref.finalize(array, self._free.append, number).atexit = False
        return torch.from_numpy(array)

    def _array(self, number: int) -> np.ndarray:
        return np.frombuffer(self._map, dtype=np.uint8, count=self.size, offset=number * self._stride)


_IDS = itertools.count()
_ALIVE: weakref.WeakValueDictionary[int, BatchBuffers] = weakref.WeakValueDictionary()


def hand_out(lent: Lent) -> torch.Tensor:
    """Return the filled buffer, uint8 (size,), which the consumer owns until the tensor and all its views are gone."""
    return _ALIVE[lent.buffers]._hand_out(lent.number)
