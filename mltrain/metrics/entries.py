"""Inputs of the metrics: all predictions of a split, or only those of known targets if few targets are known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from mltrain.metrics.average_precision import (
    average_precision,
    check_shapes,
    micro_average_precision,
    ranking_average_precision,
    refuse_nan,
)
from mltrain.metrics.counts import Counts, checked_labels, count_above, count_at_topk, count_negatives, logit_of


@dataclass(frozen=True)
class DenseEntries:
    """Logits and targets of every image and class, `(N, C)` each."""

    logits: Tensor
    targets: Tensor

    def average_precision(self) -> np.ndarray:
        return average_precision(self.logits, self.targets).numpy()

    def micro_average_precision(self) -> float:
        return micro_average_precision(self.logits, self.targets)

    def count_above(self, cuts: float | Tensor) -> Counts:
        return count_above(self.logits, self.targets, cuts=cuts)

    def count_at_topk(self, k: int, threshold: float | None = None) -> Counts:
        return count_at_topk(self.logits, self.targets, k=k, threshold=threshold)

    def negatives(self) -> np.ndarray:
        return count_negatives(self.targets)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.targets)


@dataclass(frozen=True)
class KnownEntries:
    """The k known entries of a split, image by image, each with its rank among all classes of its image.

    It takes 13 bytes per known entry instead of 5 for each image and class: Open Images' test set has 1.2 billion of
    these, and about one in a thousand is known. All figures of `summarize` follow from it, the same to the last bit as
    from all predictions; unknown entries only count in the ranks.
    """

    images: int
    classes: int
    columns: Tensor
    """int32 (k,): class"""
    labels: Tensor
    """int8 (k,): 1 or 0"""
    logits: Tensor
    """fp32 (k,)"""
    ranks: Tensor
    """int32 (k,): 0 for the highest logit of the image; among equal logits the lowest class index comes first"""

    @classmethod
    def from_batch(cls, logits: Tensor, targets: Tensor) -> KnownEntries:
        """Select the known entries of a batch, `(B, C)` each: on the device of the logits, with the result on the CPU.

        Raises:
            ValueError: as `average_precision`.
        """
        check_shapes(logits, targets)
        refuse_nan(logits)
        labels = checked_labels(targets.to(logits.device))
        rows, columns = (labels >= 0).nonzero(as_tuple=True)
        order = logits.argsort(dim=1, descending=True, stable=True)
        places = torch.arange(logits.shape[1], device=logits.device).expand_as(order)
        ranks = torch.empty_like(order).scatter_(1, order, places)
        return cls(
            images=len(logits),
            classes=logits.shape[1],
            columns=columns.int().cpu(),
            labels=labels[rows, columns].cpu(),
            logits=logits[rows, columns].float().cpu(),
            ranks=ranks[rows, columns].int().cpu(),
        )

    @property
    def nbytes(self) -> int:
        """Memory of the entries in bytes."""
        tensors = (getattr(self, item.name) for item in fields(self))
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    def average_precision(self) -> np.ndarray:
        order = np.argsort(self.columns.numpy(), kind="stable")
        bounds = np.searchsorted(self.columns.numpy()[order], np.arange(1, self.classes))
        scores, labels = (np.split(part.numpy()[order], bounds) for part in (self.logits, self.labels))
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:
            return np.array(list(threads.map(ranking_average_precision, scores, labels)))

    def micro_average_precision(self) -> float:
        return ranking_average_precision(self.logits.numpy(), self.labels.numpy())

    def count_above(self, cuts: float | Tensor) -> Counts:
        if isinstance(cuts, Tensor):
            if cuts.shape != (self.classes,):
                raise ValueError(f"cuts must be ({self.classes},), one per class; got {tuple(cuts.shape)}")
            cuts = cuts[self.columns.long()]
        return self._count(self.logits > cuts)

    def count_at_topk(self, k: int, threshold: float | None = None) -> Counts:
        chosen = self.ranks < k
        return self._count(chosen if threshold is None else chosen & (self.logits >= logit_of(threshold)))

    def negatives(self) -> np.ndarray:
        return self._sum(self.labels == 0)

    def _count(self, predicted: Tensor) -> Counts:
        positive = self.labels == 1
        return Counts(self._sum(predicted & positive), self._sum(predicted), self._sum(positive))

    def _sum(self, mask: Tensor) -> np.ndarray:
        """Count the entries of each class in a mask; int64 `(C,)`."""
        return np.bincount(self.columns.numpy()[mask.numpy()], minlength=self.classes)


class KnownCollector:
    """Collects the known entries of many batches, in arrays that grow by doubling.

    A list of small tensors would fragment the heap, because large temporary tensors lie between them: memory then grew
    by about 10 MB per batch of 64 images with 9,605 classes.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.images = 0
        self._size = 0
        self._arrays = {key: torch.empty(0, dtype=dtype) for key, dtype in _DTYPES.items()}

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch, `(B, C)` each; see `KnownEntries.from_batch`."""
        batch = KnownEntries.from_batch(logits, targets)
        end = self._size + len(batch.columns)
        for key, array in self._arrays.items():
            if end > len(array):
                grown = torch.empty(max(end, 2 * len(array), 1 << 16), dtype=array.dtype)
                grown[: self._size] = array[: self._size]
                self._arrays[key] = array = grown
            array[self._size : end] = getattr(batch, key)
        self._size = end
        self.images += batch.images

    def entries(self) -> KnownEntries:
        """Return all entries so far; they share memory with the collector."""
        tensors = {key: array[: self._size] for key, array in self._arrays.items()}
        return KnownEntries(images=self.images, classes=self.classes, **tensors)


_DTYPES = {"columns": torch.int32, "labels": torch.int8, "logits": torch.float32, "ranks": torch.int32}
