"""Arrays of the images of a data set in one file on disk, made once and memory-mapped: resized images, or features.

A store is one file, ``KEY.SUFFIX``, and its index, ``KEY.index.npy``; KEY is a hash of all that the content depends on.
The index is written last: a store without an index, or with one that does not fit, is made again.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mltrain import storage
from mltrain.errors import DataError
from mltrain.files import atomic_write, locked
from mltrain.labels import LabelSet

_LOG = logging.getLogger(__name__)
_ABSENT = -1
# Columns of the index. An array has rows x columns places. Size and time are those of the image file, or the time of
# its archive: if they change, the store is made again.
OFFSET, ROWS, COLUMNS, _FILE_SIZE, _FILE_TIME = range(5)

Fill = Callable[[int, np.ndarray], None]
"""Writes arrays to the file descriptor, and `OFFSET`, `ROWS` and `COLUMNS` of each image to the index, int64 (N, 5).

The arrays follow each other without gaps. The offset of an image that cannot be decoded stays as it is.
"""


class Store:
    """Arrays of a data set, read through a memory map; `open_store` opens it."""

    def __init__(self, file: Path, index: np.ndarray, place_bytes: int) -> None:
        self._file, self._index, self._place_bytes = file, index, place_bytes
        self._map: np.ndarray | None = self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # another process maps the file itself

    def __len__(self) -> int:
        return len(self._index)

    def array(self, index: int) -> np.ndarray | None:
        """Return the bytes of an image's array, uint8 (rows, columns, place_bytes); None if it was not decoded."""
        offset, rows, columns = self._index[index, : COLUMNS + 1].tolist()
        if offset == _ABSENT:
            return None
        if self._map is None:
            self._map = self._open()
        assert self._map is not None
        end = offset + rows * columns * self._place_bytes
        return self._map[offset:end].reshape(rows, columns, self._place_bytes)

    def _open(self) -> np.ndarray | None:
        if not self._file.stat().st_size:
            return None
        # Copy on write: the file is never changed, and torch takes the array without a warning.
        return np.asarray(np.memmap(self._file, dtype=np.uint8, mode="c"))


def key_of(labels: LabelSet, *content: str) -> str:
    """Return the key of a store: 16 hex digits that depend on the paths of the images and on `content`."""
    digest = hashlib.sha256("".join(f"{part}\0" for part in content).encode())
    for path in labels.image_paths:
        digest.update(os.path.realpath(path).encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:16]


def open_store(
    labels: LabelSet,
    file: Path,
    fill: Fill,
    *,
    place_bytes: int,
    needed: int,
    what: str,
    is_current: Callable[[Store], bool] = lambda store: True,
) -> Store:
    """Open the store of a LabelSet; make it first if it is missing or an image file has changed.

    If two processes ask at once, one makes the store and the other waits. An interrupted or failed attempt leaves
    nothing that a later one would use.

    Args:
        labels: the images.
        file: ``KEY.SUFFIX``, in a folder that is made if missing. It must be on a local file system, where locks work.
        fill: makes the content.
        place_bytes: size of a place of an array: 3 for a pixel.
        needed: bytes of the whole file, about.
        what: the content, for messages: "resized images".
        is_current: whether a store that fits is good enough; if not, it is made again.

    Raises:
        DataError: an image file is missing, or the disk is full.
    """
    folder, index_file = file.parent, file.with_suffix(".index.npy")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(file.with_suffix(".lock")):
            files = _file_states(labels)
            index = _open_index(file, index_file, files, place_bytes)
            if index is not None and is_current(store := Store(file, index, place_bytes)):
                return store
            index_file.unlink(missing_ok=True)
            return Store(file, _make(labels, file, index_file, files, fill, needed, what), place_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{folder}: the disk is full ({error.strerror}), the cache of {len(labels)} {what} was not "
                "made; free some space, choose another data.cache_dir, or set data.cache=false"
            ) from error
        raise DataError(f"{folder}: cannot make the cache of {what}: {error}") from error


def write_at(out: int, data: memoryview, offset: int) -> None:
    """Write bytes to a place of a file; threads may share the descriptor."""
    while data:
        written = os.pwrite(out, data, offset)
        data, offset = data[written:], offset + written


def count_stored(index: np.ndarray) -> int:
    """Return how many images have an array."""
    return int((index[:, OFFSET] != _ABSENT).sum())


def _file_states(labels: LabelSet) -> np.ndarray:
    """Return size and modification time of each image file, int64 (N, 2)."""
    states = np.empty((len(labels), 2), dtype=np.int64)
    for i in range(len(labels)):
        try:
            states[i] = storage.state(labels.path(i))
        except OSError as error:
            raise DataError(f"{labels.path(i)}: cannot read the file: {error.strerror or error}") from error
    return states


def _open_index(file: Path, index_file: Path, files: np.ndarray, place_bytes: int) -> np.ndarray | None:
    try:
        index = np.load(index_file, allow_pickle=False)
        size = file.stat().st_size
    except (OSError, ValueError, EOFError):
        return None
    if index.shape != (len(files), 5) or size != int((index[:, ROWS] * index[:, COLUMNS]).sum()) * place_bytes:
        return None
    if not np.array_equal(index[:, _FILE_SIZE:], files):
        _LOG.info("%s: image files have changed; the cache is made again", file)
        return None
    return index


def _make(
    labels: LabelSet, file: Path, index_file: Path, files: np.ndarray, fill: Fill, needed: int, what: str
) -> np.ndarray:
    started = time.monotonic()
    free = shutil.disk_usage(file.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free", str(file.parent))
    index = np.concatenate(
        [np.full((len(files), 1), _ABSENT), np.zeros((len(files), 2), dtype=np.int64), files], axis=1
    )
    for stale in file.parent.glob(f".{file.name}.*.tmp"):  # left by a process that was killed; we hold the lock
        stale.unlink()
    with atomic_write(file) as temporary, temporary.open("wb") as out:
        fill(out.fileno(), index)
    with atomic_write(index_file) as temporary, temporary.open("wb") as out:
        np.save(out, index)
    missing = len(index) - count_stored(index)
    _LOG.info(
        "cached %s of %s in %s: %d images, %.0f MB, %.1f s%s",
        what,
        labels.name,
        file,
        len(labels) - missing,
        file.stat().st_size / 1e6,
        time.monotonic() - started,
        f"; {missing} cannot be decoded" if missing else "",
    )
    return index
