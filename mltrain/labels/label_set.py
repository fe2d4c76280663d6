"""The labels of a data set: images and their sparse targets."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from mltrain.text import counted


class LabelSet:
    """Images and their sparse targets; immutable.

    Args:
        name: name for messages, e.g. ``"coco2017/train"``.
        root: folder that `files` are relative to.
        files: N image files, as the annotation files list them.
        class_names: C names, in the order of the targets.
        indptr, indices, values: compressed sparse rows; image i lists the classes ``indices[indptr[i]:indptr[i + 1]]``
            with the targets ``values[indptr[i]:indptr[i + 1]]``.
        fill: target of every class that an image does not list: 0 (fully annotated) or -1 (partially annotated).

    Raises:
        ValueError: sizes do not fit, a class name has a line break, a class index is out of range, an image lists a
            class twice, or a target is not 1, 0 or -1.
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
        self._files = frozen(files if isinstance(files, np.ndarray) else _encode(files))
        self.class_names = tuple(class_names)
        self._indptr = frozen(_exactly(indptr, np.int64, f"{name}: indptr"))
        self._indices = frozen(_exactly(indices, np.int32, f"{name}: class indices"))
        self._values = frozen(_exactly(values, np.int8, f"{name}: targets (1, 0 or -1)"))
        if fill not in (0, -1):
            raise ValueError(f"{name}: fill must be 0 or -1, found {fill}")
        self.fill = int(fill)
        self._check()
        self._sort()

    def _check(self) -> None:
        n, c, listed = len(self._files), len(self.class_names), len(self._indices)
        if len(set(self.class_names)) != c:
            repeated = sorted({x for x in self.class_names if self.class_names.count(x) > 1})
            raise ValueError(f"{self.name}: class names appear more than once: {repeated[:5]}")
        check_class_names(self.class_names, self.name)
        starts_and_ends = len(self._indptr) == n + 1 and self._indptr[0] == 0 and self._indptr[-1] == listed
        if not starts_and_ends or len(self._values) != listed:
            raise ValueError(f"{self.name}: rows do not fit: {n} files, indptr {len(self._indptr)}, {listed} entries")
        if not listed:
            return
        if np.any(np.diff(self._indptr) < 0):
            raise ValueError(f"{self.name}: indptr decreases")
        low, high = self._indices.min(), self._indices.max()
        if low < 0 or high >= c:
            raise ValueError(f"{self.name}: class index outside 0..{c - 1}: {low}..{high}")
        if not np.isin(self._values, (1, 0, -1)).all():
            raise ValueError(f"{self.name}: targets must be 1, 0 or -1, found {np.unique(self._values).tolist()}")

    def _sort(self) -> None:
        """Sort the classes of every row unless they are sorted, and refuse a class that a row lists twice."""
        if self._rising().all():
            return
        order = np.lexsort((self._indices, self._rows()))
        self._indices, self._values = frozen(self._indices[order]), frozen(self._values[order])
        twice = np.flatnonzero(~self._rising())
        if len(twice):
            row = int(np.searchsorted(self._indptr, twice[0], side="right")) - 1
            label = self.class_names[self._indices[twice[0]]]
            raise ValueError(f"{self.name}: {self.file(row)} lists class {label!r} twice")

    def _rising(self) -> np.ndarray:
        """Return bool (entries - 1,): true where the next entry has a higher class or belongs to another row."""
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
        """Build from per-image lists of class indices; a class that is listed twice in one list counts once."""
        rows, columns, values = [], [], []
        for value, lists in ((1, positives), (0, negatives), (-1, unknowns)):
            if lists is not None and len(lists) != len(files):
                raise ValueError(f"{name}: {len(lists)} label lists for {len(files)} files")
            if lists is None or value == fill:
                continue
            distinct = [sorted({operator.index(k) for k in given}) for given in lists]
            rows.append(np.repeat(np.arange(len(files)), np.fromiter(map(len, distinct), dtype=np.int64)))
            columns.append(np.fromiter(chain.from_iterable(distinct), dtype=np.int64))
            values.append(np.full(len(columns[-1]), value, dtype=np.int8))
        pairs = compress(np.concatenate(rows), np.concatenate(columns), np.concatenate(values), len(files))
        return cls(name=name, root=root, files=files, class_names=class_names, fill=fill, **pairs)

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
        """Build from a dense (N, C) array of 1, 0, -1; the more frequent of 0 and -1 becomes the fill."""
        targets = np.asarray(targets)
        if targets.shape != (len(files), len(class_names)):
            raise ValueError(f"{name}: targets {targets.shape}, expected {(len(files), len(class_names))}")
        fill = -1 if np.count_nonzero(targets == -1) > np.count_nonzero(targets == 0) else 0
        rows, columns = np.nonzero(targets != fill)
        pairs = compress(rows, columns, targets[rows, columns], len(files))
        return cls(name=name, root=root, files=files, class_names=class_names, fill=fill, **pairs)

    # -- reading -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._files)

    def __repr__(self) -> str:
        sizes = f"{len(self)} images, {self.num_classes} classes, {len(self._indices)} labels listed"
        return f"LabelSet({self.name!r}, {sizes})"

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def fully_labelled(self) -> bool:
        """True if no target is unknown."""
        return self.fill == 0 and not bool((self._values == -1).any())

    def file(self, i: int) -> str:
        """Return image file i as listed, relative to `root`."""
        return bytes(self._files[i]).decode(errors="surrogateescape")

    def path(self, i: int) -> str:
        """Return the full path of image i."""
        return os.path.join(self.root, self.file(i))  # noqa: PTH118  (a hot path: no Path objects)

    @property
    def files(self) -> list[str]:
        """Image files as listed, relative to `root`; made on demand."""
        return [self.file(i) for i in range(len(self))]

    @property
    def encoded_files(self) -> np.ndarray:
        """Image files as listed, in one read-only array of bytes (N,), UTF-8."""
        return self._files

    @property
    def image_paths(self) -> list[str]:
        """Full paths of all images; made on demand."""
        return [self.path(i) for i in range(len(self))]

    def targets(self, i: int) -> np.ndarray:
        """Return the targets of image i, int8 (C,)."""
        row = np.full(self.num_classes, self.fill, dtype=np.int8)
        span = slice(self._indptr[i], self._indptr[i + 1])
        row[self._indices[span]] = self._values[span]
        return row

    def targets_batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the targets of several images, int8 (B, C)."""
        picked = np.asarray(indices, dtype=np.int64)
        out = np.full((len(picked), self.num_classes), self.fill, dtype=np.int8)
        entries, counts = row_entries(self._indptr, picked)
        out[np.repeat(np.arange(len(picked)), counts), self._indices[entries]] = self._values[entries]
        return out

    def dense(self) -> np.ndarray:
        """Return the targets of all images, int8 (N, C)."""
        return self.targets_batch(np.arange(len(self)))

    def positive_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, columns) of all positive targets, int64, sorted by row, then column."""
        return self.pairs(1)

    def pairs(self, value: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, columns) of the targets that are listed with `value`, int64, sorted by row, then column."""
        mask = self._values == value
        return self._rows()[mask], self._indices[mask].astype(np.int64)

    def listed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (rows, columns, values) of all targets other than `fill`, sorted by row, then column."""
        mask = self._values != self.fill
        return self._rows()[mask], self._indices[mask].astype(np.int64), self._values[mask]

    def select(self, indices: Sequence[int] | np.ndarray, name: str | None = None) -> LabelSet:
        """Return the images at `indices`, in that order; an index may repeat."""
        picked = np.asarray(indices, dtype=np.int64)
        entries, counts = row_entries(self._indptr, picked)
        rows = {"indptr": np.concatenate([[0], np.cumsum(counts)]), "indices": self._indices[entries]}
        return self._changed(name=name or self.name, files=self._files[picked], values=self._values[entries], **rows)

    def with_targets(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, *, fill: int) -> LabelSet:
        """Return the same images with other targets: those listed, in any order, and `fill` everywhere else.

        Args:
            rows, columns, values: (k,) each; image, class and target (1, 0 or -1), no pair twice.
            fill: 0 or -1.
        """
        return self._changed(fill=fill, **compress(rows, columns, values, len(self)))

    def with_classes(self, class_names: Sequence[str], pairs: Mapping[int, int] | None = None) -> LabelSet:
        """Return the same images with other classes, in the order of `class_names`.

        Args:
            class_names: names of the classes.
            pairs: {number of a class here: its number in `class_names`}; None: classes of the same name.
        """
        if pairs is None:
            place = {name: k for k, name in enumerate(class_names)}
            pairs = {k: place[name] for k, name in enumerate(self.class_names) if name in place}
        rows, columns, values = self.listed()
        columns = np.array([pairs.get(k, -1) for k in range(self.num_classes)], dtype=np.int64)[columns]
        kept = columns >= 0
        listed = compress(rows[kept], columns[kept], values[kept], len(self))
        return self._changed(class_names=class_names, **listed)

    def fingerprint(self) -> str:
        """Return the SHA-256 of files, class names, targets and fill; `name` and `root` do not count."""
        digest = hashlib.sha256()
        listed = self._values != self.fill
        for part in ("\0".join(self.class_names).encode(), b"\0".join(self._files.tolist()), bytes([self.fill & 255])):
            digest.update(hashlib.sha256(part).digest())
        for array in (_row_starts(self._rows()[listed], len(self)), self._indices[listed], self._values[listed]):
            digest.update(hashlib.sha256(array.tobytes()).digest())
        return digest.hexdigest()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _changed(self, **changes: Any) -> LabelSet:
        kept = {key: getattr(self, key) for key in ("name", "root", "class_names", "fill")}
        return LabelSet(**{"files": self._files, **kept, **changes})

    def _rows(self) -> np.ndarray:
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self._indptr))


