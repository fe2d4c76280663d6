"""Count the operations of a process on the files below a folder, and strike at one of them."""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAMES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.utime",
)
_NEED_SPACE = ("open", "write", "os.mkdir", "os.link", "os.symlink")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_COUNTERS = struct.Struct("qqq")


@dataclass(frozen=True)
class Blow:
    """Kind and moment of the blow to a command."""

    what: str
    """name of a signal, or ENOSPC: the disk is full from then on"""
    at: int | None = None
    """number of the file operation before which it comes; a write is cut in half"""
    writes: bool = True
    """whether writes are counted; most operations are writes"""
    after: float | None = None
    """seconds after the start, for signals"""

    def __str__(self) -> str:
        return f"{self.what} " + (f"at operation {self.at}" if self.at is not None else f"after {self.after:.2f} s")


class Counters:
    """Numbers that a child process leaves for its parent: operations so far, and whether the blow came."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNTERS.size)

    def write(self, operations: int, others: int, struck: bool) -> None:
        self._memory[:] = _COUNTERS.pack(operations, others, struck)

    def read(self) -> tuple[int, int, bool]:
        """Return the number of operations, of those that are no writes, and whether the blow came."""
        operations, others, struck = _COUNTERS.unpack(self._memory[:])
        return operations, others, bool(struck)


class Operations:
    """Watch this process; `install` cannot be undone, so that it is for a process that ends with its command."""

    def __init__(self, folder: Path, counters: Counters, blow: Blow | None) -> None:
        self._folder, self._counters, self._blow = f"{folder}{os.sep}", counters, blow
        self._pid, self._full = os.getpid(), False

    def install(self) -> None:
        sys.addaudithook(self._audit)
        builtins.open = io.open = self._open  # type: ignore[assignment]
        fsync = os.fsync
        os.fsync = lambda handle: (self.count("fsync"), fsync(handle))[1]  # type: ignore[assignment,misc]

    def count(self, name: str, halfway: Callable[[], object] = lambda: None) -> None:
        """Count an operation, and strike if it is the one; do half of it before that."""
        if os.getpid() != self._pid:  # a worker, which writes no files
            return
        if self._full and name in _NEED_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        number, others, struck = self._counters.read()
        strikes = False
        if self._blow is not None and (self._blow.writes or name != "write"):
            strikes = self._blow.at == (number if self._blow.writes else others)
        self._counters.write(number + 1, others + (name != "write"), struck or strikes)
        if not strikes:
            return
        assert self._blow is not None
        if self._blow.what == "ENOSPC":
            self._full = True
            if name in _NEED_SPACE:
                halfway()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            if self._blow.what == "SIGKILL":
                halfway()
            os.kill(self._pid, signal.Signals[self._blow.what])

    def _inside(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.normpath(Path.cwd() / os.fsdecode(path)).startswith(self._folder)  # symbolic links stay

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and self._inside(path):
                self.count(event)
        elif event in _NAMES and (self._inside(arguments[0]) or arguments[-1] != -1):  # or relative to an open folder
            self.count(event)

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **named: Any) -> Any:
        """Open a file as `open` does, but count every write to the disk."""
        raw_mode = mode.replace("b", "").replace("t", "")
        if raw_mode == "r" or not self._inside(file):
            return _OPEN(file, mode, buffering, *arguments, **named)
        raw = _CountedFile(file, raw_mode)
        raw.operations = self
        if buffering == 0:
            return raw
        buffer = io.BufferedRandom(raw) if "+" in raw_mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffer
        text = io.TextIOWrapper(buffer, *arguments, **named, line_buffering=buffering == 1)
        text.mode = mode
        return text


class _CountedFile(io.FileIO):
    operations: Operations

    def write(self, data: Any) -> int:
        half = bytes(data)[: len(data) // 2]
        self.operations.count("write", lambda: super(_CountedFile, self).write(half))
        return super().write(data)


_OPEN = io.open
