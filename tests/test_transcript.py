"""The log of a training: what was printed, as it was seen, whatever happens to the file or to the process."""

from __future__ import annotations

# ruff: noqa: T201  (what is printed is the subject)
import errno
import fcntl
import logging
import multiprocessing
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from mltrain import transcript
from mltrain.console import log_to_stderr
from mltrain.transcript import command_words, open_log, recording, recording_job, repeating, typed, typed_words
from tests.promises.runs import ROOT, environment


def said(log: Path) -> list[str]:
    """The lines below the head."""
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("=== ") and lines[1].startswith("$ ")
    return lines[2:]


def test_all_that_is_printed_is_in_the_log_from_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    with recording():
        print("before the folder exists")
        open_log(folder / "train.log")
        sys.stderr.write("a line in ")
        sys.stderr.write("two parts\nand more")
        folder.mkdir()
        sys.stderr.write("\n")
        print("umläute", file=sys.stderr)
    print("after it")
    lines = said(folder / "train.log")
    assert lines[:3] == ["before the folder exists", "a line in two parts", "and more"]
    assert lines[3:] == ["umläute"]
    shown = capsys.readouterr()
    assert "before the folder exists\n" in shown.out and "a line in two parts\nand more\n" in shown.err


def test_handlers_that_are_there_already_and_new_ones_write_to_the_log(tmp_path: Path) -> None:
    logger = logging.getLogger("somebody")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    stream = handler.stream
    try:
        with recording():
            open_log(tmp_path / "train.log")
            logger.error("an old handler")
            log_to_stderr()
            logging.getLogger("mltrain").warning("one of ours")
        assert handler.stream is stream
        logger.error("not any more")
    finally:
        logger.removeHandler(handler)
    assert said(tmp_path / "train.log")[0] == "an old handler"
    assert "not any more" not in (tmp_path / "train.log").read_text()


def test_a_repeat_is_appended_and_completes_a_line_that_a_kill_has_cut(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    for text in ("one", "two"):
        with recording():
            open_log(log)
            print(text)
        if text == "one":
            log.write_bytes(log.read_bytes() + b"cut of")
    lines = log.read_text().splitlines()
    assert lines[2:4] == ["one", "cut of"] and lines[4].startswith("=== ") and lines[-1] == "two"
    assert sum(line.startswith("$ ") for line in lines) == 2


def test_tracebacks_are_in_the_log_and_exits_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        with recording():
            open_log(tmp_path / "train.log")
            with recording():
                raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        fail()
    lines = said(tmp_path / "train.log")
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "RuntimeError: boom"
    assert sum(line == "RuntimeError: boom" for line in lines) == 1
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "train.log").read_text().splitlines()[-1] == "rank 3: RuntimeError: boom"
    with pytest.raises(SystemExit), recording():
        open_log(tmp_path / "other.log")
        print("another rank prints to the terminal alone")
        sys.exit(3)
    assert not (tmp_path / "other.log").read_text()


