"""Batches for training and evaluation, independent of the number of workers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal

import torch

from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.pipeline.batch import Assembler, Batch, Cache, FileSource, Job, PackedBatch, Transform, layout_of
from mltrain.pipeline.samplers import Sampler
from mltrain.pipeline.workers import Waiting, close_loader, data_loader, start_loading
from mltrain.text import counted

_LOG = logging.getLogger(__name__)


class TrainLoader:
    """Micro-batches of training, as a pure function of (seed, epoch, step).

    Step k of an epoch takes ``order[k * G : (k + 1) * G]`` of the sampler's order, G = batch_size * accumulate, cut
    into accumulate x world_size equal parts, micro-batch major. The rest of the order is dropped; an order shorter
    than G makes one short step. Each image is augmented under random state keyed by (seed, epoch, position in the
    order, index). So batches do not depend on workers, ranks only cut them, and `epoch(e, start_step=k)` continues
    exactly.

    While an epoch ends, workers already load the first batches of the next one. Read one epoch at a time.

    Args:
        labels: the training set.
        augment: transform of an image.
        sampler: gives the order of an epoch.
        batch_size: images per micro-batch over all ranks; a multiple of world_size.
        accumulate: micro-batches per optimizer step.
        rank, world_size: of this process.
        seed: of the run.
        num_workers: worker processes; 0 loads in this process; None: see `default_workers`.
        prefetch: batches that each worker prepares ahead.
        on_corrupt: ``stop`` at an image that cannot be decoded, or ``skip`` it: the batch gets shorter, possibly empty,
            and `Batch.corrupt` lists the image.
        corrupt_budget: with ``skip``, the run ends if more different images than this are corrupt.
        pin_memory: put batches into page-locked memory, for a CUDA device.
        cache: read instead of the files: resized images (of ``augment.cache_resize(...)``, see `cached_images`), or
            features (see `cached_features`).

    Raises:
        ValueError: an argument is out of range, or the sampler gives no image.
        DataError: while iterating: an image cannot be decoded (``stop``), or too many cannot (``skip``); a worker was
            killed, or no batch has come for `PATIENCE` seconds.
    """

    def __init__(
        self,
        labels: LabelSet,
        augment: Transform,
        sampler: Sampler,
        *,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        num_workers: int | None = None,
        prefetch: int = 2,
        on_corrupt: Literal["stop", "skip"] = "stop",
        corrupt_budget: int = 100,
        pin_memory: bool = False,
        cache: Cache | None = None,
    ) -> None:
        _check_sizes(batch_size, rank, world_size)
        if accumulate < 1:
            raise ValueError(f"accumulate={accumulate}: must be positive")
        if batch_size % world_size:
            raise ValueError(f"batch_size={batch_size} (over all ranks) is not a multiple of world_size={world_size}")
        if on_corrupt not in ("stop", "skip"):
            raise ValueError(f"on_corrupt={on_corrupt!r}: must be stop or skip")
        if corrupt_budget < 0:
            raise ValueError(f"corrupt_budget={corrupt_budget}: must not be negative")
        if not len(sampler):
            raise ValueError(f"{labels.name}: the sampler gives no image")
        self.corrupt: dict[str, None] = {}
        """path and reason of each image that was left out; a resumed run adds those of before"""
        self.waiting = Waiting(labels)
        self._damage = Damage(labels.name)
        self._sampler = sampler
        self._step_size = min(batch_size * accumulate, len(sampler))
        self._accumulate = accumulate
        self._rank = rank
        self._world_size = world_size
        self._corrupt_budget = corrupt_budget
        transform = augment if cache is None else cache.training(augment)
        self._loader = data_loader(
            partial(Assembler, labels, cache or FileSource(labels), transform, seed=seed, skip=on_corrupt == "skip"),
            self._jobs,
            num_workers=num_workers,
            prefetch=prefetch,
            pin_memory=pin_memory,
            batch_bytes=-(-batch_size // world_size) * (layout_of(transform).bytes + labels.num_classes),
            held=2 * accumulate,
        )
        self._stream: Iterator[PackedBatch] | None = None
        self._next = (0, 0)
        """epoch and micro-batch that the stream gives next"""

    @property
    def num_workers(self) -> int:
        """Number of worker processes."""
        return self._loader.num_workers

    @property
    def epoch_size(self) -> int:
        """Number of images that the sampler gives in an epoch."""
        return len(self._sampler)

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in an epoch."""
        return len(self._sampler) // self._step_size

    def set_sampler(self, sampler: Sampler) -> None:
        """Take the next epochs from another sampler of the same length; batches that were loaded ahead are dropped."""
        if len(sampler) != len(self._sampler):
            raise ValueError(f"the sampler gives {len(sampler)} indices an epoch, expected {len(self._sampler)}")
        self._sampler, self._stream = sampler, None

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Iterate over the micro-batches of an epoch from optimizer step `start_step` on; do not load earlier ones."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"start_step={start_step}: the epoch has {counted(self.steps_per_epoch, 'step')}")
        return self._iterate(epoch, start_step * self._accumulate)

    def close(self) -> None:
        """End the workers."""
        self._stream = None
        self._damage.report()
        close_loader(self._loader)

    def _iterate(self, epoch: int, start: int) -> Iterator[Batch]:
        end = self.steps_per_epoch * self._accumulate
        if start == end:
            return
        if self._stream is None or self._next != (epoch, start):
            self._next = (epoch, start)
            self._stream = start_loading(self._loader, self.waiting)
        stream = self._stream
        for micro in range(start, end):
            if self._stream is not stream or self._next != (epoch, micro):
                raise RuntimeError(f"epoch {epoch} of the training loader was left: another one has been started")
            try:
                packed = next(stream)
            except BaseException:
                self._stream = None  # the job is lost: the next epoch() starts a new stream
                raise
            self._next = (epoch, micro + 1) if micro + 1 < end else (epoch + 1, 0)
            self._damage.add(packed.damaged)
            try:
                batch = packed.unpack()
            except DataError as error:
                text = f"{error}. Fix or remove it, or train without such images: data.on_corrupt=skip"
                raise DataError(text) from None
            if batch.corrupt:
                self._count(batch.corrupt)
            if micro + 1 == end:
                self._damage.report()
            yield batch

    def _jobs(self) -> Iterator[Job]:
        # Endless: after the last job of an epoch, workers continue with the next epoch.
        epoch, micro = self._next
        parts = self._accumulate * self._world_size
        while True:
            order = self._sampler.order(epoch)
            if len(order) != len(self._sampler):
                raise ValueError(
                    f"the sampler gave {len(order)} indices in epoch {epoch}, expected {len(self._sampler)}"
                )
            for step in range(micro // self._accumulate, self.steps_per_epoch):
                for m in range(micro % self._accumulate, self._accumulate):
                    part = m * self._world_size + self._rank
                    first, last = (step * self._step_size + k * self._step_size // parts for k in (part, part + 1))
                    yield Job(epoch, first, order[first:last])
                micro = 0
            epoch, micro = epoch + 1, 0

    def _count(self, corrupt: list[str]) -> None:
        for line in corrupt:
            if line not in self.corrupt:
                self.corrupt[line] = None
                _LOG.warning("left out of training: %s", line)
        if len(self.corrupt) > self._corrupt_budget:
            first = "".join(f"\n  {line}" for line in list(self.corrupt)[:5])
            raise DataError(
                f"{counted(len(self.corrupt), 'image')} cannot be decoded, more than "
                f"corrupt_budget={self._corrupt_budget}; "
                f"the first of them:{first}\nFix or remove them, or raise the budget."
            )


class EvalLoader:
    """Batches of evaluation: each image once over all ranks, in the LabelSet's order, rank 0's share first.

    Args:
        labels: the set to evaluate on.
        transform: deterministic transform of an image.
        batch_size: images per batch over all ranks.
        rank, world_size: of this process.
        num_workers, prefetch, pin_memory, on_corrupt: as in `TrainLoader`; images that ``skip`` leaves out are not
            counted.
        cache: results of `transform`, or features of these, to read instead of the files.

    Raises:
        ValueError: an argument is out of range, or the cache holds results of another transform.
        DataError: while iterating: as `TrainLoader`.
    """

    def __init__(
        self,
        labels: LabelSet,
        transform: Transform,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int | None = None,
        prefetch: int = 2,
        pin_memory: bool = False,
        on_corrupt: Literal["stop", "skip"] = "stop",
        cache: Cache | None = None,
    ) -> None:
        _check_sizes(batch_size, rank, world_size)
        transform = transform if cache is None else cache.evaluation(transform)
        self.labels = labels
        self.waiting = Waiting(labels)
        self._damage = Damage(labels.name)
        first, last = (len(labels) * k // world_size for k in (rank, rank + 1))
        self.share = last - first
        """number of images of this rank"""
        local = -(-batch_size // world_size)
        largest_share = -(-len(labels) // world_size)
        self.rounds = -(-largest_share // local)
        """number of batches of the rank that has most"""
        indices = torch.arange(first, last).numpy()
        self._jobs = [Job(0, first + k, indices[k : k + local]) for k in range(0, len(indices), local)]
        self._loader = data_loader(
            partial(Assembler, labels, cache or FileSource(labels), transform, seed=None, skip=on_corrupt == "skip"),
            lambda: self._jobs,
            num_workers=num_workers,
            prefetch=prefetch,
            pin_memory=pin_memory,
            batch_bytes=local * (layout_of(transform).bytes + labels.num_classes),
            held=2,
        )

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Batch]:
        for number, packed in enumerate(start_loading(self._loader, self.waiting), 1):
            self._damage.add(packed.damaged)
            if number == len(self._jobs):
                self._damage.report()
            yield packed.unpack()

    def close(self) -> None:
        """End the workers."""
        close_loader(self._loader)


class Damage:
    """JPEG files of a set that are damaged in their data, which libjpeg decodes nevertheless."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._files: dict[str, None] = {}
        self._reported = 0

    def add(self, lines: Iterable[str]) -> None:
        """Count files, each once."""
        self._files.update(dict.fromkeys(lines))

    def report(self) -> None:
        """Say in one line how many files are damaged, if more are than were said before."""
        if len(self._files) > self._reported:
            self._reported = len(self._files)
            _LOG.warning(
                "%s: damaged JPEG files: %d; used as far as they decode; get them again, or remove them. First: %s",
                self._name,
                self._reported,
                next(iter(self._files)),
            )


def _check_sizes(batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be positive")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank}, world_size={world_size}: must be 0 <= rank < world_size")
