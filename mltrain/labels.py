"""LabelSet and LabelStats: the two nouns that everything passes around.

A target is 1 (positive), 0 (negative) or -1 (unknown). Targets are held sparse: per image the classes that are listed,
each with its value, and one `fill` value for all classes that are not. So memory grows with the number of labels, not
with images x classes (OpenImages has 9 M images x 9,605 classes).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

GROUP_NAMES = ("head", "medium", "tail", "unseen")


class LabelSet:
    """Images and their sparse targets; immutable.

    Args:
        name: shown in messages, e.g. ``"coco2017/train"``.
        root: folder that `files` are relative to.
        files: image files, N of them, as listed in the annotation files.
        class_names: C names; their order is the order of the targets.
        indptr, indices, values: compressed rows; image i lists the classes ``indices[indptr[i]:indptr[i + 1]]`` with
            the targets ``values[...]``.
        fill: target of every class that an image does not list: 0 (fully annotated) or -1 (partially annotated).

    Raises:
        ValueError: sizes do not fit, a class is out of range or listed twice for one image, or a value is not 1, 0, -1.
    """

    __slots__ = ("_files", "_indices", "_indptr", "_values", "class_names", "fill", "name", "root")

    def __init__(
        self,
        *,
        name: str,
        root: str | os.PathLike[str],
        files: Sequence[str] | np.ndarray,
        class_names: Sequence[str],
        indptr: np.ndarray,
        indices: np.ndarray,
        values: np.ndarray,
        fill: int = 0,
    ) -> None:
        self.name = name
        self.root = os.fspath(root)
        # UTF-8 bytes in one array: compact, and forked workers do not copy it as they would a list of str.
        self._files = _frozen(files if isinstance(files, np.ndarray) else _encode(files))
        self.class_names = tuple(class_names)
        self._indptr = _frozen(np.asarray(indptr, dtype=np.int64))
        self._indices = _frozen(np.asarray(indices, dtype=np.int32))
        self._values = _frozen(np.asarray(values, dtype=np.int8))
        self.fill = int(fill)
        self._check()
        self._sort()

    def _check(self) -> None:
        n, c, listed = len(self._files), len(self.class_names), len(self._indices)
        if len(set(self.class_names)) != c:
            repeated = sorted({x for x in self.class_names if self.class_names.count(x) > 1})
            raise ValueError(f"{self.name}: class names appear more than once: {repeated[:5]}")
        if (
            len(self._indptr) != n + 1
            or self._indptr[0] != 0
            or self._indptr[-1] != listed
            or len(self._values) != listed
        ):
            raise ValueError(f"{self.name}: rows do not fit: {n} files, indptr {len(self._indptr)}, {listed} entries")
        if listed and np.any(np.diff(self._indptr) < 0):
            raise ValueError(f"{self.name}: indptr decreases")
        if listed and (self._indices.min() < 0 or self._indices.max() >= c):
            raise ValueError(
                f"{self.name}: class index outside 0..{c - 1}: {self._indices.min()}..{self._indices.max()}"
            )
        if listed and not np.isin(self._values, (1, 0, -1)).all():
            raise ValueError(f"{self.name}: targets must be 1, 0 or -1, found {np.unique(self._values).tolist()}")
        if self.fill not in (0, -1):
            raise ValueError(f"{self.name}: fill must be 0 or -1, found {self.fill}")

    def _sort(self) -> None:
        """Bring the classes of every row into ascending order, where they are not, and refuse one listed twice."""
        if self._rising().all():
            return
        order = np.lexsort((self._indices, self._rows()))
        self._indices, self._values = _frozen(self._indices[order]), _frozen(self._values[order])
        twice = np.flatnonzero(~self._rising())
        if len(twice):
            row = int(np.searchsorted(self._indptr, twice[0], side="right")) - 1
            label = self.class_names[self._indices[twice[0]]]
            raise ValueError(f"{self.name}: {self.file(row)} lists class {label!r} twice")

    def _rising(self) -> np.ndarray:
        """Whether the entry after each is of a higher class, or of another row; bool (entries - 1,)."""
        rising: np.ndarray = self._indices[1:] > self._indices[:-1]
        starts = self._indptr[1:-1]
        rising[starts[(starts > 0) & (starts < len(self._indices))] - 1] = True
        return rising

    # -- construction ------------------------------------------------------------------------------------------------

    @classmethod
    def from_lists(
        cls,
        *,
        name: str,
        root: str | os.PathLike[str],
        files: Sequence[str],
        class_names: Sequence[str],
        positives: Sequence[Iterable[int]],
        negatives: Sequence[Iterable[int]] | None = None,
        unknowns: Sequence[Iterable[int]] | None = None,
        fill: int = 0,
    ) -> LabelSet:
        """From per-image lists of class indices; a class listed twice in one list counts once."""
        parts = [
            (value, lists) for value, lists in ((1, positives), (0, negatives), (-1, unknowns)) if lists is not None
        ]
        indptr, indices, values = [0], [], []
        for _, given in parts:
            if len(given) != len(files):
                raise ValueError(f"{name}: {len(given)} label lists for {len(files)} files")
        for i in range(len(files)):
            for value, lists in parts:
                if value == fill:
                    continue
                row = sorted(set(lists[i]))
                indices.extend(row)
                values.extend([value] * len(row))
            indptr.append(len(indices))
        return cls(
            name=name,
            root=root,
            files=files,
            class_names=class_names,
            indptr=np.asarray(indptr, dtype=np.int64),
            indices=np.asarray(indices, dtype=np.int32),
            values=np.asarray(values, dtype=np.int8),
            fill=fill,
        )

    @classmethod
    def from_dense(
        cls,
        *,
        name: str,
        root: str | os.PathLike[str],
        files: Sequence[str],
        class_names: Sequence[str],
        targets: np.ndarray,
    ) -> LabelSet:
        """From a dense (N, C) array of 1, 0, -1; the more frequent of 0 and -1 becomes the fill."""
        targets = np.asarray(targets)
        if targets.shape != (len(files), len(class_names)):
            raise ValueError(f"{name}: targets {targets.shape}, expected {(len(files), len(class_names))}")
        fill = -1 if np.count_nonzero(targets == -1) > np.count_nonzero(targets == 0) else 0
        rows, cols = np.nonzero(targets != fill)
        return cls(
            name=name,
            root=root,
            files=files,
            class_names=class_names,
            indptr=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(files)))]),
            indices=cols,
            values=targets[rows, cols],
            fill=fill,
        )

    # -- reading -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        sizes = f"{len(self)} images, {self.num_classes} classes, {len(self._indices)} labels listed"
        return f"LabelSet({self.name!r}, {sizes})"

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def fully_labelled(self) -> bool:
        """Whether no target is unknown."""
        return self.fill == 0 and not bool((self._values == -1).any())

    def file(self, i: int) -> str:
        """Image file as listed, relative to `root`."""
        return bytes(self._files[i]).decode()

    def path(self, i: int) -> str:
        """Full path of image i."""
        return os.path.join(self.root, self.file(i))  # noqa: PTH118  (a hot path: no Path objects)

    @property
    def image_paths(self) -> list[str]:
        """Full paths of all images, made on demand."""
        return [self.path(i) for i in range(len(self))]

    def targets(self, i: int) -> np.ndarray:
        """Targets of image i, int8 (C,)."""
        row = np.full(self.num_classes, self.fill, dtype=np.int8)
        span = slice(self._indptr[i], self._indptr[i + 1])
        row[self._indices[span]] = self._values[span]
        return row

    def targets_batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Targets of several images, int8 (B, C)."""
        picked = np.asarray(indices, dtype=np.int64)
        out = np.full((len(picked), self.num_classes), self.fill, dtype=np.int8)
        entries, counts = self._entries(picked)
        out[np.repeat(np.arange(len(picked)), counts), self._indices[entries]] = self._values[entries]
        return out

    def dense(self) -> np.ndarray:
        """Targets of all images, int8 (N, C)."""
        return self.targets_batch(np.arange(len(self)))

    def positive_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns) of all positive targets, int64, sorted by row, then column."""
        return self.pairs(1)

    def pairs(self, value: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, columns) of all targets that are listed with `value`, int64, sorted by row, then column."""
        mask = self._values == value
        return self._rows()[mask], self._indices[mask].astype(np.int64)

    def select(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> LabelSet:
        """The images at `indices`, in that order (repeats allowed)."""
        picked = np.asarray(indices, dtype=np.int64)
        entries, counts = self._entries(picked)
        return LabelSet(
            name=name or self.name,
            root=self.root,
            files=self._files[picked],
            class_names=self.class_names,
            indptr=np.concatenate([[0], np.cumsum(counts)]),
            indices=self._indices[entries],
            values=self._values[entries],
            fill=self.fill,
        )

    def with_targets(
        self,
        rows: np.ndarray,
        columns: np.ndarray,
        values: np.ndarray,
        *,
        fill: int,
        class_names: Sequence[str] | None = None,
    ) -> LabelSet:
        """The same images with other targets: those listed, in any order, and `fill` everywhere else.

        Args:
            rows, columns, values: (k,) each; image, class and target (1, 0 or -1), no pair twice.
            fill: 0 or -1.
            class_names: of the columns; None: the same classes.
        """
        order = np.argsort(rows, kind="stable")
        return LabelSet(
            name=self.name,
            root=self.root,
            files=self._files,
            class_names=self.class_names if class_names is None else class_names,
            indptr=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(self)))]),
            indices=columns[order],
            values=values[order],
            fill=fill,
        )

    def fingerprint(self) -> str:
        """SHA-256 of files, class names and targets; not of `name`, `root` and how sparsely targets are listed."""
        digest = hashlib.sha256()
        rows, entries = self._rows(), np.flatnonzero(self._values != self.fill)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[entries], minlength=len(self)))])
        for part in ("\0".join(self.class_names).encode(), b"\0".join(self._files.tolist()), bytes([self.fill & 255])):
            digest.update(hashlib.sha256(part).digest())
        for array in (indptr, self._indices[entries], self._values[entries]):
            digest.update(hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest())
        return digest.hexdigest()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _rows(self) -> np.ndarray:
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self._indptr))

    def _entries(self, picked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the compressed arrays of all entries of the picked rows, and how many each row has."""
        counts = self._indptr[picked + 1] - self._indptr[picked]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        return np.arange(total) + np.repeat(self._indptr[picked] - (ends - counts), counts), counts


@dataclass(frozen=True, eq=False)
class LabelStats:
    """Frequencies of a *training* LabelSet: what losses, samplers, heads and group metrics need to know of it.

    Groups follow the Distribution-Balanced benchmark (Wu et al., ECCV 2020): head n >= 100, medium 20 <= n < 100,
    tail n < 20 training positives (class 'backpack' with exactly 100 is head in the published split). A class of which
    every training target is unknown is in none of them: it is unseen (zero-shot).
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
        positives = np.bincount(cols, minlength=c).astype(np.int64)
        if labels.fill == 0:
            unknowns = np.bincount(labels.pairs(-1)[1], minlength=c).astype(np.int64)
            negatives = n - positives - unknowns
        else:
            negatives = np.bincount(labels.pairs(0)[1], minlength=c).astype(np.int64)
            unknowns = n - positives - negatives
        incidence = sparse.csr_matrix((np.ones(len(rows), dtype=np.int64), (rows, cols)), shape=(n, c))
        cooccurrence = sparse.csr_matrix(incidence.T @ incidence)
        cooccurrence.sort_indices()
        for array in (positives, negatives, unknowns):
            _frozen(array)
        return cls(labels.class_names, n, positives, negatives, unknowns, cooccurrence, head_min, medium_min)

    @property
    def groups(self) -> np.ndarray:
        """int8 (C,): 0 head, 1 medium, 2 tail, 3 unseen."""
        groups = np.where(self.positives >= self.head_min, 0, np.where(self.positives >= self.medium_min, 1, 2))
        groups[(self.unknowns > 0) & (self.positives + self.negatives == 0)] = 3
        return groups.astype(np.int8)

    def group_indices(self) -> dict[str, np.ndarray]:
        """Class indices, int64, of head, medium, tail and, where there is such a class, unseen."""
        groups = self.groups
        indices = {name: np.flatnonzero(groups == k) for k, name in enumerate(GROUP_NAMES)}
        if not len(indices["unseen"]):
            del indices["unseen"]
        return indices

    def log_prior_odds(self) -> np.ndarray:
        """log(positives / negatives) of the known targets, float64 (C,); a count of 0 stands as 1, so it is finite."""
        return np.log(np.maximum(self.positives, 1)) - np.log(np.maximum(self.negatives, 1))

    def to_arrays(self) -> dict[str, Any]:
        """Plain values and NumPy arrays; what `from_arrays` takes."""
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
        """The inverse of `to_arrays` and of `to_json`; arrays may be lists or CPU tensors."""
        c = len(state["class_names"])
        rows = tuple(np.asarray(state[f"cooccurrence_{part}"]) for part in ("data", "indices", "indptr"))
        counts = {
            key: _frozen(np.asarray(state[key]).astype(np.int64)) for key in ("positives", "negatives", "unknowns")
        }
        return cls(
            class_names=tuple(state["class_names"]),
            num_images=int(state["num_images"]),
            cooccurrence=sparse.csr_matrix(rows, shape=(c, c), dtype=np.int64),
            head_min=int(state["head_min"]),
            medium_min=int(state["medium_min"]),
            **counts,
        )

    def to_json(self) -> dict[str, Any]:
        """`to_arrays` with lists in place of arrays."""
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.to_arrays().items()}


def _encode(files: Sequence[str]) -> np.ndarray:
    encoded = [file.encode() for file in files]
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")


def _frozen(array: np.ndarray) -> np.ndarray:
    array = array.view() if array.flags.writeable and array.base is not None else array
    array.flags.writeable = False
    return array
