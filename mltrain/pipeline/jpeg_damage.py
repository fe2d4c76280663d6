"""JPEG files that are damaged and that libjpeg decodes nevertheless.

torchvision passes libjpeg's warnings to nobody: they appear in standard error, without the name of a file. So standard
error is a pipe while images are decoded, and whoever ends decoding looks into it.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

# How libjpeg begins its warnings of damage. A log line of ours has a file's name and a colon before it.
_WARNING = re.compile(rb"(?<!: )(Corrupt JPEG data|Premature end of JPEG file)[^\n]*\n?")


def decode_watched(decode: Callable[[], T]) -> tuple[T, str | None]:
    """Return what `decode` returns, and libjpeg's first warning of damage, or None.

    A warning tells no name. If one comes while several threads decode, each of them decodes its image once more, alone.
    So this is exact where all threads that decode at the time come here.
    """
    with _WATCH.decoding() as own:
        result = decode()
    if own.warning is not None and not own.alone:
        with _WATCH.decoding(alone=True) as own:
            result = decode()
    return result, own.warning


@dataclass(eq=False)
class _Decoding:
    """An image while it is decoded."""

    warning: str | None = None
    """the first that came meanwhile, from whichever image"""
    alone: bool = True
    """no other image was decoded meanwhile"""


class _Watch:
    """Standard error of this process, from the first image to the last that are decoded at the same time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: list[_Decoding] = []
        self._reserved = False
        """an image is decoded alone, or waits for the others to end"""
        self._kept = -1
        """the real standard error while the pipe has its number"""
        self._pipe: tuple[int, int] | None = None

    @contextlib.contextmanager
    def decoding(self, *, alone: bool = False) -> Iterator[_Decoding]:
        """Watch standard error during the block; `alone`: without another block at the same time."""
        own = _Decoding()
        with self._changed:
            self._changed.wait_for(lambda: not self._reserved)
            if alone:
                self._reserved = True
                self._changed.wait_for(lambda: not self._running)
            if not self._running:
                self._begin()
            self._running.append(own)
            if len(self._running) > 1:
                for each in self._running:
                    each.alone = False
        try:
            yield own
        finally:
            with self._changed:
                if len(self._running) == 1:
                    os.dup2(self._kept, 2)  # before the last look, so that nothing stays in the pipe
                self._look()
                self._running.remove(own)
                if not self._running:
                    os.close(self._kept)
                self._reserved = self._reserved and not alone
                self._changed.notify_all()

    def _begin(self) -> None:
        if self._pipe is None:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
        self._kept = os.dup(2)
        os.dup2(self._pipe[1], 2)

    def _look(self) -> None:
        """Give a warning in the pipe to all images that are being decoded, and pass on what else is there."""
        assert self._pipe is not None
        try:
            text = os.read(self._pipe[0], 65536)
        except BlockingIOError:  # nothing, as usual
            return
        if (found := _WARNING.search(text)) is not None:
            for each in self._running:
                each.warning = each.warning or found[0].decode(errors="replace").strip()
        with contextlib.suppress(OSError):  # standard error is closed or full
            os.write(self._kept, _WARNING.sub(b"", text))

    def forked(self) -> None:
        """Start anew in a child, whose threads and pipe are those of its parent."""
        if self._running:
            os.dup2(self._kept, 2)
        self.__init__()  # type: ignore[misc]


_WATCH = _Watch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WATCH.forked)
