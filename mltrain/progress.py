"""Progress of a long piece of work: a bar on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Literal, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

Mode = Literal["auto", "bar", "lines", "off"]
T = TypeVar("T")

LINE_SECONDS = 10.0
BAR_SECONDS = 0.2
_ROWS = 256  # looked at together by `track`


def resolve_mode(mode: Mode) -> Mode:
    """`auto`: a bar if stderr is a terminal, lines otherwise, nothing on ranks other than the main one."""
    if mode != "auto":
        return mode
    if os.environ.get("RANK", "0") != "0":
        return "off"
    return "bar" if sys.stderr.isatty() else "lines"


@contextmanager
def above_bars() -> Iterator[None]:
    """Log records go above a bar instead of through it, for the loggers that write to the console."""
    loggers = [logging.getLogger(), logging.getLogger("mltrain")]
    consoles = [item for item in loggers if any(_is_console(handler) for handler in item.handlers)]
    with logging_redirect_tqdm(loggers=consoles):
        yield


def _is_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


class Meter:
    """Counts `unit` (bytes as B) up to `total`; None: nobody knows how many there are. Not to be shared by threads."""

    def __init__(self, title: str, total: int | None, *, unit: str = "B", mode: Mode = "auto") -> None:
        self.title, self.total, self.unit, self.mode = title, total, unit, resolve_mode(mode)
        self._every = {"bar": BAR_SECONDS, "lines": LINE_SECONDS}.get(self.mode, float("inf"))
        self._done = self._first = 0
        self._started = self._next = 0.0
        self._shown: tqdm | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Meter:
        if self.mode == "bar":
            self._stack.enter_context(above_bars())
        self.restart(0, self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown is not None:
            self._shown.close()
        self._stack.close()

    def restart(self, done: int, total: int | None) -> None:
        """Count from `done` of `total` on; the pace shown is that from here."""
        self.total, self._done, self._first = total, done, done
        self._started = time.monotonic()
        self._next = self._started + self._every
        if self.mode == "bar":
            if self._shown is not None:
                self._shown.close()
            scaled = self.unit == "B"
            self._shown = tqdm(
                total=total,
                initial=done,
                desc=self.title,
                unit=self.unit if scaled else f" {self.unit}",
                unit_scale=scaled,
                leave=False,
                file=sys.stderr,
                dynamic_ncols=True,
            )

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        if self._shown is not None:
            self._shown.update(self._done - self._shown.n)
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
    """The rows, with a `Meter` of them; for many that each take little time."""
    with Meter(title, total, unit=unit) as meter:
        for number, row in enumerate(rows, 1):
            yield row
            if not number % _ROWS:
                meter.add(_ROWS)


def amount(count: float) -> str:
    """Bytes for people: 13.5 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
