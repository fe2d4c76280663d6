"""Console behaviour of every command: log to standard error, print user errors, exit with a code."""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from mltrain.errors import ConfigError, MltrainError
from mltrain.text import printable

RANK_PATIENCE = 10.0  # seconds
_FULL = "free some space, or point paths.runs (of a training) or the output to another disk"
_CLOSED = "ask for write permission, or point paths.runs (of a training) or the output elsewhere"
REMEDY = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EROFS: _CLOSED, errno.EACCES: _CLOSED, errno.EPERM: _CLOSED}


def advice(error: OSError) -> str:
    """Return the message for an error with a `REMEDY`."""
    return f"{error}: {REMEDY[error.errno or 0]}; then repeat the command, which resumes"


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print user errors without a traceback and exit with their code. Other exceptions keep their traceback."""
    prepare_streams()
    log_to_stderr()
    hook, threading.excepthook = threading.excepthook, _thread_failed
    try:
        _check_working_directory()
        yield
        sys.stdout.flush()
    except ConfigError as error:
        if rank() > 0:
            # Rank 0 finds the same and prints it, and torchrun then ends this rank. If this one left first, torchrun
            # would end rank 0 before it has printed anything.
            time.sleep(RANK_PATIENCE)
        say(str(error))
        sys.exit(error.exit_code)
    except MltrainError as error:
        say(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of the output has closed it, as `| head` does
        discard_output()
        sys.exit(0)
    except UnicodeEncodeError as error:
        say(
            f"{error.object[:200]!a}: this name cannot be written in {error.encoding}; rename the file, or set a UTF-8 "
            "locale: LC_ALL=C.UTF-8"
        )
        sys.exit(MltrainError.exit_code)
    except OSError as error:
        if error.errno not in REMEDY:
            raise
        say(advice(error))
        sys.exit(MltrainError.exit_code)
    except RuntimeError as error:
        if not _peer_is_gone(error):
            raise
        say("stopped, because another rank has ended: its message has the reason")
        sys.exit(MltrainError.exit_code)
    except KeyboardInterrupt:
        if rank() == 0:
            say("interrupted")
        sys.exit(130)
    finally:
        threading.excepthook = hook


@contextmanager
def ending_as_rank() -> Iterator[None]:
    """End the process with its exit code at the end of the block if torchrun started it; do nothing otherwise.

    A thread of gloo may still hold the tensor of the last collective, and needs the GIL to release it. Python before
    3.14 kills a thread that asks for the GIL while the interpreter shuts down. That aborts the process from within
    C++, so a training that went well would end with SIGABRT. This function does what the interpreter does before that
    point (it joins threads, calls the functions registered with atexit and flushes the streams) and then ends the
    process directly.
    """
    if os.environ.get("WORLD_SIZE", "") in ("", "1"):
        yield
        return
    code: object = 0
    try:
        yield
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - printed as the interpreter would print it
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def prepare_streams() -> None:
    """Make the standard streams usable whatever the locale is, and if they are closed.

    - Text for a file or a pipe is UTF-8, unless PYTHONIOENCODING says otherwise; a terminal keeps its encoding.
      Characters that cannot be written become escapes. Names on standard input may be any bytes.
    - Closed streams become /dev/null, because the next file that is opened would get their number.
    """
    for number in (0, 1, 2):
        with suppress(OSError):
            _open_null(number)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            null = Path(os.devnull).open("r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115  (stays open)
            setattr(sys, name, null)
        elif isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            if name == "stdin":
                stream.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
            elif stream.isatty() or "PYTHONIOENCODING" in os.environ:
                stream.reconfigure(errors="backslashreplace")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _open_null(number: int) -> None:
    """Open /dev/null as a file descriptor if no file has that number."""
    try:
        os.fstat(number)
    except OSError:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle != number:
            os.dup2(handle, number)
            os.close(handle)


def output_is_closed() -> bool:
    """Return whether whoever started this process has closed its standard output."""
    return getattr(sys.stdout, "name", None) == os.devnull


def discard_output() -> None:
    """Send what is still to be written to standard output to /dev/null: its reader is gone."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class SafeOutput:
    """Standard output, with control characters escaped if it is a terminal: names come from files of others."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._escape = stream, stream.isatty()

    def write(self, text: str) -> int:
        """Write text."""
        return self._stream.write(printable(text) if self._escape else text)


def write(text: str) -> None:
    """Write text to standard output, with control characters escaped if it is a terminal."""
    SafeOutput(sys.stdout).write(text)


def _check_working_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "the working directory has been deleted: change to a folder that exists (cd ..) and repeat the command"
        ) from error


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_stderr() -> None:
    """Send the package's messages, plain, to standard error: all from the main process, warnings from every rank."""
    logger = logging.getLogger("mltrain")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO if rank() == 0 else logging.WARNING)
    logger.propagate = False


def rank() -> int:
    """Return this process's rank, as torchrun sets it; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def say(text: str) -> None:
    """Write a line to standard error; ranks above 0 name themselves."""
    with suppress(BrokenPipeError):
        sys.stderr.write(printable(text if rank() == 0 else f"rank {rank()}: {text}") + "\n")


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    # The main thread meets a full disk or a deleted folder too and reports it; a library's thread need not print a
    # traceback as well.
    if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in (*REMEDY, errno.ENOENT)):
        threading.__excepthook__(failure)


def _peer_is_gone(error: RuntimeError) -> bool:
    """Return whether a collective failed because another rank ended; gloo and NCCL have no exception of their own."""
    signs = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(sign in str(error) for sign in signs)
