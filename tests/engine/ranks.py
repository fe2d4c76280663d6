"""Run a function on several gloo ranks in processes of their own, and collect what each returns or raises."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _entry(rank: int, world_size: int, port: int, function: Callable[..., Any], queue: Any, args: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    import torch

    from mltrain.engine import distributed

    torch.set_num_threads(1)
    try:
        with distributed.start("cpu", timeout_minutes=1.0) as ranks:
            answer = ("value", function(ranks, *args))
    except BaseException as error:  # noqa: BLE001 - the test looks at whatever was raised
        answer = ("error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    queue.put((rank, pickle.dumps(answer)))  # as bytes: a queue would share tensors with a process that is ending


def run_ranks(function: Callable[..., Any], *args: Any, world_size: int = 2, timeout: float = 90.0) -> list[tuple]:
    """[("value", result) or ("error", text)] by rank. `function(ranks, *args)` must be importable."""
    context = mp.get_context("spawn")
    queue = context.Queue()
    port = _free_port()
    processes = [
        context.Process(target=_entry, args=(rank, world_size, port, function, queue, args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        answers = dict(queue.get(timeout=timeout) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()
    return [pickle.loads(answers[rank]) for rank in range(world_size)]
