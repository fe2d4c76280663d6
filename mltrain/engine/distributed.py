"""One process or many behind one interface: `with start("auto") as ranks: ...`.

Under `torchrun --nproc_per_node=N` each process is a rank with a device of its own: NCCL connects GPUs, gloo CPUs.
CPU tensors and Python objects always travel by gloo. Without torchrun everything here is a no-op with the result of a
single rank.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from mltrain.errors import ConfigError, Interrupted, MltrainError

logger = logging.getLogger(__name__)

T = TypeVar("T")

ANNOUNCE_SECONDS = 10.0
"""time after which a wait for other ranks is announced"""
_TRANSFER_BYTES = 256 * 2**20


@dataclass(eq=False)
class Distributed:
    """This process and its connection to the other ranks. Build it with `start`."""

    rank: int
    world_size: int
    local_rank: int
    """its number on this machine"""
    device: torch.device
    """of its model"""
    cpu_group: Any = None

    @property
    def is_main(self) -> bool:
        """True on rank 0, which alone writes files and logs."""
        return self.rank == 0

    def __enter__(self) -> Distributed:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # After an error another rank may be inside a collective, and destroying the group would wait for it. Ending the
        # process closes the connections instead, and the collective of the other rank fails at once.
        if error is None or (isinstance(error, Interrupted) and error.agreed):
            self.close()

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place, on the tensor's own device; returns the tensor."""
        if self.world_size > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=self._group(tensor))
        return tensor

    def all_gather_objects(self, value: T) -> list[T]:
        """Return every rank's `value`, in rank order, on every rank; for small Python objects, not tensors."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.cpu_group)
        return values

    def broadcast(self, value: T) -> T:
        """Return rank 0's `value` on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.cpu_group)
        return values[0]

    @torch.no_grad()
    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give every rank rank 0's buffers (batch-norm statistics), one message per dtype."""
        if self.world_size == 1:
            return
        by_dtype: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
        for buffer in module.buffers():
            if buffer.numel():
                by_dtype.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        for buffers in by_dtype.values():
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            dist.broadcast(flat.view(torch.uint8), src=0, group=self._group(flat))
            for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
                buffer.copy_(values.view(buffer.shape))

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            dist.barrier(group=self.cpu_group)

    def gather_rows(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """Concatenate (n_r, ...) tensors along the first dimension, in rank order; n_r may differ, and be 0.

        Returns the (sum n_r, ...) tensor on rank 0, None on others. Any dtype. Rank 0 receives rows directly into the
        result, without further memory.

        Raises:
            ValueError: on every rank, if ranks disagree in dtype or in the shape of a row.
        """
        if self.world_size == 1:
            return tensor
        metas = self.all_gather_objects((tuple(tensor.shape), str(tensor.dtype), tensor.device.type))
        if any((meta[0][1:], meta[1:]) != (metas[0][0][1:], metas[0][1:]) for meta in metas):
            raise ValueError(f"gather_rows: ranks disagree in row shape, dtype or device: {metas}")
        group = self._group(tensor)
        if not self.is_main:
            for message in _messages(tensor):
                dist.send(message, dst=0, group=group)
            return None
        counts = [shape[0] for shape, *_ in metas]
        out = torch.empty((sum(counts), *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device)
        own, *others = out.split(counts)
        own.copy_(tensor)
        for source, rows in enumerate(others, 1):
            for message in _messages(rows):
                dist.recv(message, src=source, group=group)
        return out

    @contextmanager
    def first(self) -> Iterator[None]:
        """Run the block on rank 0 first, then on the first rank of every other machine, then on the rest.

        For work whose result is in files, such as generating a data set: the later ranks find it done. An error on one
        rank ends the block on all ranks: the others raise MltrainError with its message.
        """
        turn = 0 if self.is_main else 1 if self.local_rank == 0 else 2
        for _ in range(turn):
            self._raise_together(None)
        try:
            yield
        except BaseException as error:
            if self.world_size > 1:
                self.all_gather_objects(f"{type(error).__name__}: {error}")
            raise
        for _ in range(turn, 3):
            self._raise_together(None)

    def _raise_together(self, failure: str | None) -> None:
        for rank, found in enumerate(self.all_gather_objects(failure)):
            if found is not None and rank != self.rank:
                raise MltrainError(f"rank {rank} stopped with {found}")

    def _group(self, tensor: torch.Tensor) -> Any:
        return self.cpu_group if tensor.device.type == "cpu" else None


def _messages(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """View a tensor as bytes, because gloo does not support every dtype, in parts of a bounded size."""
    return rows.contiguous().view(-1).view(torch.uint8).split(_TRANSFER_BYTES) if rows.numel() else ()


def start(device: str = "auto", *, timeout_minutes: float = 20.0) -> Distributed:
    """Join the process group that torchrun's variables describe (none: a single process) and choose this rank's device.

    `device` is auto (CUDA, else Apple's mps, else cpu), cpu, cuda, cuda:N or mps. With several ranks a machine's GPUs
    are assigned by local rank. A collective that waits longer than `timeout_minutes` for a peer raises instead of
    hanging; the death of a peer is noticed at once.

    Raises:
        ConfigError: the device is missing or does not suit several ranks, or torchrun's variables are incomplete.
    """
    world_size = _variable("WORLD_SIZE", 1)
    if world_size == 1:
        return Distributed(rank=0, world_size=1, local_rank=0, device=single_device(device))
    missing = [n for n in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(n)]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE={world_size} is set but {', '.join(missing)} is not; start with "
            f"`torchrun --nproc_per_node=N -m mltrain train ...`, or unset WORLD_SIZE to run one process"
        )
    rank, local_rank = _variable("RANK", 0), _variable("LOCAL_RANK", 0)
    chosen = _rank_device(device, local_rank)
    timeout = timedelta(minutes=timeout_minutes)
    cpu_group = None
    members: dict[str, Any] = {"rank": rank, "world_size": world_size, "timeout": timeout}
    members["store"] = dist.PrefixStore("mltrain", _meet(rank, world_size, timeout))
    with _announced(f"rank {rank} still waits for the other ranks to connect; look at their logs"):
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
            dist.init_process_group("nccl", device_id=chosen, **members)
            # NCCL moves GPU memory only: CPU tensors and objects use an additional gloo group.
            cpu_group = dist.new_group(backend="gloo", timeout=timeout)
        else:
            dist.init_process_group("gloo", **members)
    return Distributed(rank=rank, world_size=world_size, local_rank=local_rank, device=chosen, cpu_group=cpu_group)


def _meet(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Wait until every rank has started, and say which ones are missing; torch would wait in silence.

    Raises:
        MltrainError: a rank is missing after `timeout`.
    """
    host, port = os.environ["MASTER_ADDR"], _variable("MASTER_PORT", 0)
    place = f"{host}:{port}"
    # torchrun itself serves the store, the same one for all attempts to start the ranks.
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    end = time.monotonic() + timeout.total_seconds()
    try:
        with _announced(f"rank {rank} waits for rank 0 at {place}; has it started, and can it be reached?"):
            server = dist.TCPStore(
                host, port, world_size, rank == 0 and not served, timeout, wait_for_workers=False, multi_tenant=True
            )
        store = dist.PrefixStore(f"attempt {attempt}", server)
        store.set(f"started {rank}", socket.gethostname())
    except dist.DistError as error:
        raise MltrainError(f"rank {rank} cannot reach rank 0 at {place}: {str(error).splitlines()[0]}") from error
    missing = list(range(world_size))
    said = time.monotonic() + ANNOUNCE_SECONDS
    while missing := [other for other in missing if not store.check([f"started {other}"])]:
        names = ", ".join(map(str, missing))
        if time.monotonic() > end:
            raise MltrainError(
                f"rank {rank} has waited {timeout.total_seconds() / 60:g} minutes at {place} for ranks that never "
                f"started: {names}; their logs have the reason"
            )
        if time.monotonic() > said:
            logger.warning("rank %d waits at %s for ranks that have not started: %s", rank, place, names)
            said = time.monotonic() + 6 * ANNOUNCE_SECONDS
        time.sleep(0.05)
    return store


@contextmanager
def _announced(text: str) -> Iterator[None]:
    """Log a warning if a block takes longer than `ANNOUNCE_SECONDS`."""
    timer = threading.Timer(ANNOUNCE_SECONDS, logger.warning, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit():
        raise ConfigError(f"the environment variable {name} must be a whole number, found {text!r}; torchrun sets it")
    return int(text)


def _parse(request: str) -> torch.device | None:
    """Check a requested device; return None for auto."""
    if request == "auto":
        return None
    kind, _, index = request.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in request and not (kind == "cuda" and index.isdigit())):
        raise ConfigError(f"runner.device={request!r} is not known; allowed: auto, cpu, cuda, cuda:N, mps")
    device = torch.device(request)
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
            raise ConfigError(f"runner.device={request}, but {why}; use runner.device=auto or cpu")
        if index and int(index) >= count:
            raise ConfigError(
                f"runner.device={request}, but there are {count} CUDA devices: cuda:0 to cuda:{count - 1}"
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("runner.device=mps, but torch finds no Apple GPU; use runner.device=auto or cpu")
    return device


def has_compiler(device: torch.device) -> bool:
    """Return whether torch.compile works on the device, without a word of error where it does not."""
    try:
        check_compiler(device)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the compiler, training goes on without it
        logger.debug("torch.compile does not work on %s: %s", device.type, error)
        return False
    return True


def check_compiler(device: torch.device) -> None:
    """Compile a kernel of one line.

    Raises:
        ConfigError: torch.compile has no compiler for the device.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except (RuntimeError, OSError) as error:
        why = str(error).strip().partition("\n")[0]
        needed = "a C++ compiler" if device.type == "cpu" else "Triton"
        raise ConfigError(
            f"runner.compile=true, but torch.compile does not work on {device.type}: {why}; "
            f"it needs {needed}: install it, or set runner.compile=false"
        ) from error


def single_device(request: str) -> torch.device:
    """Return the device of a single process; `request` as in `start`."""
    device = _parse(request)
    if device is None:
        device = torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device


def _rank_device(request: str, local_rank: int) -> torch.device:
    device = _parse(request)
    if device is not None and (device.type == "mps" or device.index is not None):
        raise ConfigError(
            f"runner.device={request} names one device, but this run has several processes; use auto, cuda or cpu"
        )
    if (device is None and not torch.cuda.is_available()) or (device is not None and device.type == "cpu"):
        return torch.device("cpu")
    # Compare with all local ranks, not with this one, so that every rank of the machine raises the same error.
    wanted = max(_variable("LOCAL_WORLD_SIZE", 1), local_rank + 1)
    count = torch.cuda.device_count()
    if wanted > count:
        raise ConfigError(
            f"{wanted} processes on this machine, but {count} CUDA devices; "
            f"start with `torchrun --nproc_per_node={count}`, or set runner.device=cpu"
        )
    return torch.device("cuda", local_rank)
