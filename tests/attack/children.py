"""Run commands in forked children of a process that has imported everything: a start costs milliseconds."""

from __future__ import annotations

import atexit
import importlib
import os
import pkgutil
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.attack.operations import Blow, Counters, Operations

GRACE = 20.0
"""seconds in which workers of a killed process must have ended"""
RANK_PATIENCE = 30.0
"""seconds that torchrun gives the other ranks between SIGTERM and SIGKILL"""


@dataclass(frozen=True)
class Ended:
    """End of a command."""

    code: int
    """exit code; negative: the number of the signal that ended it; of several ranks see `exit_code`"""
    log: str
    operations: tuple[int, int]
    """file operations of the struck process, and those that are no writes"""
    struck: bool
    """whether the blow came before the end"""
    hung: bool
    orphans: tuple[str, ...]
    """processes that outlived the command"""
    seconds: float

    @property
    def problems(self) -> list[str]:
        """Faults that no blow to a command may cause."""
        found = ["it hung"] if self.hung else []
        found += [f"a process outlived it: {name}" for name in self.orphans]
        if "Traceback" in self.log:
            found.append(f"traceback ({self.log.strip().splitlines()[-1][:200]})")
        return found


def import_everything() -> None:
    """Import all of mltrain and what it imports late."""
    import torch

    torch.set_num_threads(1)
    import mltrain

    for module in pkgutil.walk_packages(mltrain.__path__, "mltrain."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    from mltrain.engine import logging

    here = logging._git(Path(__file__).parent)
    logging._git = lambda folder: here  # a commit during the attack makes no difference
    for name in ("matplotlib.pyplot", "plotly.graph_objects", "hydra.main", "torch.export", "tensorboard.compat.proto"):
        with suppress(ImportError):
            importlib.import_module(name)


def run(
    words: Sequence[str],
    folder: Path,
    *,
    blow: Blow | None = None,
    ranks: int = 1,
    struck_rank: int = 0,
    environment: dict[str, str] | None = None,
    seconds: float = 120,
) -> Ended:
    """Run `mltrain WORDS` in a folder, strike it once, and wait until it and all its workers have ended."""
    counters, log = Counters(), folder.with_name(f"{folder.name}.log")
    log.write_bytes(b"")
    variables = {**(environment or {}), "OMP_NUM_THREADS": "1"}
    if ranks > 1:
        variables |= {"WORLD_SIZE": f"{ranks}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{_free_port()}"}
        variables |= {"LOCAL_WORLD_SIZE": f"{ranks}"}
    start = time.monotonic()
    pids = []
    for rank in range(ranks):
        own = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} if ranks > 1 else {}
        own_blow = blow if rank == struck_rank else None
        pid = os.fork()
        if pid == 0:
            watched = counters if rank == struck_rank else Counters()
            _become(words, folder, log, {**variables, **own}, watched, own_blow)
        pids.append(pid)
    codes, hung, timed = _wait(pids, blow, pids[struck_rank], start, seconds)
    operations, others, struck = counters.read()
    orphans = tuple(_end_orphans(pids))
    code = exit_code(codes, struck_rank)
    text = log.read_text(encoding="utf-8", errors="replace")
    return Ended(code, text, (operations, others), struck or timed, hung, orphans, time.monotonic() - start)


def exit_code(codes: Sequence[int], struck_rank: int) -> int:
    """Return the exit code of a command: of several ranks that of the one that failed first, as torchrun does.

    The struck rank fails before the others: they end because it is gone, with 2, or because torchrun stops them. Only
    if it has not failed, another one has failed by itself.
    """
    return codes[struck_rank] or next((code for code in codes if code), 0)


def _become(
    words: Sequence[str], folder: Path, log: Path, variables: dict[str, str], counters: Counters, blow: Blow | None
) -> NoReturn:
    """Turn this forked process into the command."""
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        handle = os.open(log, os.O_WRONLY | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (handle, 1), (handle, 2)):
            os.dup2(source, target)
        os.environ.update(variables)
        sys.argv = ["mltrain", *words]
        from mltrain.cli import main

        Operations(folder, counters, blow).install()
        main(argv=list(words))
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
        code = 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has ended
        with suppress(BaseException):
            atexit._run_exitfuncs()  # the end of worker processes is there
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(
    pids: list[int], blow: Blow | None, struck: int, start: float, seconds: float
) -> tuple[list[int], bool, bool]:
    """Wait for all ranks, strike at the time of the blow, and stop the other ranks after the first that fails."""
    handles = {os.pidfd_open(pid): pid for pid in pids}
    codes: dict[int, int] = {}
    end, strike = start + seconds, None if blow is None or blow.after is None else start + blow.after
    stop_at, hung, timed = end, False, False
    while handles:
        now = time.monotonic()
        wake = min(end, stop_at, strike or end)
        ready, _, _ = select.select(list(handles), [], [], max(0.0, wake - now))
        for handle in ready:
            pid = handles.pop(handle)
            os.close(handle)
            codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if codes[pid] != 0 and stop_at == end:
                for other in handles.values():
                    os.kill(other, signal.SIGTERM)
                stop_at = min(end, time.monotonic() + RANK_PATIENCE)
        now = time.monotonic()
        if strike is not None and now >= strike:
            strike = None
            if struck not in codes and blow is not None:
                os.kill(struck, signal.Signals[blow.what])
                timed = True
        if handles and now >= min(end, stop_at):
            hung = hung or now >= end
            for pid in handles.values():
                os.kill(pid, signal.SIGKILL)
            end = stop_at = now + 60
    return [codes[pid] for pid in pids], hung, timed


def _end_orphans(sessions: list[int]) -> Iterator[str]:
    """Wait for the processes of the children's sessions, and kill and name those that stay."""
    end = time.monotonic() + GRACE
    while left := list(_members(sessions)):
        if time.monotonic() > end:
            for pid, name in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                yield name
            return
        time.sleep(0.05)


def _members(sessions: list[int]) -> Iterator[tuple[int, str]]:
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = file.read_text(encoding="utf-8", errors="replace").rpartition(")")
            fields = rest.split()
            if int(fields[3]) in sessions and fields[0] != "Z":
                yield int(file.parent.name), name.partition("(")[2]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
