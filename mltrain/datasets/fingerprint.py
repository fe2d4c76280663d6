"""Fingerprints of splits: they tell whether two readings of a data set gave the same images, labels and classes.

A fingerprint is made of image names relative to their folder and of labels by class name. So moving the folder,
touching files or putting classes in another order does not change it. The content of the images is not read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mltrain.datasets.splits import Splits
from mltrain.labels import LabelSet
from mltrain.text import agreed, first_few

MOST_ROWS = 1_000_000
"""images of a split up to which a fingerprint keeps hashes of each, 12 bytes, to name those that changed"""
_CHUNK = 1 << 17  # rows hashed at once, so that intermediate arrays stay small


@dataclass(frozen=True, eq=False)
class SplitFingerprint:
    """Fingerprint of one split; `digest` decides, the rows say where two differ."""

    images: int
    digest: str
    """SHA-256 over all images in their order"""
    names: np.ndarray
    """uint64 (N,), a hash of each image name; empty above `MOST_ROWS` images"""
    labels: np.ndarray
    """uint32 (N,), a hash of the labels of each image; empty above `MOST_ROWS` images"""

    @classmethod
    def of(cls, labels: LabelSet) -> SplitFingerprint:
        """Compute the fingerprint of a split."""
        names, targets = _hash_names(relative_names(labels)), _hash_targets(labels)
        digest = hashlib.sha256(names.tobytes() + targets.tobytes()).hexdigest()
        kept = slice(None) if len(labels) <= MOST_ROWS else slice(0)
        return cls(len(labels), digest, names[kept], targets[kept].astype(np.uint32))

    def differences(self, new: SplitFingerprint, labels: LabelSet, *, order: bool = True) -> list[str]:
        """Say how `new`, the fingerprint of `labels`, differs from this one; empty where nothing does.

        Args:
            order: count another order of the same images as a difference, as a training does.
        """
        if self.digest == new.digest:
            return []
        counts = (
            [f"{self.images:,} {agreed(self.images, 'image')} then, {new.images:,} now"]
            if self.images != new.images
            else []
        )
        if not (len(self.names) == self.images and len(new.names) == new.images):
            return counts or ["other images or labels"]
        place = np.argsort(self.names, kind="stable")
        found = np.minimum(np.searchsorted(self.names, new.names, sorter=place), max(len(place) - 1, 0))
        before = place[found] if len(place) else found
        known = self.names[before] == new.names if len(place) else np.zeros(len(new.names), dtype=bool)
        other = known.copy()
        other[known] = self.labels[before[known]] != new.labels[known]
        gone = int((~np.isin(self.names, new.names)).sum())
        parts = [*_first("added", ~known, labels), *_first("with other labels", other, labels)]
        parts += [f"{gone:,} gone"] if gone else []
        if not parts and not counts:
            return ["the same images in another order"] if order else []
        return [*counts, *parts]


def _first(what: str, rows: np.ndarray, labels: LabelSet) -> list[str]:
    """Return "N added (the first: FILE, with LABELS)" of the marked rows, or nothing."""
    marked = np.flatnonzero(rows)
    if not len(marked):
        return []
    i = int(marked[0])
    names = [labels.class_names[k] for k in np.flatnonzero(labels.targets(i) == 1)]
    return [f"{len(marked):,} {what} (the first: {labels.file(i)}, now {first_few(names) if names else 'no label'})"]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Fingerprint of all splits of a data set, and of further files that a result depends on."""

    class_names: tuple[str, ...]
    splits: Mapping[str, SplitFingerprint]
    """by "train", "val" and "test" """
    files: Mapping[str, str]
    """SHA-256 of the content of each file, by the config key that names it"""

    @classmethod
    def of(cls, splits: Splits, files: Mapping[str, str]) -> Fingerprint:
        """Compute the fingerprints of the splits; `files` has the digests of other files."""
        return cls(splits.train.class_names, {k: SplitFingerprint.of(v) for k, v in parts(splits).items()}, dict(files))

    def differences(self, new: Fingerprint, splits: Splits) -> list[str]:
        """Say how `new`, the fingerprint of `splits`, differs from this one, in one line for each split, key or list.

        A file that one of the two lacks is passed over: a finished run does not need it.
        """
        labels, lines = parts(splits), []
        for part in ("train", "val", "test"):
            old, now = self.splits.get(part), new.splits.get(part)
            if old is not None and now is not None:
                found = old.differences(now, labels[part])
                lines += [f"{part}: {', '.join(found)}"] if found else []
            elif old is not None:
                lines.append(f"{part}: {old.images:,} {agreed(old.images, 'image')} then, no such split now")
            elif now is not None:
                lines.append(f"{part}: no such split then, {now.images:,} {agreed(now.images, 'image')} now")
        lines += class_differences(self.class_names, new.class_names)
        for key, digest in self.files.items():
            if new.files.get(key, digest) != digest:
                lines.append(f"{key}: the file has another content")
        return lines

    def to_arrays(self) -> dict[str, Any]:
        """Return plain values under "about", and arrays, which `from_arrays` reads."""
        about = {
            "class_names": list(self.class_names),
            "splits": {part: {"images": made.images, "digest": made.digest} for part, made in self.splits.items()},
            "files": dict(self.files),
        }
        rows = {
            f"{part}_{key}": getattr(made, key) for part, made in self.splits.items() for key in ("names", "labels")
        }
        return {"about": about, **rows}

    @classmethod
    def from_arrays(cls, content: Mapping[str, Any]) -> Fingerprint:
        """Build from the result of `to_arrays`. Raises KeyError or TypeError for other content."""
        about = content["about"]
        splits = {
            part: SplitFingerprint(
                int(made["images"]), str(made["digest"]), content[f"{part}_names"], content[f"{part}_labels"]
            )
            for part, made in about["splits"].items()
        }
        return cls(tuple(about["class_names"]), splits, dict(about["files"]))


