"""Label frequencies of a training set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from mltrain.labels.label_set import LabelSet, frozen

GROUP_NAMES = ("head", "medium", "tail", "unseen")


@dataclass(frozen=True, eq=False)
class LabelStats:
    """Label frequencies of a *training* LabelSet, for losses, samplers, heads and group metrics.

    Groups follow the Distribution-Balanced benchmark (Wu et al., ECCV 2020): head n >= 100, medium 20 <= n < 100,
    tail n < 20 training positives (class 'backpack' with exactly 100 is head in the published split). A class whose
    training targets are all unknown is in none of the three: it is unseen (zero-shot).
    """

    class_names: tuple[str, ...]
    num_images: int
    positives: np.ndarray
    """int64 (C,)"""
    negatives: np.ndarray
    """int64 (C,)"""
    unknowns: np.ndarray
    """int64 (C,)"""
    cooccurrence: sparse.csr_matrix
    """int64 (C, C): images in which both classes are positive; the diagonal holds `positives`"""
    head_min: int = 100
    medium_min: int = 20

    @classmethod
    def from_labels(cls, labels: LabelSet, head_min: int = 100, medium_min: int = 20) -> LabelStats:
        """Count a LabelSet.

        Raises:
            ValueError: not head_min >= medium_min >= 1.
        """
        if not head_min >= medium_min >= 1:
            raise ValueError(f"groups need head_min >= medium_min >= 1, got {head_min}, {medium_min}")
        n, c = len(labels), labels.num_classes
        rows, cols = labels.positive_pairs()
        counts = {value: np.bincount(labels.pairs(value)[1], minlength=c) for value in {1, 0, -1} - {labels.fill}}
        counts[labels.fill] = n - np.sum(list(counts.values()), axis=0)  # all that the images do not list
        positives, negatives, unknowns = (frozen(counts[value].astype(np.int64)) for value in (1, 0, -1))
        incidence = sparse.csr_matrix((np.ones(len(rows), dtype=np.int64), (rows, cols)), shape=(n, c))
        cooccurrence = sparse.csr_matrix(incidence.T @ incidence)
        cooccurrence.sort_indices()
        return cls(labels.class_names, n, positives, negatives, unknowns, cooccurrence, head_min, medium_min)

    @property
    def groups(self) -> np.ndarray:
        """int8 (C,): 0 head, 1 medium, 2 tail, 3 unseen."""
        groups = np.where(self.positives >= self.head_min, 0, np.where(self.positives >= self.medium_min, 1, 2))
        groups[(self.unknowns > 0) & (self.positives + self.negatives == 0)] = 3
        return groups.astype(np.int8)

    def group_indices(self) -> dict[str, np.ndarray]:
        """Return the class indices, int64, of head, medium and tail, and of unseen if there is such a class.

        Without a training image no class is in any of them, because nothing was counted.
        """
        groups = self.groups if self.num_images else np.full(len(self.class_names), -1)
        indices = {name: np.flatnonzero(groups == k) for k, name in enumerate(GROUP_NAMES)}
        if not len(indices["unseen"]):
            del indices["unseen"]
        return indices

    def log_prior_odds(self) -> np.ndarray:
        """Return log(positives / negatives), float64 (C,); a count of 0 is taken as 1, so that all are finite."""
        return np.log(np.maximum(self.positives, 1)) - np.log(np.maximum(self.negatives, 1))

    def to_arrays(self) -> dict[str, Any]:
        """Return plain values and NumPy arrays, which `from_arrays` reads."""
        return {
            "class_names": list(self.class_names),
            "num_images": self.num_images,
            "positives": self.positives,
            "negatives": self.negatives,
            "unknowns": self.unknowns,
            "cooccurrence_indptr": self.cooccurrence.indptr,
            "cooccurrence_indices": self.cooccurrence.indices,
            "cooccurrence_data": self.cooccurrence.data,
            "head_min": self.head_min,
            "medium_min": self.medium_min,
        }

    @classmethod
    def from_arrays(cls, state: Mapping[str, Any]) -> LabelStats:
        """Build from the result of `to_arrays` or `to_json`; arrays may be lists or CPU tensors."""
        c = len(state["class_names"])
        rows = tuple(np.asarray(state[f"cooccurrence_{part}"]) for part in ("data", "indices", "indptr"))
        cooccurrence = sparse.csr_matrix(rows, shape=(c, c), dtype=np.int64)
        positives, negatives, unknowns = (
            frozen(np.asarray(state[key]).astype(np.int64)) for key in ("positives", "negatives", "unknowns")
        )
        names, n, *bounds = (state[key] for key in ("class_names", "num_images", "head_min", "medium_min"))
        return cls(tuple(names), int(n), positives, negatives, unknowns, cooccurrence, *map(int, bounds))

    def to_json(self) -> dict[str, Any]:
        """Return `to_arrays` with lists instead of arrays."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.to_arrays().items()}
