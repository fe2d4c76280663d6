"""One batch, assembled where it is loaded: in a worker, straight into the memory that the main process will read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import get_worker_info

from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet
from mltrain.pipeline.buffers import BatchBuffers, Lent, hand_out
from mltrain.pipeline.decode import read_image
from mltrain.seeding import IMAGE, integer_hash, kept_random_state
from mltrain.sizes import ImageSize, height_width


class Batch(NamedTuple):
    """Images and targets, on the CPU."""

    images: torch.Tensor
    """uint8 (B, 3, H, W), RGB, channels last; or stored features in half precision, (B, T, D)"""
    targets: torch.Tensor
    """int8 (B, C): 1, 0 or -1"""
    indices: torch.Tensor
    """int64 (B,): positions in the LabelSet"""
    corrupt: list[str]
    """one line (path and reason) for each image that could not be decoded and is left out"""


def to_device(images: torch.Tensor, device: torch.device, memory_format: torch.memory_format) -> torch.Tensor:
    """Return the images of a batch on a device, in a memory format; stored features have but one."""
    if images.ndim == 4:
        return images.to(device, non_blocking=True, memory_format=memory_format)
    return images.to(device, non_blocking=True)


class Layout(NamedTuple):
    """Shape and type of one image of a batch: uint8 (3, S, S), channels last, or stored features (T, D)."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.uint8

    @property
    def bytes(self) -> int:
        """Size of an image."""
        return math.prod(self.shape) * self.dtype.itemsize


class Transform(Protocol):
    """uint8 RGB (H, W, 3) -> uint8 (3, h, w) of `image_size`; may draw from torch's default CPU generator only."""

    image_size: ImageSize

    def __call__(self, image: np.ndarray) -> torch.Tensor: ...


def layout_of(transform: Transform) -> Layout:
    """Return the layout of what a transform gives: its attribute `layout`, or that of images."""
    return getattr(transform, "layout", None) or Layout((3, *height_width(transform.image_size)))


class ToTensor:
    """The transform of images that are resized already."""

    def __init__(self, image_size: ImageSize) -> None:
        self.image_size = image_size

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).permute(2, 0, 1)


class ImageSource(Protocol):
    """A source of images: files, or a cache of resized ones."""

    damaged: list[str]
    """one line for each damaged JPEG file among those read; the reader empties it"""

    def read(self, index: int) -> np.ndarray: ...


class Cache(ImageSource, Protocol):
    """A source of what was computed from every image and is read instead of the files: resized images, or features."""

    def training(self, augment: Transform) -> Transform:
        """Return the transform of what `read` gives; `augment` is that of training images."""
        ...

    def evaluation(self, resize: Transform) -> Transform:
        """Return the transform of what `read` gives; `resize` is that of evaluation. ValueError: it does not fit."""
        ...


class Job(NamedTuple):
    """A batch to load: the images at `indices`, the first of which is at `position` of the epoch's order."""

    epoch: int
    position: int
    indices: np.ndarray
    buffer: Lent | None = None
    """memory for the batch; None: memory of its own"""


@dataclass(frozen=True)
class PackedBatch:
    """A batch on its way to the main process: images, then targets, in one buffer.

    It is no named tuple, because torch 2.8 does not call the `pin_memory` of those. `error` is the message of a
    DataError, which would get the traceback of the worker if it was raised there.
    """

    buffer: torch.Tensor | Lent
    capacity: int
    layout: Layout
    num_classes: int
    indices: np.ndarray
    corrupt: list[str]
    error: str | None
    damaged: list[str]
    """one line (path and reason) for each JPEG file that is damaged and was decoded nevertheless"""
    refused: str | None = None
    """message of the ConfigError of a transform"""

    def unpack(self) -> Batch:
        """Return views of the buffer.

        Raises:
            DataError: an image could not be decoded, and the loader does not skip.
            ConfigError: the transform, which is the user's, failed.
        """
        buffer = self._tensor()
        if self.refused is not None:
            raise ConfigError(self.refused)
        if self.error is not None:
            raise DataError(self.error)
        images, targets = _views(buffer, self.capacity, self.layout, self.num_classes)
        n = len(self.indices)
        return Batch(images[:n], targets[:n], torch.from_numpy(self.indices), self.corrupt)

    def pin_memory(self) -> PackedBatch:
        """Return a copy in page-locked memory; the DataLoader's pinning thread calls this."""
        return replace(self, buffer=self._tensor().pin_memory())

    def _tensor(self) -> torch.Tensor:
        return self.buffer if isinstance(self.buffer, torch.Tensor) else hand_out(self.buffer)


