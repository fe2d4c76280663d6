"""Resized images on disk, so that each image is decoded and resized only once.

A cache is one file of raw pixels, ``KEY.pixels``, and its index, ``KEY.index.npy``; KEY is a hash of the image paths
and of the resizing. ``KEY.damaged.json`` is there if JPEG files are damaged: the reason by the number of the image. The
index is written last: a cache without an index, or with one that does not fit, is made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mltrain import storage
from mltrain.errors import DataError
from mltrain.files import atomic_write, locked, write_json
from mltrain.labels import LabelSet
from mltrain.pipeline.augment import EvalResize, ShorterSide
from mltrain.pipeline.decode import read_image
from mltrain.progress import BAR_SECONDS, Meter

_LOG = logging.getLogger(__name__)
_VERSION = 1
_ABSENT = -1
# Columns of the index. Size and time are those of the image file, or the time of its archive: if
# they change, the cache is made again.
_OFFSET, _HEIGHT, _WIDTH, _FILE_SIZE, _FILE_TIME = range(5)


def available_cores() -> int:
    """Return how many cores this process may use; the variable MLTRAIN_CORES lowers it, where jobs share a machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(os.environ.get("MLTRAIN_CORES") or cores)))


class CachedImages:
    """Images of a cache, read through a memory map; `cached_images` opens it.

    The cache lacks images that could not be decoded: they are read from their files, which raises the `DataError` that
    says why.
    """

    def __init__(
        self, labels: LabelSet, resize: str, pixels: Path, index: np.ndarray, damage: dict[int, str] | None = None
    ) -> None:
        self.resize = resize
        self.damaged: list[str] = []
        """one line for each damaged JPEG file among those read; the reader empties it"""
        self._damage = damage or {}
        self._labels = labels
        self._file = pixels
        self._index = index
        self._map: np.ndarray | None = self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # another process maps the file itself

    def __len__(self) -> int:
        return len(self._index)

    def read(self, index: int) -> np.ndarray:
        """Return an image, uint8 (H, W, 3)."""
        offset, height, width = self._index[index, : _WIDTH + 1].tolist()
        if index in self._damage:
            self.damaged.append(f"{self._labels.path(index)}: {self._damage[index]}")
        if offset == _ABSENT:
            return read_image(self._labels.path(index))
        if self._map is None:
            self._map = self._open()
        assert self._map is not None
        return self._map[offset : offset + height * width * 3].reshape(height, width, 3)

    def _open(self) -> np.ndarray | None:
        if not self._file.stat().st_size:
            return None
        # Copy on write: the file is never changed, and torch takes the array without a warning.
        return np.asarray(np.memmap(self._file, dtype=np.uint8, mode="c"))


