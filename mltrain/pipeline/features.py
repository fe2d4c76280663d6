"""Features of a frozen backbone on disk, so that each image goes through it only once; see `store` for the files."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.pipeline.batch import Assembler, FileSource, Job, Layout, Transform, layout_of
from mltrain.pipeline.decode import read_image
from mltrain.pipeline.loader import Damage
from mltrain.pipeline.store import COLUMNS, Store, key_of, open_store, write_at
from mltrain.pipeline.workers import Waiting, close_loader, data_loader, start_loading
from mltrain.progress import Meter
from mltrain.sizes import ImageSize

_LOG = logging.getLogger(__name__)
_VERSION = 1
_SEED = 0
"""of all views: runs of several seeds share them, and each draws among them by its own seed"""
_SAME = 0.02
"""largest difference, relative to the largest feature, of features that are computed again: half precision, and
another processor"""

Compute = Callable[[torch.Tensor], torch.Tensor]
"""uint8 images (B, 3, S, S) -> features (B, T, D) in half precision, on the CPU"""


class StoredView:
    """The transform of stored features, (views, T, D): one view of the image, drawn at random if there are several."""

    def __init__(self, layout: Layout, views: int) -> None:
        self.layout, self.views = layout, views
        self.image_size: ImageSize = 0  # there is no image

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        view = int(torch.randint(self.views, ())) if self.views > 1 else 0
        return torch.from_numpy(image[view]).view(self.layout.dtype)


class CachedFeatures:
    """Features of a cache; `cached_features` opens it.

    The cache lacks images that could not be decoded: they are read from their files, which raises the `DataError` that
    says why.
    """

    def __init__(self, labels: LabelSet, store: Store, layout: Layout, views: int) -> None:
        self.damaged: list[str] = []
        """stays empty: damaged files were named when the features were computed"""
        self._labels, self._store = labels, store
        self._view = StoredView(layout, views)

    def __len__(self) -> int:
        return len(self._store)

    def read(self, index: int) -> np.ndarray:
        """Return the views of an image, uint8 (views, T, bytes of D features)."""
        stored = self._store.array(index)
        if stored is None:
            read_image(self._labels.path(index))
            raise DataError(f"{self._labels.path(index)}: was damaged when features were cached; start the run again")
        tokens, width = self._view.layout.shape
        return stored.reshape(self._view.views, tokens, width * self._view.layout.dtype.itemsize)

    def training(self, augment: Transform) -> Transform:
        """Return the transform that takes one of the views; `augment` has made them already."""
        return self._view

    def evaluation(self, resize: Transform) -> Transform:
        """Return the transform that takes the only view. ValueError: there are several, which training draws from."""
        if self._view.views > 1:
            raise ValueError(f"evaluation needs one view of an image, the cache has {self._view.views}")
        return self._view


def cached_features(
    labels: LabelSet,
    transform: Transform,
    compute: Compute,
    *,
    layout: Layout,
    content: str,
    folder: str | os.PathLike[str],
    views: int = 0,
    batch_size: int = 64,
    num_workers: int | None = None,
    pin_memory: bool = False,
) -> CachedFeatures:
    """Open the features of a LabelSet; compute them first if they are missing or an image file has changed.

    The features of the first image are computed again to see that those in the file are still what `compute` gives.

    Args:
        labels: the images.
        transform: of an image: that of evaluation, or the random one of training.
        compute: gives the features.
        layout: of the features of an image, (T, D).
        content: what the features depend on besides the images: weights, transform.
        folder: of all caches.
        views: how many features of an image are stored, each after `transform` under a random state of its own; 0: one,
            and `transform` draws nothing.
        batch_size: images that go through the backbone together.
        num_workers, pin_memory: see `TrainLoader`.

    Raises:
        DataError: an image file is missing, or the disk is full.
    """
    tokens, width = layout.shape
    copies = max(1, views)

    def jobs(images: int) -> Iterator[Job]:
        for first in range(0, images, batch_size):
            for view in range(copies):
                yield Job(view, first, np.arange(first, min(first + batch_size, images)))

    def computed(images: int, workers: int | None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield view, indices, and features uint8 (B, T * D * itemsize) of the first `images`, batch by batch."""
        loader = data_loader(
            partial(Assembler, labels, FileSource(labels), transform, seed=_SEED if views else None, skip=True),
            lambda: jobs(images),
            num_workers=workers,
            prefetch=2,
            pin_memory=pin_memory,
            batch_bytes=batch_size * (layout_of(transform).bytes + labels.num_classes),
            held=2,
        )
        damage, missing = Damage(labels.name), dict[str, None]()
        try:
            for job, packed in zip(jobs(images), start_loading(loader, Waiting(labels)), strict=True):
                damage.add(packed.damaged)
                batch = packed.unpack()
                missing.update(dict.fromkeys(batch.corrupt))
                if len(batch.indices):
                    features = compute(batch.images).contiguous()
                    assert (*features.shape[1:], features.dtype) == (*layout.shape, layout.dtype)
                    rows = features.view(len(features), -1).view(torch.uint8).numpy()
                    yield job.epoch, batch.indices.numpy(), rows
        finally:
            close_loader(loader)
        if images == len(labels):
            damage.report()
            for line in missing:
                _LOG.warning("not in the cache: %s", line)

    def fill(out: int, index: np.ndarray) -> None:
        end, size = 0, layout.bytes
        with Meter(f"caching features of {labels.name}", copies * len(labels), unit="images") as meter:
            for view, indices, rows in computed(len(labels), num_workers):
                if view == 0:
                    index[indices, 0] = end + copies * size * np.arange(len(indices))
                    index[indices, 1 : COLUMNS + 1] = copies * tokens, width
                    end += copies * size * len(indices)
                for offset, row in zip(index[indices, 0].tolist(), rows, strict=True):
                    write_at(out, row.data, offset + view * size)
                meter.add(len(indices))

    def is_current(store: Store) -> bool:
        stored = store.array(0)
        for view, _, rows in computed(1, 0):
            if stored is None:
                return False  # it can be decoded now
            values = [
                torch.from_numpy(part.copy()).view(layout.dtype).float()
                for part in (stored.reshape(copies, -1)[view], rows[0])
            ]
            if (values[0] - values[1]).abs().max() > _SAME * values[1].abs().max():
                _LOG.info("the backbone gives other features of %s than those cached; made again", labels.path(0))
                return False
        return True

    store = open_store(
        labels,
        Path(folder) / f"{key_of(labels, str(_VERSION), content, f'{views} {layout}')}.features",
        fill,
        place_bytes=layout.dtype.itemsize,
        needed=len(labels) * copies * math.prod(layout.shape) * layout.dtype.itemsize,
        what="features",
        is_current=is_current,
    )
    return CachedFeatures(labels, store, layout, copies)
