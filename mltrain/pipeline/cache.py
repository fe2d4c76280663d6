"""Resized images on disk, so that each image is decoded and resized only once.

See `store` for the files. ``KEY.damaged.json`` is there beside them if JPEG files are damaged: the reason by the number
of the image.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch

from mltrain.errors import DataError
from mltrain.files import write_json
from mltrain.labels import LabelSet
from mltrain.pipeline.augment import EvalResize, ShorterSide
from mltrain.pipeline.batch import ToTensor, Transform
from mltrain.pipeline.decode import read_image
from mltrain.pipeline.store import COLUMNS, Store, count_stored, key_of, open_store, write_at
from mltrain.progress import BAR_SECONDS, Meter
from mltrain.sizes import area

_LOG = logging.getLogger(__name__)
_VERSION = 1


def available_cores() -> int:
    """Return how many cores this process may use; the variable MLTRAIN_CORES lowers it, where jobs share a machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(os.environ.get("MLTRAIN_CORES") or cores)))


class CachedImages:
    """Images of a cache; `cached_images` opens it.

    The cache lacks images that could not be decoded: they are read from their files, which raises the `DataError` that
    says why.
    """

    def __init__(self, labels: LabelSet, resize: str, store: Store, damage: dict[int, str] | None = None) -> None:
        self.resize = resize
        self.damaged: list[str] = []
        """one line for each damaged JPEG file among those read; the reader empties it"""
        self._damage = damage or {}
        self._labels = labels
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def read(self, index: int) -> np.ndarray:
        """Return an image, uint8 (H, W, 3)."""
        if index in self._damage:
            self.damaged.append(f"{self._labels.path(index)}: {self._damage[index]}")
        image = self._store.array(index)
        return read_image(self._labels.path(index)) if image is None else image

    def training(self, augment: Transform) -> Transform:
        """Return `augment`, which takes a resized image as it takes that of the file."""
        return augment

    def evaluation(self, resize: Transform) -> Transform:
        """Return the transform of images that `resize` has resized.

        Raises:
            ValueError: the cache holds results of another transform.
        """
        if self.resize != repr(resize):
            raise ValueError(f"the cache holds images resized by {self.resize}, expected {resize!r}")
        return ToTensor(resize.image_size)


def cached_images(
    labels: LabelSet, resize: EvalResize | ShorterSide, *, folder: str | os.PathLike[str], threads: int | None = None
) -> CachedImages:
    """Open the cache of a LabelSet; make it first if it is missing or an image file has changed, see `open_store`.

    Args:
        labels: the images.
        resize: the transform whose result is stored.
        folder: of all caches.
        threads: threads that decode; None: one per core.

    Raises:
        DataError: an image file is missing, or the disk is full.
    """
    pixels = area(resize.image_size) if isinstance(resize, EvalResize) else area(resize.size) * 4 // 3  # of a 4:3 photo
    file = Path(folder) / f"{key_of(labels, str(_VERSION), repr(resize))}.pixels"
    damage_file = file.with_suffix(".damaged.json")

    def fill(out: int, index: np.ndarray) -> None:
        damage = _fill(labels, resize, out, index, threads or available_cores())
        damage_file.unlink(missing_ok=True)
        if damage:
            write_json(damage_file, dict(sorted(damage.items())))

    store = open_store(
        labels,
        file,
        fill,
        place_bytes=3,
        needed=len(labels) * pixels * 3,
        what="resized images",
    )
    return CachedImages(labels, repr(resize), store, _read_damage(damage_file))


def _read_damage(file: Path) -> dict[int, str]:
    """Return why JPEG files are damaged, by the number of the image; a cache of older versions does not know."""
    try:
        return {int(number): str(reason) for number, reason in json.loads(file.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        _LOG.warning("%s: cannot be read (%s), so damaged JPEG files are not counted; delete it", file, error)
        return {}


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
            write_at(out, pixels.reshape(-1).data, offset)
            index[i, : COLUMNS + 1] = offset, pixels.shape[0], pixels.shape[1]

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
                    now = count_stored(index)
                    meter.add(now - shown)
                    shown = now
            finally:
                stop.set()
    finally:
        torch.set_num_threads(before)
    return damage
