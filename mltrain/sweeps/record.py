"""Records of a sweep and its jobs, in the sweep's folder, written and read by all its processes."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from mltrain.files import write_json

STOP = "stop"
ENDED = ("finished", "before", "failed", "interrupted")


@dataclass
class Record:
    """How a job stands: running, finished, before (finished by an earlier command), failed, interrupted, waiting."""

    number: int
    overrides: str
    """all of them, each KEY=VALUE"""
    label: str
    """those by which the jobs differ"""
    state: str
    started: float
    """seconds since 1970"""
    seconds: float = 0.0
    folder: str | None = None
    figure: str | None = None
    """what chose the run's best epoch, e.g. map"""
    value: float | None = None
    """of the best epoch, in percent"""
    error: str | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class Sweep:
    """What a job must know; travels to other processes and machines."""

    folder: Path
    cwd: Path
    launcher: str
    """kind, see `launchers.kind_of`"""
    host: str
    pid: int
    """of the main process"""
    total: int | None
    cores: int | None
    varied: tuple[str, ...]
    """keys by which the jobs differ"""

    @property
    def here(self) -> bool:
        """Whether this is the main process."""
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())

    def record_file(self, number: int) -> Path:
        return self.folder / f"job-{number:04d}.json"

    def write(self, record: Record) -> None:
        """Write the record of a job atomically, because others read it meanwhile."""
        write_json(self.record_file(record.number), asdict(record))

    def request_stop(self, signum: int) -> None:
        """No job starts any more, and those that run save and end."""
        if self.stopped_by() is None:
            (self.folder / STOP).write_text(str(int(signum)))

    def stopped_by(self) -> int | None:
        """Number of the signal that ends the sweep."""
        try:
            return int((self.folder / STOP).read_text() or signal.SIGTERM)
        except FileNotFoundError:
            return None
