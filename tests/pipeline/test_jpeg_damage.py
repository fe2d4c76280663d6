"""Each warning of libjpeg finds its image, whatever else happens to standard error meanwhile."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mltrain.pipeline.jpeg_damage import decode_watched


def decoder(text: str, meet: threading.Barrier) -> Callable[[], str]:
    """Decode at the same time as others the first time, and write `text` to standard error each time."""
    calls = []

    def decode() -> str:
        calls.append(text)
        if len(calls) == 1:
            meet.wait(20)
        os.write(2, text.encode())
        if len(calls) == 1:
            meet.wait(20)
        return f"pixels {len(calls)}"

    return decode


def test_of_images_that_are_decoded_at_once_those_are_named_that_are_damaged(capfd: pytest.CaptureFixture[str]) -> None:
    texts = ["", "Corrupt JPEG data: one\n", "a line of another thread\n", "Premature end of JPEG file\n", ""]
    meet = threading.Barrier(len(texts))
    with ThreadPoolExecutor(len(texts)) as pool:
        found = list(pool.map(decode_watched, [decoder(text, meet) for text in texts]))
    assert [warning for _, warning in found] == [
        None,
        "Corrupt JPEG data: one",
        None,
        "Premature end of JPEG file",
        None,
    ]
    assert {pixels for pixels, _ in found} == {"pixels 2"}, "each was decoded once more, alone"
    assert {*capfd.readouterr().err.splitlines()} == {"a line of another thread"}


def test_an_image_alone_is_decoded_once_and_other_lines_pass(capfd: pytest.CaptureFixture[str]) -> None:
    calls = []

    def decode() -> None:
        calls.append(1)
        sys.stderr.write("before\n")
        os.write(2, b"\r 5%|#    Corrupt JPEG data: 3 extraneous bytes\n")  # behind a bar, which has no newline
        os.write(2, b"set: damaged JPEG files: 1. First: a.jpg: Corrupt JPEG data: ours\n")

    assert decode_watched(decode) == (None, "Corrupt JPEG data: 3 extraneous bytes") and len(calls) == 1
    os.write(2, b"after\n")
    err = capfd.readouterr().err
    assert "before" in err and "after" in err and "a.jpg: Corrupt JPEG data: ours" in err and "extraneous" not in err


def test_a_decoder_that_fails_and_a_child_leave_standard_error_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            os.write(2, b"of the child\n")
            os._exit(0 if decode_watched(lambda: os.write(2, b"Corrupt JPEG data\n"))[1] else 1)
        return os.waitpid(pid, 0)[1]

    assert decode_watched(fork) == (0, None)
    with pytest.raises(RuntimeError, match="no JPEG"):
        decode_watched(lambda: (_ for _ in ()).throw(RuntimeError("no JPEG")))
    os.write(2, b"of the parent\n")
    assert capfd.readouterr().err == "of the child\nof the parent\n"
