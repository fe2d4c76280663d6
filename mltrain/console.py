"""Console behaviour of every command: log to standard error, print user errors, exit with a code."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mltrain.errors import ConfigError, MltrainError

RANK_PATIENCE = 10.0  # seconds
_FULL = "free some space, or point paths.runs (of a training) or the output to another disk"
_CLOSED = "ask for write permission, or point paths.runs (of a training) or the output elsewhere"
REMEDY = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EROFS: _CLOSED, errno.EACCES: _CLOSED, errno.EPERM: _CLOSED}


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print user errors without a traceback and exit with their code. Other exceptions keep their traceback."""
    log_to_stderr()
    hook, threading.excepthook = threading.excepthook, _thread_failed
    try:
        yield
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
    except OSError as error:
        if error.errno not in REMEDY:
            raise
        say(f"{error}: {REMEDY[error.errno]}; then repeat the command, which resumes")
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


def log_to_stderr() -> None:
    """Send the package's messages, plain, to standard error: all from the main process, warnings from every rank."""
    logger = logging.getLogger("mltrain")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO if rank() == 0 else logging.WARNING)
    logger.propagate = False


def rank() -> int:
    """Return this process's rank, as torchrun sets it; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def say(text: str) -> None:
    """Write a line to standard error; ranks above 0 name themselves."""
    sys.stderr.write((text if rank() == 0 else f"rank {rank()}: {text}") + "\n")


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    # The main thread meets a full disk or a deleted folder too and reports it; a library's thread need not print a
    # traceback as well.
    if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in (*REMEDY, errno.ENOENT)):
        threading.__excepthook__(failure)


def _peer_is_gone(error: RuntimeError) -> bool:
    """Return whether a collective failed because another rank ended; gloo and NCCL have no exception of their own."""
    signs = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(sign in str(error) for sign in signs)
