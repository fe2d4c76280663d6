"""SIGTERM, SIGINT and SIGHUP stop the run where the loop chooses, not where they arrive."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from mltrain.errors import Interrupted

# The terminal sends SIGHUP when it is closed.
SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
AGREEMENT_SECONDS = 10.0
"""time in which ranks that received a signal can still agree on a step after which all of them stop"""


@contextmanager
def handled(handler: Callable[[int, Any], None], *, after: signal.Handlers | None = None) -> Iterator[None]:
    """Handle SIGTERM, SIGINT and SIGHUP in a block, and after it by `after` or as before the block.

    A SIGHUP that is ignored, as nohup does, stays ignored. Python sets handlers in the main thread only: in another
    thread the block changes nothing.
    """
    previous: dict[signal.Signals, Any] = {}
    if in_main_thread():
        ignored = [number for number in SIGNALS[2:] if signal.getsignal(number) == signal.SIG_IGN]
        previous = {number: signal.signal(number, handler) for number in SIGNALS if number not in ignored}
    try:
        yield
    finally:
        for number, before in previous.items():
            # None means that the handler was not set from Python, so that Python cannot restore it.
            signal.signal(number, after if after is not None else signal.SIG_DFL if before is None else before)


def in_main_thread() -> bool:
    """Return whether this is the main thread, the only one in which Python sets handlers of signals."""
    return threading.current_thread() is threading.main_thread()


class StopSignal:
    """Context manager in which SIGTERM, SIGINT and SIGHUP only set `signum`, which the loop reads between steps.

    `signum` is None or the number of the first signal received. A SIGINT after that raises KeyboardInterrupt at once,
    for a user who does not want to wait. In another thread than the main one `signum` stays None; see `handled`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._pid = 0
        self._handled = ExitStack()
        self._received_at = 0.0

    def __enter__(self) -> StopSignal:
        self._pid = os.getpid()
        self._handled.enter_context(handled(self._receive))
        return self

    def __exit__(self, *exception: object) -> None:
        self._handled.close()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked worker inherits this handler. It must end on SIGTERM, and must survive a Ctrl-C on the terminal,
            # which reaches the whole process group: the parent still needs its batches until the step is saved.
            if number == signal.SIGTERM:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            return
        if self.signum is None:
            self.signum = number
            self._received_at = time.monotonic()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def check_while_waiting(self, ranks: int) -> None:
        """Stop a wait for data; the other ranks get some time in which all can agree on the step to stop after.

        Raises:
            Interrupted: a signal was received.
        """
        if self.signum is None or (ranks > 1 and time.monotonic() - self._received_at < AGREEMENT_SECONDS):
            return
        text = f"stopped by {signal.Signals(self.signum).name} while waiting for images"
        raise Interrupted(text, self.signum, agreed=ranks == 1)


def to_flags(signum: int | None) -> list[bool]:
    """Return a flag per signal, which ranks sum up to agree on a signal with `from_flags`."""
    return [signum == number for number in SIGNALS]


def from_flags(sums: Sequence[float]) -> int | None:
    """Return the signal that some rank has received, SIGTERM first, or None."""
    return next((number for number, count in zip(SIGNALS, sums, strict=True) if count), None)
