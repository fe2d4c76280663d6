"""Memory that workers write batches to and the main process reads them from, used again when a batch is gone."""

from __future__ import annotations

import itertools
import mmap
import weakref
from typing import NamedTuple

import numpy as np
import torch


class Lent(NamedTuple):
    """A buffer on its way through a worker and back."""

    buffers: int
    number: int


class BatchBuffers:
    """`count` buffers of `size` bytes, shared with processes that are forked later.

    Fresh memory costs several times what copying pixels into it does: the system has to find, clear and map every page.
    So buffers go round: lent with a job, filled by a worker, handed out to the consumer, and free again when nothing
    refers to the tensor that was handed out or to a view of it. Memory is taken when it is first written to.
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
        """A free buffer; None where all are in use, because the consumer keeps many batches."""
        if not self._free:
            return None
        number = self._free.pop()
        self._lent.add(number)
        return Lent(self._id, number)

    def take_back(self) -> None:
        """Makes free what is lent; only when no worker is at work."""
        self._free += self._lent
        self._lent.clear()

    def memory(self, lent: Lent) -> torch.Tensor:
        """The buffer, uint8 (size,), to be filled."""
        return torch.from_numpy(self._array(lent.number))

    def _hand_out(self, number: int) -> torch.Tensor:
        array = self._array(number)
        self._lent.remove(number)
        # A tensor and all its views refer to the array it was made of until the last of them is gone.
        weakref.finalize(array, self._free.append, number).atexit = False
        return torch.from_numpy(array)

    def _array(self, number: int) -> np.ndarray:
        return np.frombuffer(self._map, dtype=np.uint8, count=self.size, offset=number * self._stride)


_IDS = itertools.count()
_ALIVE: weakref.WeakValueDictionary[int, BatchBuffers] = weakref.WeakValueDictionary()


def hand_out(lent: Lent) -> torch.Tensor:
    """The filled buffer, uint8 (size,), the consumer's until the tensor and all views of it are gone."""
    return _ALIVE[lent.buffers]._hand_out(lent.number)
