"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mltrain.errors import MltrainError

try:
    import fcntl
except ImportError:  # Windows: one process at a time is up to the user
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


@contextmanager
def run_lock(folder: Path, *, patience: float = 5.0) -> Iterator[None]:
    """Hold a run folder against other processes: two in it would mix their logs and take each other's checkpoints.

    The lock is on `.<name>.lock` beside the folder, which may itself be deleted meanwhile. The system gives it back
    when this process ends, however it ends; forked workers do not inherit it. Waits `patience` seconds for a process
    that is just ending.

    Raises:
        MltrainError: another process holds it.
        OSError: the lock file cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("a+") as file:
        end = time.monotonic() + patience
        while fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    logger.warning("%s: this file system has no locks (%s); start one process only", folder, error)
                    break
                if time.monotonic() > end:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise MltrainError(
                        f"{folder}: {holder} is in this run; let it end, or give this one a config of its own"
                    ) from error
            time.sleep(0.1)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