def _views(buffer: torch.Tensor, count: int, layout: Layout, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    split = count * layout.bytes
    images = buffer[:split].view(layout.dtype)
    if len(layout.shape) == 3:
        channels, height, width = layout.shape
        images = images.view(count, height, width, channels).permute(0, 3, 1, 2)
    else:
        images = images.view(count, *layout.shape)
    return images, buffer[split : split + count * classes].view(torch.int8).view(count, classes)


class FileSource:
    """Images from their files."""

    def __init__(self, labels: LabelSet) -> None:
        self._labels = labels
        self.damaged: list[str] = []

    def read(self, index: int) -> np.ndarray:
        return read_image(self._labels.path(index), self.damaged)


@dataclass(eq=False)
class Assembler:
    """Loads the batch of a `Job`: a map-style dataset of batches."""

    labels: LabelSet
    """targets, and paths for messages"""
    source: ImageSource
    transform: Transform
    seed: int | None
    """of the run: each image is transformed under random state keyed by (seed, epoch, position, index), and the earlier
    state is restored. None: the transform draws nothing"""
    skip: bool
    """leave out images that cannot be decoded, instead of failing the batch"""
    buffers: BatchBuffers | None
    """memory that jobs refer to"""

    def __getitem__(self, job: Job) -> PackedBatch:
        if self.seed is None:
            return self._assemble(job, None)
        with kept_random_state() as generator:
            return self._assemble(job, generator)

    def _assemble(self, job: Job, generator: torch.Generator | None) -> PackedBatch:
        count, layout, classes = len(job.indices), layout_of(self.transform), self.labels.num_classes
        memory = self._memory(job, count * (layout.bytes + classes))
        buffer = memory if job.buffer is None else job.buffer
        images, targets = _views(memory, count, layout, classes)
        kept: list[int] = []
        corrupt: list[str] = []
        for offset, index in enumerate(job.indices.tolist()):
            try:
                image = self.source.read(index)
            except DataError as error:
                if not self.skip:
                    return PackedBatch(buffer, count, layout, classes, job.indices, [], str(error), [])
                corrupt.append(str(error))
                continue
            if generator is not None and self.seed is not None:
                generator.manual_seed(integer_hash(IMAGE, self.seed, job.epoch, job.position + offset, index))
            try:
                result = self.transform(image)
            except ConfigError as error:  # a transform of the user
                return PackedBatch(buffer, count, layout, classes, job.indices, [], None, [], str(error))
            if result.shape != layout.shape or result.dtype != layout.dtype:
                raise ValueError(
                    f"{type(self.transform).__name__} gave {result.dtype} {tuple(result.shape)}, "
                    f"expected {layout.dtype} {layout.shape}"
                )
            images[len(kept)].copy_(result)
            kept.append(index)
        indices = np.asarray(kept, dtype=np.int64)
        targets[: len(kept)] = torch.from_numpy(self.labels.targets_batch(indices))
        damaged = self.source.damaged.copy()
        self.source.damaged.clear()
        return PackedBatch(buffer, count, layout, classes, indices, corrupt, None, damaged)

    def _memory(self, job: Job, size: int) -> torch.Tensor:
        if job.buffer is not None:
            assert self.buffers is not None and size <= self.buffers.size
            return self.buffers.memory(job.buffer)
        if get_worker_info() is None:
            return torch.empty(size, dtype=torch.uint8)
        # Shared memory from the start, as in torch's own default_collate, saves a copy.
        return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
