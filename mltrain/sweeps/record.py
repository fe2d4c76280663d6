"""A sweep and the records of its jobs: files in the sweep's folder, by which its processes tell each other of jobs."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mltrain.engine.run_folder import read_jobs
from mltrain.errors import DataError
from mltrain.files import is_alive, write_json

STOP = "stop"
Check = Callable[[list[Any]], bool]
"""Refuses the DictConfigs of jobs whose runs are of other data; returns whether all could be checked."""

ENDED = ("finished", "before", "failed", "interrupted")
DONE = ("finished", "before")


@dataclass
class Record:
    """State of a job, and its result or error."""

    number: int
    """position in the sweep, from 0"""
    overrides: str
    """all overrides, each KEY=VALUE"""
    label: str
    """overrides in which the jobs differ"""
    state: str
    """running, finished, before (finished by an earlier command), failed, interrupted, or waiting (queued again)"""
    started: float
    """seconds since 1970"""
    seconds: float = 0.0
    folder: str | None = None
    figure: str | None = None
    """name of the figure that chose the run's best epoch, e.g. map"""
    value: float | None = None
    """figure of the best epoch, in percent"""
    error: str | None = None
    exit_code: int = 0

    def end_with(self, state: str, error: str, exit_code: int) -> None:
        """Note why the job has no result."""
        self.state, self.error, self.exit_code = state, error, exit_code


@dataclass(frozen=True)
class Sweep:
    """Facts about a sweep that its jobs need; they are sent to other processes and machines."""

    folder: Path
    """the sweep's own folder, with the records and logs of its jobs"""
    cwd: Path
    """folder in which the command was started"""
    launcher: str
    """kind of the launcher, see `launchers.kind_of`"""
    host: str
    """machine of the main process"""
    pid: int
    """id of the main process"""
    total: int | None
    """number of jobs, or None if the sweeper decides as it goes"""
    cores: int | None
    """cores of a job, or None for no limit"""
    varied: tuple[str, ...]
    """keys in which the jobs differ"""
    typed: tuple[str, ...] = ()
    """words of the command that started the sweep"""
    check: Check | None = None
    """refuses a finished job whose data have changed; None if all jobs were checked when the sweep began"""
    started: float = 0.0
    """when the sweep began, in seconds since 1970"""
    rerun_before: tuple[str, ...] = ()
    """overrides of the jobs with rerun=true that an interrupted sweep of the same jobs has run again already"""

    def is_abandoned(self) -> bool:
        """Return whether the main process on this machine is gone; Slurm's jobs, and those elsewhere, go on without."""
        if self.launcher == "slurm" or self.host != socket.gethostname():
            return False
        return not is_alive(self.pid, since=self.started)

    @property
    def here(self) -> bool:
        """True in the main process."""
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())

    def record_file(self, number: int) -> Path:
        """Return the file of a job's record."""
        return self.folder / f"job-{number:04d}.json"

    def write(self, record: Record) -> None:
        """Write the record of a job; atomically, because other processes read it meanwhile."""
        write_json(self.record_file(record.number), asdict(record))

    def request_stop(self, signum: int) -> None:
        """Ask all processes of the sweep to stop: no job starts any more, and running jobs save and end."""
        if self.stopped_by() is None:
            (self.folder / STOP).write_text(str(int(signum)), encoding="utf-8")

    def stopped_by(self) -> int | None:
        """Return the number of the signal that ends the sweep, or None while it goes on."""
        try:
            return int((self.folder / STOP).read_text(encoding="utf-8") or signal.SIGTERM)  # empty while it is written
        except FileNotFoundError:
            return None


def done_by_interrupted_sweep(parent: Path, jobs: Collection[str]) -> tuple[str, ...]:
    """Return which of `jobs` the last sweep with any of them has done, if it did not come to the end of all.

    Args:
        parent: folder of the folders of all sweeps.
        jobs: all overrides of each job.
    """
    found: list[tuple[float, set[str]]] = []
    for folder in parent.iterdir() if parent.is_dir() else ():
        try:
            records = [record for record in read_jobs(folder) if record["overrides"] in jobs]
            done = {str(record["overrides"]) for record in records if record["state"] in DONE}
            found += [(max(float(record["started"]) for record in records), done)] if records else []
        except (DataError, KeyError, TypeError, ValueError):  # a record that cannot be read: its jobs run again
            continue
    last = max(found, key=lambda entry: entry[0])[1] if found else set()
    return tuple(sorted(last)) if len(last) < len(jobs) else ()
