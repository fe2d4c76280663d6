"""The csv files of Open Images, parsed by NumPy in blocks of lines, without a Python object per row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mltrain.errors import DataError
from mltrain.progress import Meter

BLOCK = 2**24
"""number of bytes read at once"""
ID_LENGTH = 16
"""length of an image id, and the greatest length of a class id"""
HEX = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
NIBBLES = np.full(256, 255, dtype=np.uint8)
NIBBLES[HEX] = np.arange(16)
# Masks that keep the first 0 to 8 bytes of a little-endian word.
KEEP = np.array([(1 << 8 * k) - 1 for k in range(9)], dtype="<u8")
COLUMNS = ("ImageID", "LabelName", "Confidence")


class ClassIndex:
    """Index of class ids, stored as two words of eight bytes and found by a hash that has no collisions among them.

    Args:
        ids: distinct class ids of at most 16 bytes.
    """

    def __init__(self, ids: list[str]) -> None:
        words = np.array([text.encode() for text in ids], dtype=f"S{ID_LENGTH}").view("<u8").reshape(-1, 2)
        random = np.random.default_rng(0)
        while True:
            self._factors = random.integers(1, 2**63, size=2, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
            hashes = self._hash(words[:, 0], words[:, 1])
            self._order = np.argsort(hashes)
            self._hashes, self._words = hashes[self._order], words[self._order]
            if (self._hashes[1:] != self._hashes[:-1]).all():
                break

    def __len__(self) -> int:
        return len(self._order)

    def _hash(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return (low * self._factors[0]) ^ (high * self._factors[1])

    def find(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return the index of each class id, or -1 if it is none of the classes."""
        at = np.minimum(np.searchsorted(self._hashes, self._hash(low, high)), len(self._hashes) - 1)
        known = (self._words[at, 0] == low) & (self._words[at, 1] == high)
        return np.where(known, self._order[at], -1)


class Block(NamedTuple):
    """Parsed lines; a run is a sequence of rows of one image."""

    heads: np.ndarray
    """uint64: the image id of each run"""
    counts: np.ndarray
    """int64: number of kept rows in each run"""
    codes: np.ndarray
    """uint16 or uint32: 2 * class + Confidence of each kept row"""
    rows: int
    """number of lines, kept or not"""


def read_blocks(path: Path, classes: ClassIndex) -> Iterator[Block]:
    """Yield the rows of a file of human-verified image labels, block by block.

    Raises:
        DataError: the file is of another kind or broken; the message names the line.
    """
    line = 2
    try:
        with path.open("rb") as stream, Meter(f"reading {path.name}", path.stat().st_size) as meter:
            layout = _Layout(path, stream.readline())
            for text in _pieces(stream):
                block = layout.parse(text, classes)
                if block is None:
                    raise DataError(layout.complaint(text, line))
                line += block.rows
                yield block
                meter.add(len(text))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if line == 2:
        raise DataError(f"{path}: no row below the header; incomplete download? Get the file again")


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    """Yield complete lines, about BLOCK bytes at a time."""
    rest = b""
    while data := stream.read(BLOCK):
        cut = data.rfind(b"\n") + 1
        if cut:
            yield rest + data[:cut]
            rest = data[cut:]
        else:
            rest += data
    if rest:
        yield rest + b"\n"


