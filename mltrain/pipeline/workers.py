"""Worker processes that load batches: how they start, how the main process waits for them, how they end."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.pipeline.batch import Assembler, Job, PackedBatch
from mltrain.pipeline.buffers import BatchBuffers
from mltrain.pipeline.cache import available_cores

_LOG = logging.getLogger(__name__)
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))

LOOK_SECONDS = 0.5
"""time between two looks at workers and signals while no batch comes"""
PATIENCE = 600.0
"""seconds after which a missing batch is an error"""


def default_workers(gpu: bool) -> int:
    """Return the default number of workers for the cores this process may use, which the local ranks share.

    With a GPU all cores but one, at most 16. Without, a quarter of them, at least 1: the model needs the others.
    """
    cores = available_cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return max(1, min(16, cores - 1)) if gpu else max(1, cores // 4)


class _LentJobs:
    """Sampler of a DataLoader: jobs, each with a buffer for its batch."""

    def __init__(self, jobs: Callable[[], Iterable[Job]], buffers: BatchBuffers) -> None:
        self._jobs, self._buffers = jobs, buffers

    def __iter__(self) -> Iterator[Job]:
        # Runs when the first job is requested: the workers have then finished all earlier jobs.
        self._buffers.take_back()
        for job in self._jobs():
            yield job._replace(buffer=self._buffers.lend())


def data_loader(
    assembler: Callable[..., Assembler],
    jobs: Callable[[], Iterable[Job]],
    *,
    num_workers: int | None,
    prefetch: int,
    pin_memory: bool,
    batch_bytes: int,
    held: int,
) -> DataLoader[PackedBatch]:
    """Build the DataLoader; the consumer holds `held` batches at once, including the one it is about to request."""
    num_workers = default_workers(pin_memory) if num_workers is None else num_workers
    if num_workers < 0 or prefetch < 1:
        raise ValueError(f"num_workers={num_workers}, prefetch={prefetch}: must be at least 0 and 1")
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    # Only forked processes share the buffers; others use shared memory for each batch.
    shared = method == "fork" or not num_workers
    in_flight = num_workers * prefetch + held
    buffers = BatchBuffers(in_flight if shared else 0, batch_bytes)
    if not shared:
        _check_shared_memory(batch_bytes * in_flight)
    # Linux watches the thread that started the worker, not the process.
    main_thread = threading.current_thread() is threading.main_thread()
    return DataLoader(
        assembler(buffers=buffers if shared else None),  # type: ignore[arg-type]
        batch_size=None,
        sampler=_LentJobs(jobs, buffers),
        num_workers=num_workers,
        collate_fn=_identity,
        prefetch_factor=prefetch if num_workers else None,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=partial(_init_worker, main_thread, method != "forkserver"),
        multiprocessing_context=method if num_workers else None,
        generator=torch.Generator(),  # otherwise the DataLoader draws from the default generator, which training owns
    )


class Waiting:
    """Wait for the batches of workers; torch's own wait has no end and looks at nothing."""

    def __init__(self, labels: LabelSet) -> None:
        self.look: Callable[[], None] | None = None
        """called every `LOOK_SECONDS` while no batch comes; an exception that it raises ends the wait"""
        self._labels = labels

    def get(self, own: weakref.ref[Any], loader: weakref.ref[DataLoader[PackedBatch]]) -> Any:
        """Return what a worker sends next; replaces the method `_get_data` of `own`, the iterator of `loader`.

        The references are weak, so that an iterator which nobody uses any more ends its workers at once.

        Raises:
            DataError: a worker was killed, or nothing has come for `PATIENCE` seconds.
        """
        global _is_waiting
        iterator = own()
        assert iterator is not None, "it is waiting"
        _is_waiting = True
        try:
            looks = 0  # not a clock: this process may be stopped for an hour and go on
            while True:
                try:
                    self._check_workers(iterator)
                    success, data = iterator._try_get_data(LOOK_SECONDS)
                except RuntimeError:  # torch's handler of SIGCHLD raises it too
                    self._check_workers(iterator)
                    raise
                if success:
                    return data
                if self.look is not None:
                    self.look()
                looks += 1
                if looks * LOOK_SECONDS >= PATIENCE:
                    raise DataError(
                        f"{self._labels.name}: no batch has come from the {len(iterator._workers)} workers for "
                        f"{PATIENCE / 60:g} minutes: a file or disk does not answer, or a worker was stopped. Check "
                        f"that the images below {self._labels.root} can be read, then repeat the command"
                    )
        except BaseException:
            _is_waiting = False
            for worker in iterator._workers:
                worker.kill()  # it may hang, and nobody needs its batches any more
            if (owner := loader()) is not None:
                close_loader(owner)
            raise
        finally:
            _is_waiting = False

    def _check_workers(self, iterator: Any) -> None:
        for worker in iterator._workers:
            if not worker.is_alive():
                count, code = len(iterator._workers), worker.exitcode or 0
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                raise DataError(
                    f"{self._labels.name}: a worker that loads images (process {worker.pid}) {how}. Most often memory "
                    f"has run out: use fewer workers (data.num_workers={count // 2}, now {count}), a smaller "
                    "runner.batch_size, or more memory (in a container also --shm-size); then repeat the command"
                )