def parts(splits: Splits) -> dict[str, LabelSet]:
    """Return the splits that there are, by name."""
    return {part: labels for part, labels in splits._asdict().items() if labels is not None}


def class_differences(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Say how two lists of classes differ."""
    if tuple(old) == tuple(new):
        return []
    before, after = set(old), set(new)
    added, gone = [name for name in new if name not in before], [name for name in old if name not in after]
    found = [f"{len(names)} {what} ({first_few(names)})" for what, names in (("added", added), ("gone", gone)) if names]
    return [f"classes: {', '.join(found) or 'the same in another order'}"]


def relative_names(labels: LabelSet) -> np.ndarray:
    """Return the image names relative to their folder as bytes, (N,): names that begin with / lose the common folder.

    Where a file lists full paths, those below `root` become relative to it, and others to the folder that all share.
    """
    names = labels.encoded_files
    if not len(names) or not (first := names.view(np.uint8).reshape(len(names), -1)[:, 0] == ord("/")).any():
        return names
    root = os.path.abspath(labels.root).encode(errors="surrogateescape").rstrip(b"/") + b"/"  # noqa: PTH100
    absolute = {i: bytes(names[i]) for i in np.flatnonzero(first).tolist()}
    outside = [name for name in absolute.values() if not name.startswith(root)]
    shared = root
    if outside:  # the first and the last in order share what all share
        shared = os.path.commonpath([os.path.dirname(name) for name in (min(outside), max(outside))]) + b"/"  # noqa: PTH120
    made = names.tolist()
    for i, name in absolute.items():
        made[i] = name.removeprefix(root) if name.startswith(root) else name.removeprefix(shared)
    return np.array(made, dtype=names.dtype)


def _hash_names(names: np.ndarray) -> np.ndarray:
    """Return a hash of each byte string, uint64 (N,); it does not depend on the longest string of the array."""
    hashes = np.zeros(len(names), dtype=np.uint64)
    width = names.dtype.itemsize
    for start in range(0, len(names), _CHUNK):
        rows = np.ascontiguousarray(names[start : start + _CHUNK]).view(np.uint8).reshape(-1, width)
        padded = np.zeros((len(rows), -(-width // 8) * 8), dtype=np.uint8)
        padded[:, :width] = rows
        state = np.zeros(len(rows), dtype=np.uint64)
        for column in padded.view("<u8").T:
            # NumPy pads strings with zero bytes, and a name has none: a word of zeros lies behind the end.
            state = np.where(column == 0, state, _mix(state ^ column))
        hashes[start : start + _CHUNK] = state
    return hashes


def _hash_targets(labels: LabelSet) -> np.ndarray:
    """Return a hash of the targets of each image by class name, uint64 (N,); the order of the classes is no part."""
    digests = [hashlib.sha256(name.encode()).digest()[:8] for name in labels.class_names]
    by_class = np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
    # By value: a negative adds nothing, so a class that no image has changes no hash. Which value is the fill, and so
    # not listed, makes no difference.
    terms = {0: np.zeros_like(by_class), 1: _mix(by_class), -1: _mix(~by_class)}
    rows, columns, values = labels.listed()
    entries = np.where(values == 1, terms[1][columns], terms[-1][columns])
    entries[values == 0] = 0
    entries -= terms[labels.fill][columns]
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(entries, dtype=np.uint64)])  # modulo 2^64
    ends = np.cumsum(np.bincount(rows, minlength=len(labels)))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    return _mix(sums[ends] - sums[starts] + terms[labels.fill].sum(dtype=np.uint64))


def _mix(values: np.ndarray) -> np.ndarray:
    """Return one output of splitmix64 (Steele, Lea and Flood 2014) for each 64-bit state."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