def cached_images(
    labels: LabelSet, resize: EvalResize | ShorterSide, *, folder: str | os.PathLike[str], threads: int | None = None
) -> CachedImages:
    """Open the cache of a LabelSet; make it first if it is missing or an image file has changed.

    If two processes ask at once, one makes the cache and the other waits. An interrupted or failed attempt leaves
    nothing that a later one would use.

    Args:
        labels: the images.
        resize: the transform whose result is stored.
        folder: of all caches; made if missing. It must be on a local file system, where locks work.
        threads: threads that decode; None: one per core.

    Raises:
        DataError: an image file is missing, or the disk is full.
    """
    folder = Path(folder)
    key = _key(labels, resize)
    pixels, index_file, damage_file = (folder / f"{key}.{end}" for end in ("pixels", "index.npy", "damaged.json"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{key}.lock"):
            files = _file_states(labels)
            index = _open_index(pixels, index_file, files)
            if index is None:
                index_file.unlink(missing_ok=True)
                index = _make(labels, resize, pixels, index_file, damage_file, files, threads)
            return CachedImages(labels, repr(resize), pixels, index, _read_damage(damage_file))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{folder}: the disk is full ({error.strerror}), the cache of {len(labels)} resized images was not "
                "made; free some space, choose another data.cache_dir, or set data.cache=false"
            ) from error
        raise DataError(f"{folder}: cannot make the cache of resized images: {error}") from error


def _key(labels: LabelSet, resize: EvalResize | ShorterSide) -> str:
    digest = hashlib.sha256(f"{_VERSION}\0{resize!r}\0".encode())
    for path in labels.image_paths:
        digest.update(os.path.realpath(path).encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:16]


def _file_states(labels: LabelSet) -> np.ndarray:
    """Return size and modification time of each image file, int64 (N, 2)."""
    states = np.empty((len(labels), 2), dtype=np.int64)
    for i in range(len(labels)):
        try:
            states[i] = storage.state(labels.path(i))
        except OSError as error:
            raise DataError(f"{labels.path(i)}: cannot read the file: {error.strerror or error}") from error
    return states


def _open_index(pixels: Path, index_file: Path, files: np.ndarray) -> np.ndarray | None:
    try:
        index = np.load(index_file, allow_pickle=False)
        size = pixels.stat().st_size
    except (OSError, ValueError, EOFError):
        return None
    if index.shape != (len(files), 5) or size != int((index[:, _HEIGHT] * index[:, _WIDTH]).sum()) * 3:
        return None
    if not np.array_equal(index[:, _FILE_SIZE:], files):
        _LOG.info("%s: image files have changed; the cache is made again", pixels)
        return None
    return index


def _read_damage(file: Path) -> dict[int, str]:
    """Return why JPEG files are damaged, by the number of the image; a cache of older versions does not know."""
    try:
        return {int(number): str(reason) for number, reason in json.loads(file.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        _LOG.warning("%s: cannot be read (%s), so damaged JPEG files are not counted; delete it", file, error)
        return {}


def _make(
    labels: LabelSet,
    resize: EvalResize | ShorterSide,
    pixels: Path,
    index_file: Path,
    damage_file: Path,
    files: np.ndarray,
    threads: int | None,
) -> np.ndarray:
    started = time.monotonic()
    _check_space(pixels.parent, len(labels), resize)
    index = np.concatenate(
        [np.full((len(files), 1), _ABSENT), np.zeros((len(files), 2), dtype=np.int64), files], axis=1
    )
    for stale in pixels.parent.glob(f".{pixels.name}.*.tmp"):  # left by a process that was killed; we hold the lock
        stale.unlink()
    with atomic_write(pixels) as temporary, temporary.open("wb") as out:
        damage = _fill(labels, resize, out.fileno(), index, threads or available_cores())
    damage_file.unlink(missing_ok=True)
    if damage:
        write_json(damage_file, dict(sorted(damage.items())))
    with atomic_write(index_file) as temporary, temporary.open("wb") as out:
        np.save(out, index)
    missing = int((index[:, _OFFSET] == _ABSENT).sum())
    _LOG.info(
        "cached %d images of %s in %s: %.0f MB, %.1f s%s",
        len(labels) - missing,
        labels.name,
        pixels,
        pixels.stat().st_size / 1e6,
        time.monotonic() - started,
        f"; {missing} cannot be decoded" if missing else "",
    )
    return index


def _fill(
    labels: LabelSet, resize: EvalResize | ShorterSide, out: int, index: np.ndarray, threads: int
) -> dict[int, str]:
    """Write pixels to the file descriptor `out`, and offset, height and width of each image to `index`.

    Returns:
        why JPEG files are damaged that were decoded nevertheless, by the number of the image.
    """
    # Threads suffice, and can share the file: decoding, resizing and writing all release the interpreter lock.
    end, end_lock = 0, threading.Lock()
    stop = threading.Event()
    todo = iter(range(len(labels)))
    shown = 0
    damage: dict[int, str] = {}

    def work() -> None:
        nonlocal end
        for i in todo:
            if stop.is_set():
                return
            found: list[str] = []
            try:
                image = read_image(labels.path(i), found)
            except DataError as error:
                _LOG.warning("not in the cache: %s", error)
                continue
            if found:
                damage[i] = found[0].removeprefix(f"{labels.path(i)}: ")
            pixels = resize(image).permute(1, 2, 0).contiguous().numpy()
            with end_lock:
                offset, end = end, end + pixels.nbytes
            _write(out, pixels.reshape(-1).data, offset)
            index[i, : _WIDTH + 1] = offset, pixels.shape[0], pixels.shape[1]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        title = f"caching resized images of {labels.name}"
        with ThreadPoolExecutor(threads) as pool, Meter(title, len(labels), unit="images") as meter:
            try:
                running = {pool.submit(work) for _ in range(threads)}
                while running:
                    done, running = wait(running, timeout=BAR_SECONDS, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    now = int((index[:, _OFFSET] != _ABSENT).sum())
                    meter.add(now - shown)
                    shown = now
            finally:
                stop.set()
    finally:
        torch.set_num_threads(before)
    return damage


def _write(out: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(out, data, offset)
        data, offset = data[written:], offset + written


def _check_space(folder: Path, count: int, resize: EvalResize | ShorterSide) -> None:
    side = resize.image_size**2 if isinstance(resize, EvalResize) else resize.size**2 * 4 // 3  # of a 4:3 photograph
    needed, free = count * side * 3, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free", str(folder))