def _work() -> None:
    print("in the worker", file=sys.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_worker_writes_whole_lines_of_its_own(tmp_path: Path) -> None:
    with recording():
        open_log(tmp_path / "train.log")
        sys.stderr.write("the parent's line ")
        worker = multiprocessing.get_context("fork").Process(target=_work)
        worker.start()
        worker.join()
        sys.stderr.write("ends\n")
    assert said(tmp_path / "train.log") == ["in the worker", "the parent's line ends"]


class Full:
    """A file on a disk that is full for some writes: it takes half of the first of them."""

    def __init__(self, file: Any, full: range) -> None:
        self.file, self.full, self.number = file, full, 0

    def write(self, data: bytes) -> int:
        self.number += 1
        if self.number == self.full.start:
            return int(self.file.write(data[: len(data) // 2]))
        if self.number in self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def close(self) -> None:
        self.file.close()


def test_a_full_disk_is_said_once_and_the_log_goes_on_when_there_is_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with recording():
        open_log(tmp_path / "train.log")
        assert transcript._active is not None
        transcript._active._file = Full(transcript._active._file, range(2, 6))  # type: ignore[assignment]
        for k in range(6):
            print("line", k)
    assert said(tmp_path / "train.log") == ["line 0", "lin", "[3 lines missing here: the file could not be written]",
                                            "line 4", "line 5"]  # fmt: skip
    shown = capsys.readouterr()
    assert [f"line {k}" for k in range(6)] == shown.out.splitlines(), "the terminal has all"
    assert shown.err.count("No space left on device; the training goes on") == 1


@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a link to itself", "below a file"])
def test_a_log_that_cannot_be_written_is_said_once(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "train.log"
    if kind == "a folder":
        log.mkdir()
    elif kind == "a named pipe":
        os.mkfifo(log)
    elif kind == "a link to itself":
        log.symlink_to(log.name)
    with recording():
        open_log(log if kind != "below a file" else Path("/proc/self/cmdline/train.log"))
        print("one")
        print("two")
    shown = capsys.readouterr()
    assert shown.out == "one\ntwo\n"
    assert shown.err.count("cannot be written") == (kind != "below a file"), "no folder: nothing was begun"


def test_jobs_of_a_sweep_have_logs_of_their_own(tmp_path: Path) -> None:
    with recording():
        print("the sweep begins")
        for k in range(2):
            with recording_job(["mltrain", "train", "-m", "seed=0,1"], [f"seed={k}"]):
                print("job", k)
                open_log(tmp_path / f"{k}.log")
                print("ends", k)
            print("between the jobs")
    for k in range(2):
        lines = (tmp_path / f"{k}.log").read_text().splitlines()
        assert lines[1] == "$ mltrain train -m seed=0,1"
        assert lines[2] == f"# this run of the sweep alone: mltrain train seed={k}"
        assert lines[3:] == [f"job {k}", f"ends {k}"]


BAR = """
import sys, time, logging, warnings
from mltrain.console import exit_on_error
from mltrain.progress import Meter
from mltrain.transcript import recording, open_log
from pathlib import Path
with recording(), exit_on_error():
    open_log(Path(sys.argv[1]))
    assert sys.stderr.isatty()
    with Meter("working", 40, unit="images") as meter:
        for k in range(4):
            time.sleep(0.3)
            meter.add(10)
            if k == 2:
                logging.getLogger("mltrain").info("in the middle of it")
    print("done")
    warnings.warn("of a library")
    1 / 0
"""


def test_a_terminal_keeps_its_bar_and_the_log_has_only_lines(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # without a width there is no bar
    words = [sys.executable, "-c", BAR, str(log)]
    process = subprocess.Popen(words, env=environment(), stdin=inner, stdout=inner, stderr=inner, cwd=ROOT)
    os.close(inner)
    seen = b""
    while True:
        try:
            seen += os.read(outer, 4096)
        except OSError:  # the other end is closed
            break
        if not seen:
            break
    os.close(outer)
    assert process.wait() == 1
    assert b"working:" in seen and seen.count(b"\r") > 5, "the bar is drawn"
    lines = said(log)
    assert lines[:2] == ["in the middle of it", "done"]
    assert lines[2].endswith("UserWarning: of a library")
    assert lines[3].startswith("Traceback") and lines[-1] == "ZeroDivisionError: division by zero"
    assert b"ZeroDivisionError" in seen


def test_what_was_typed_is_what_a_user_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/mltrain", "train", "name=a b"])
    assert typed() == "mltrain train 'name=a b'" and shlex.split(typed()) == typed_words()["typed"]
    assert command_words(["own.py", "x"]) == ["python", "own.py", "x"]
    assert command_words(["/src/tools/train.py", "x"]) == ["mltrain", "train", "x"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert typed_words()["typed"][:2] == ["torchrun", "--nproc_per_node=2"]
    assert repeating({"typed": ["mltrain", "train", "-m", "seed=0,1"], "repeat": ["mltrain", "train", "seed=1"]}) == [
        *("mltrain", "train", "seed=1")
    ]
    assert repeating({"command": ["train.py", "loss=bce"]}) == ["mltrain", "train", "loss=bce"], "of an earlier version"
    assert repeating({}) == []