def row_entries(indptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of all entries of some compressed rows, row by row, and the number of entries of each."""
    counts = indptr[rows + 1] - indptr[rows]
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(indptr[rows] - (ends - counts), counts), counts


def compress(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Return the arguments `indptr`, `indices` and `values` of a LabelSet of n images.

    Args:
        rows, columns, values: (k,) each; image, class and target (1, 0 or -1), in any order, no pair twice.
    """
    order = np.argsort(rows, kind="stable")
    return {"indptr": _row_starts(rows, n), "indices": columns[order], "values": values[order]}


def _row_starts(rows: np.ndarray, n: int) -> np.ndarray:
    """Return where each of n compressed rows starts, and where the last one ends; int64 (n + 1,)."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])


def _exactly(given: np.ndarray, dtype: type[np.signedinteger[Any]], what: str) -> np.ndarray:
    """Return an array in another type. ValueError: a value would change."""
    array = np.asarray(given)
    if array.dtype == dtype or not array.size:
        return array.astype(dtype, copy=False)
    with np.errstate(invalid="ignore"):
        made = array.astype(dtype)
    # Unsigned values wrap around, and compare equal only as numbers: 255 becomes -1 in int8.
    wrong = (made != array) | ((made < 0) & (array > 0))
    if wrong.any():
        raise ValueError(f"{what} must be whole numbers in the range of {np.dtype(dtype)}, found {array[wrong][0]}")
    return made


def check_class_names(names: Iterable[str], place: str) -> None:
    """Raise ValueError if a class name has a line break or bytes that are no text: `classes.txt` could not hold it."""
    broken = [name for name in names if len(f"{name}.".splitlines()) > 1]
    if broken:
        raise ValueError(
            f"{place}: {counted(len(broken), 'class name', 'have')} line breaks: {broken[:5]}; rename them"
        )
    foreign = [name for name in names if any("\ud800" <= sign <= "\udfff" for sign in name)]
    if foreign:
        raise ValueError(
            f"{place}: {counted(len(foreign), 'class name', 'are')} not UTF-8: {foreign[:5]}; rename the "
            "classes (or folders), or "
            "set a UTF-8 locale: LC_ALL=C.UTF-8"
        )


def _encode(files: Sequence[str]) -> np.ndarray:
    encoded = [file.encode(errors="surrogateescape") for file in files]  # a file name may be any bytes
    return np.array(encoded, dtype=f"S{max(map(len, encoded), default=1) or 1}")


def frozen(array: np.ndarray) -> np.ndarray:
    """Return the array, read-only; a caller's array that it is a view of stays writable."""
    array = array.view() if array.flags.writeable and array.base is not None else array
    array.flags.writeable = False
    return array
