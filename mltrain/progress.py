"""Progress of a long piece of work: a bar on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from types import TracebackType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

LINE_SECONDS = 10.0
BAR_SECONDS = 0.2


class Meter:
    """Counts `unit` (bytes as B) up to `total`; None: nobody knows how many there are.

    `bar`: None: where stderr is a terminal. Not to be shared by threads.
    """

    def __init__(self, title: str, total: int | None, *, unit: str = "B", bar: bool | None = None) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.bar = sys.stderr.isatty() if bar is None else bar
        self._done = self._first = 0
        self._started = self._next = 0.0
        self._shown: tqdm | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Meter:
        if self.bar:
            self._stack.enter_context(logging_redirect_tqdm(loggers=[logging.getLogger("mltrain")]))
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
        self._next = self._started + (BAR_SECONDS if self.bar else LINE_SECONDS)
        if self.bar:
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
        self._next = now + (BAR_SECONDS if self.bar else LINE_SECONDS)
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


def amount(count: float) -> str:
    """Bytes for people: 13.5 GB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
