"""Stopping on SIGTERM and SIGINT at a place of the loop's choosing."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Inside the `with` block SIGTERM and SIGINT only set `signum`, which the loop reads between steps.

    `signum` is None or the number of the first one received. A SIGINT after that raises KeyboardInterrupt at once,
    for a user who does not want to wait. The earlier handlers come back on exit. Signal handlers can be set in the
    main thread alone: elsewhere the block changes nothing and `signum` stays None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._pid = 0

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._pid = os.getpid()
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A forked worker has this handler too. It must end when told to, and must outlive a Ctrl-C on the terminal,
            # which reaches the whole process group: the parent still needs its batches until the step is saved.
            if number == signal.SIGTERM:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            return
        if self.signum is None:
            self.signum = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
