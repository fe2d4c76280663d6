"""Progress of a long piece of work: a bar on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

Mode = Literal["auto", "bar", "lines", "off"]
T = TypeVar("T")

LINE_SECONDS = 10.0
BAR_SECONDS = 0.2
_ROWS = 256  # counted together by `track`


def resolve_mode(mode: Mode) -> Mode:
    """Return the mode that `auto` stands for: a bar if stderr is a terminal, else lines; nothing except on rank 0."""
    if mode != "auto":
        return mode
    if os.environ.get("RANK", "0") != "0":
        return "off"
    return "bar" if sys.stderr.isatty() else "lines"


@contextmanager
def above_bars() -> Iterator[None]:
    """Write log records above a bar instead of through it, for the loggers that write to the console."""
    loggers = [logging.getLogger(), logging.getLogger("mltrain")]
    consoles = [item for item in loggers if any(_is_console(handler) for handler in item.handlers)]
    with logging_redirect_tqdm(loggers=consoles):
        yield


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


class Display:
    """A bar on a terminal, or the time between two lines of a log; a context manager.

    Args:
        mode: how to show progress.
        line_seconds: time between two lines.
    """

    def __init__(self, mode: Mode, line_seconds: float) -> None:
        self.mode = resolve_mode(mode)
        self._every = {"bar": BAR_SECONDS, "lines": line_seconds}.get(self.mode, float("inf"))
        self._bar: tqdm | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.mode == "bar":
            self._stack.enter_context(above_bars())
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._close_bar()
        self._stack.close()

    def _open_bar(self, title: str, done: int, total: int | None, **options: Any) -> None:
        """Start a bar in the mode "bar"; another one ends."""
        self._close_bar()
        if self.mode == "bar":
            options |= {"leave": False, "file": sys.stderr, "dynamic_ncols": True}
            self._bar = tqdm(total=total, initial=done, desc=title, **options)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Meter(Display):
    """Progress of a count; threads must not share it.

    Args:
        title: the work.
        total: count at the end; None: not known.
        unit: name of the counted things; "B": bytes.
        mode: how to show progress.
    """

    def __init__(self, title: str, total: int | None, *, unit: str = "B", mode: Mode = "auto") -> None:
        super().__init__(mode, LINE_SECONDS)
        self.title, self.total, self.unit = title, total, unit
        self._done = self._first = 0
        self._started = self._next = 0.0

    def __enter__(self) -> Self:
        super().__enter__()
        self.restart(0, self.total)
        return self

    def restart(self, done: int, total: int | None) -> None:
        """Continue from `done` of `total`; the pace is measured from here."""
        self.total, self._done, self._first = total, done, done
        self._started = time.monotonic()
        self._next = self._started + self._every
        scaled = self.unit == "B"
        self._open_bar(self.title, done, total, unit="B" if scaled else f" {self.unit}", unit_scale=scaled)

    def add(self, count: int) -> None:
        """Count `count` more."""
        self._done += count
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        if self._bar is not None:
            self._bar.update(self._done - self._bar.n)
        else:
            log.info(self._line(now))

    def _line(self, now: float) -> str:
        pace = (self._done - self._first) / max(now - self._started, 1e-9)
        if self.unit == "B":
            done, of, speed = amount(self._done), amount(self.total or 0), f"{amount(pace)}/s"
        else:
            done, of, speed = f"{self._done:,}", f"{self.total or 0:,}", f"{pace:.0f} {self.unit}/s"
        if not self.total:
            return f"{self.title}: {done}, {speed}"
        left = duration((self.total - self._done) / pace) if pace > 0 else "unknown"
        return f"{self.title}: {done} of {of}, {self._done / self.total:.0%}, {speed}, {left} left"


def track(rows: Iterable[T], title: str, total: int | None, *, unit: str) -> Iterator[T]:
    """Yield the rows while a `Meter` counts them; for many rows that take little time each."""
    with Meter(title, total, unit=unit) as meter:
        for number, row in enumerate(rows, 1):
            yield row
            if not number % _ROWS:
                meter.add(_ROWS)


def amount(count: float) -> str:
    """Return a number of bytes as text: 13.5 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Return a time as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
