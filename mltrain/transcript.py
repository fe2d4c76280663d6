"""Transcript of a training: every line that its process prints, in `train.log` of the run folder.

    with recording():                           # keeps what is printed from here on
        open_log(folder / "train.log")          # writes it there, as soon as the folder exists

Standard output and standard error are copied where Python writes to them: messages, warnings and tracebacks of all
libraries. What a library in C prints past Python goes to the terminal alone. A line is written as it was seen at its
end, so a progress bar leaves nothing behind. Each line is one write to the end of the file, so a kill cuts at most the
last one. Nothing that is wrong with the file stops the training.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from mltrain.console import rank
from mltrain.files import kind_of
from mltrain.text import counted

_ESCAPES = re.compile("\x1b\\[[0-9;?]*[A-Za-z]")
_EARLY_LINES = 5000
_LONGEST_REST = 20_000
"""characters of an unfinished line that are kept: a progress bar may write for hours before the line ends"""


class Transcript:
    """Lines for a log file, which wait in memory until the folder of the file exists."""

    def __init__(self) -> None:
        self._early: deque[str] = deque(maxlen=_EARLY_LINES)
        self._path: Path | None = None
        self._head: list[str] = []
        self._file: FileIO | None = None
        self._lost = 0
        self._said = False
        self.lock = threading.RLock()  # a handler of a signal may print while a line is written

    def open(self, path: Path, head: Sequence[str]) -> None:
        """Write to the end of `path` from now on: the lines `head`, those that wait, and all that follow."""
        with self.lock:
            waiting = list(self._early)
            self.close()
            self._early.extend(waiting)
            self._path, self._head = path, list(head)
            self._is_open()

    def close(self) -> None:
        """End the file, and forget the lines that wait."""
        with self.lock:
            if self._file is not None:
                self._file.close()
            self._file = self._path = None
            self._said, self._lost = False, 0
            self._early.clear()

    def add(self, line: str) -> None:
        """Write a line."""
        with self.lock:
            if self._is_open():
                self._write(line)
            else:
                self._early.append(line)

    def _is_open(self) -> bool:
        """Open the file if that is due; return whether lines can be written."""
        path = self._path
        if self._file is not None:
            return True
        if path is None or not path.parent.is_dir():
            return False
        try:
            if (kind := kind_of(path)) is not None:  # opening a named pipe would wait for ever
                raise OSError(f"it is {kind}")
            cut = path.exists() and not _ends_with_line(path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            self._path = None
            self._say(path, error)
            return False
        lines = [*self._head, *self._early]
        self._early.clear()
        if lines:
            self._write("\n" * cut + "\n".join(lines))
        return True

    def _write(self, text: str) -> None:
        assert self._file is not None and self._path is not None
        gap = f"\n[{counted(self._lost, 'line')} missing here: the file could not be written]\n" if self._lost else ""
        data = memoryview(f"{gap}{text}\n".encode(errors="backslashreplace"))
        try:
            while data:
                data = data[self._file.write(data) :]
            self._lost = 0
        except OSError as error:
            self._lost += 1
            self._say(self._path, error)

    def _say(self, path: Path, error: OSError) -> None:
        """Tell once, on the terminal alone, that the log is incomplete."""
        if not self._said:
            self._said = True
            stream = sys.stderr.stream if isinstance(sys.stderr, _Copied) else sys.stderr
            with suppress(OSError, ValueError):
                stream.write(f"{path}: cannot be written: {error}; the training goes on, its log has a gap here\n")


class _Copied:
    """A text stream whose lines are copied to a transcript; everything else is that of the stream."""

    def __init__(self, stream: Any, transcript: Transcript) -> None:
        self.stream, self._transcript = stream, transcript
        self.rest = ""
        """the line that has not ended"""

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        finally:
            self._copy(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _copy(self, text: str) -> None:
        with self._transcript.lock:
            *lines, self.rest = (self.rest + text).split("\n")
            if len(self.rest) > _LONGEST_REST:
                self.rest = self.rest[max(self.rest.rfind("\r"), len(self.rest) - _LONGEST_REST) :]
            for line in lines:
                self._transcript.add(_as_seen(line))


def _as_seen(line: str) -> str:
    """Return a line as a terminal shows it at its end: text after a carriage return replaces what was before it."""
    parts = [part for part in _ESCAPES.sub("", line).split("\r") if part]
    return parts[-1].rstrip() if parts else ""


def _ends_with_line(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


# -- the transcript of this process ----------------------------------------------------------------------------------

_active: Transcript | None = None
_typed: dict[str, list[str]] | None = None
"""what `typed_words` returns in a job of a sweep, whose process others may have started"""


@contextmanager
def recording() -> Iterator[None]:
    """Keep what is printed in the block, and the traceback of an exception that leaves it.

    In a block within another one nothing changes. Ranks above 0 keep only tracebacks.
    """
    global _active
    if _active is not None:
        yield
        return
    _active = transcript = Transcript()
    copies = [_copy_stream(name, transcript) for name in ("stdout", "stderr") if rank() == 0]
    try:
        yield
    except SystemExit:
        raise
    except BaseException:
        prefix = f"rank {rank()}: " if rank() else ""
        for line in traceback.format_exc().rstrip().split("\n"):
            transcript.add(prefix + line)
        raise
    finally:
        for name, copied in copies:
            if copied.rest:
                copied.write("")
            if getattr(sys, name) is copied:
                setattr(sys, name, copied.stream)
            _move_handlers(copied, copied.stream)
        transcript.close()
        _active = None


@contextmanager
def recording_job(command: Sequence[str], overrides: Sequence[str]) -> Iterator[None]:
    """Keep what a job of a sweep prints, apart from what the sweep and its other jobs do.

    Args:
        command: what was typed for the sweep.
        overrides: KEY=VALUE arguments of the job.
    """
    global _typed
    with recording():
        assert _active is not None
        _active.close()
        _typed = {"typed": list(command), "repeat": ["mltrain", "train", *overrides]}
        try:
            yield
        finally:
            _typed = None
            if _active is not None:
                _active.close()


def open_log(path: Path) -> None:
    """Write what is printed to the end of a file, below a line with the time and one with what was typed."""
    if _active is None:
        return
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    command = typed_words()
    head = [f"=== {now}, process {os.getpid()} on {socket.gethostname()}", f"$ {shlex.join(command['typed'])}"]
    if "repeat" in command:
        head.append(f"# this run of the sweep alone: {shlex.join(command['repeat'])}")
    _active.open(path, head if rank() == 0 else [])


def _copy_stream(name: str, transcript: Transcript) -> tuple[str, _Copied]:
    copied = _Copied(getattr(sys, name), transcript)
    setattr(sys, name, copied)
    _move_handlers(copied.stream, copied)
    return name, copied


def _move_handlers(old: Any, new: Any) -> None:
    """Let the handlers of all loggers that write to one stream write to another."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)