class _Layout:
    """Columns of a csv file, from its header."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._path = path
        self._columns = [column.strip() for column in header.decode("utf-8-sig", "replace").split(",")]
        missing = [column for column in COLUMNS if self._columns.count(column) != 1]
        if missing:
            raise DataError(
                f"{path}: no column {missing[0]}; found {', '.join(self._columns)[:200] or 'an empty file'}. Expected "
                "ImageID,Source,LabelName,Confidence: the file of human-verified image labels"
            )
        self._id, self._label, self._confidence = (self._columns.index(column) for column in COLUMNS)

    def parse(self, text: bytes, classes: ClassIndex) -> Block | None:
        """Parse complete lines; return None if one of them is wrong."""
        width = len(self._columns)
        data = np.frombuffer(text, dtype=np.uint8)
        ends: np.ndarray = np.flatnonzero((data == ord(",")) | (data == ord("\n")))
        if len(ends) % width or len(ends) != width * text.count(b"\n"):
            return None
        ends = ends.reshape(-1, width)
        if not (data[ends[:, -1]] == ord("\n")).all():
            return None
        starts = np.empty_like(ends)
        starts[:, 1:] = ends[:, :-1] + 1
        starts[0, 0] = 0
        starts[1:, 0] = ends[:-1, -1] + 1
        if text.count(b"\r"):
            ends[:, -1] -= data[ends[:, -1] - 1] == ord("\r")
        # A window of 16 bytes starts at every byte; the windows near the end of the text reach into padding.
        padded = text + bytes(ID_LENGTH)
        windows = np.ndarray((len(text),), dtype=f"S{ID_LENGTH}", buffer=padded, strides=(1,))

        at, length = starts[:, self._id], ends[:, self._id] - starts[:, self._id]
        if (length != ID_LENGTH).any():
            return None
        ids = windows[at].view("<u8").reshape(-1, 2)
        new = np.ones(len(ids), dtype=bool)
        new[1:] = (ids[1:] != ids[:-1]).any(axis=1)
        runs = np.flatnonzero(new)
        digits = NIBBLES[ids[runs].view(np.uint8).reshape(-1, ID_LENGTH)]
        if (digits > 15).any():
            return None
        heads: np.ndarray = np.zeros(len(runs), dtype=np.uint64)
        for k in range(ID_LENGTH):
            heads = (heads << np.uint64(4)) | digits[:, k]

        at, length = starts[:, self._confidence], ends[:, self._confidence] - starts[:, self._confidence]
        digit = data[at]
        whole = length == 1
        if not whole.all():  # 1.0 and 0.0
            long = at[~whole]
            if (length[~whole] != 3).any() or (data[long + 1] != ord(".")).any() or (data[long + 2] != ord("0")).any():
                return None
        if ((digit != ord("0")) & (digit != ord("1"))).any():
            return None

        at, length = starts[:, self._label], ends[:, self._label] - starts[:, self._label]
        if (length < 1).any():
            return None
        words = windows[at].view("<u8").reshape(-1, 2)
        low = words[:, 0] & KEEP[np.minimum(length, 8)]
        high = words[:, 1] & KEEP[np.clip(length - 8, 0, 8)]
        index = classes.find(low, high)
        kept = (index >= 0) & (length <= ID_LENGTH)
        counts = np.add.reduceat(kept, runs, dtype=np.int64)
        codes = 2 * index[kept] + (digit[kept] - ord("0"))
        small = 2 * len(classes) <= 2**16
        return Block(heads, counts, codes.astype(np.uint16 if small else np.uint32), len(ends))

    def complaint(self, text: bytes, line: int) -> str:
        """Describe the first wrong line of `text`, whose first line has the number `line`."""
        for number, row in enumerate(text.split(b"\n")[:-1], line):
            where = f"{self._path}, line {number}"
            cells = row.decode("utf-8", "replace").removesuffix("\r").split(",")
            if len(cells) != len(self._columns):
                return f"{where}: {len(cells)} fields, the header has {len(self._columns)}: {row[:100]!r}"
            image, label, confidence = cells[self._id], cells[self._label], cells[self._confidence]
            if re.fullmatch(r"[0-9a-f]{16}", image) is None:
                return f"{where}: {image[:40]!r} is no image id (16 digits of 0-9a-f)"
            if not label:
                return f"{where}: no class id"
            if confidence not in ("0", "1", "0.0", "1.0"):
                return (
                    f"{where}: Confidence {confidence[:20]!r}, expected 1 (present) or 0 (absent). Fractions are those "
                    "of machine-generated labels; take the file of human-verified ones"
                )
        raise AssertionError("a block was refused, but none of its lines is wrong")