_is_waiting = False


def start_loading(loader: DataLoader[PackedBatch], waiting: Waiting) -> Iterator[PackedBatch]:
    """Return `iter(loader)`; signals that arrive while the workers start are handled afterwards.

    Workers inherit the blocked signals and unblock them once they ignore them: no signal can kill a starting worker.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return _patient(iter(loader), loader, waiting)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    child_handler = signal.getsignal(signal.SIGCHLD)
    try:
        return _patient(iter(loader), loader, waiting)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _raise_only_while_waiting(child_handler)


def _patient(iterator: Any, loader: DataLoader[PackedBatch], waiting: Waiting) -> Iterator[PackedBatch]:
    if loader.num_workers:
        iterator._get_data = partial(waiting.get, weakref.ref(iterator), weakref.ref(loader))
    return cast("Iterator[PackedBatch]", iterator)


def _raise_only_while_waiting(before: Any) -> None:
    """Replace the handler that torch has set for SIGCHLD, if it was not `before`.

    It raises an error when a worker has died, wherever the main thread is: in the middle of an optimizer step, too.
    """
    torchs = signal.getsignal(signal.SIGCHLD)
    if torchs != before and callable(torchs) and threading.current_thread() is threading.main_thread():

        def handle(number: int, frame: Any) -> None:
            if _is_waiting:
                torchs(number, frame)
            elif callable(before):
                before(number, frame)

        signal.signal(signal.SIGCHLD, handle)


def _identity(batch: Any) -> Any:
    return batch


def _init_worker(die_with_thread: bool, own_child: bool, worker: int) -> None:
    """Set up a new worker: it uses one thread, ignores signals, and dies with the main process.

    A terminal or a batch system signals the whole process group, but the main process still needs batches from its
    workers to finish its step and save.
    """
    torch.set_num_threads(1)
    for signum in _GROUP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    if die_with_thread and sys.platform == "linux":
        # torch's own watch for a dead main process takes seconds; this ends the worker immediately.
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    main = multiprocessing.parent_process()
    if own_child and main is not None and os.getppid() != main.pid:
        os._exit(1)  # the main process died before prctl, and torch's watch has not started yet


def _check_shared_memory(needed: int) -> None:
    folder = Path("/dev/shm")
    if folder.is_dir() and (free := shutil.disk_usage(folder).free) < needed:
        _LOG.warning(
            "shared memory: batches in flight need up to %.0f MB and /dev/shm has %.0f MB free; a worker that runs out "
            "is killed by SIGBUS. In a container raise --shm-size, or lower data.num_workers or runner.batch_size.",
            needed / 1e6,
            free / 1e6,
        )


def close_loader(loader: DataLoader[PackedBatch]) -> None:
    iterator = loader._iterator
    loader._iterator = None
    if iterator is None:
        return
    workers = list(getattr(iterator, "_workers", ()))
    iterator._shutdown_workers()  # type: ignore[attr-defined]
    for worker in workers:
        worker.join(timeout=5)
        if worker.is_alive():  # stuck in a read, and SIGTERM is ignored
            worker.kill()
            worker.join()