def _after_fork() -> None:
    """Give a forked worker a lock and lines of its own: those of its parent are in use."""
    if _active is not None:
        _active.lock = threading.RLock()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Copied):
                stream.rest = ""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- what was typed --------------------------------------------------------------------------------------------------


def typed_words() -> dict[str, list[str]]:
    """Return the words of the command that started this process, for a user to repeat it.

    Key "typed" has the whole command. Key "repeat" is there in a job of a sweep, with the command that trains it alone.
    """
    if _typed is not None:
        return _typed
    words = command_words(sys.argv)
    return {"typed": _torchrun(words) if "TORCHELASTIC_RUN_ID" in os.environ else words}


def typed() -> str:
    """Return the command that started this process, quoted for a shell."""
    return shlex.join(typed_words()["typed"])


def command_words(argv: Sequence[str]) -> list[str]:
    """Return the words that repeat the command of a process with these arguments: `mltrain COMMAND ARGUMENTS`."""
    if not argv or not argv[0]:
        return ["python"]
    script, rest = Path(argv[0]), list(argv[1:])
    if script.stem == "mltrain" or (script.name == "__main__.py" and script.parent.name == "mltrain"):
        return ["mltrain", *rest]
    if script.suffix == ".py" and script.parent.name == "tools":
        return ["mltrain", script.stem, *rest]
    return ["python", *argv]


def repeating(environment: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that trains a run again, from the content of its environment.json."""
    for key in ("repeat", "typed"):
        if environment.get(key):
            return [str(word) for word in environment[key]]
    argv = [str(word) for word in environment.get("command") or []]  # of earlier versions, some without the folder
    if argv and argv[0] in ("train.py", "__main__.py"):
        return ["mltrain", *(["train"] if argv[0] == "train.py" else []), *argv[1:]]
    return command_words(argv) if argv else []


def _torchrun(words: Sequence[str]) -> list[str]:
    """Return the command of torchrun, which is the parent of every rank; its number of processes is always known."""
    try:
        parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    except OSError:
        parent = []
    for k, word in enumerate(parent):
        if Path(word).name == "torchrun":
            return ["torchrun", *parent[k + 1 :]]
        if word == "torch.distributed.run":
            return ["python", "-m", *parent[k:]]
    return ["torchrun", f"--nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', '1')}", "-m", *words]
