"""Standard streams and names as they come: closed, in another encoding, with control characters."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mltrain import console
from mltrain.labels import LabelSet
from mltrain.report.labelled import LabelWriter
from mltrain.report.tables import text_table
from mltrain.text import csv_cell, csv_text, printable
from tests.promises.runs import ROOT

BEGIN = """import os, sys
from pathlib import Path
from mltrain.console import exit_on_error, write
with exit_on_error():
    """


def execute(
    code: str, *, shell: str = "", cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run code as the work of a command; `shell` follows the command line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": BEGIN + code, **variables}
    command = f'"{sys.executable}" -c "$CODE" {shell}'
    return subprocess.run(["bash", "-c", command], capture_output=True, env=environment, cwd=cwd, check=False)


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (C_LOCALE, "Käse".encode()),
        ({"PYTHONIOENCODING": "latin-1"}, "Käse".encode("latin-1")),
        ({"PYTHONIOENCODING": "ascii"}, b"K\\xe4se"),
    ],
)
def test_text_for_a_file_is_utf8_unless_asked_otherwise(variables: dict[str, str], expected: bytes) -> None:
    assert execute("write('K\\xe4se')", **variables).stdout == expected


@pytest.mark.parametrize("shell", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(tmp_path: Path, shell: str) -> None:
    code = "file = open('a', 'w'); write('out'); sys.stderr.write('err'); os.write(1, b'1'); os.write(2, b'2')"
    done = execute(code, shell=shell, cwd=tmp_path)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert (tmp_path / "a").read_bytes() == b"", "the file does not become standard output"


def test_an_error_without_standard_error_keeps_its_exit_code() -> None:
    code = "from mltrain.errors import DataError; raise DataError('x')"
    assert execute(code, shell="2>&-").returncode == 2
    assert execute(code, shell="2> >(true)").returncode == 2


def test_a_reader_who_leaves_ends_the_command_quietly() -> None:
    done = execute("import time; time.sleep(0.2); write('x' * 10**6)", shell="| true")
    assert done.stderr == b""


def test_a_deleted_working_directory_is_one_message(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    (tmp_path / "leave").write_text(f"cd {folder}; rmdir {folder}\n")
    done = execute("Path('x').absolute()", BASH_ENV=str(tmp_path / "leave"))
    assert done.returncode == 2 and done.stderr.startswith(b"the working directory has been deleted: ")
    assert done.stderr.count(b"\n") == 1


def test_a_name_that_the_locale_cannot_write_is_one_message(tmp_path: Path) -> None:
    done = execute("open('K\\xe4se')", cwd=tmp_path, **C_LOCALE)
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert b"'K\\xe4se': this name cannot be written in ascii" in done.stderr and b"LC_ALL=C.UTF-8" in done.stderr


def test_names_with_control_characters_do_not_reach_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b]0;title\x07\x1b[2Jb\u202ec\x9bd\re"
    safe = r"a\x1b]0;title\x07\x1b[2Jb\u202ec\x9bd\re"
    assert printable(evil) == safe and printable("Käse\t猫\n") == "Käse\t猫\n"
    assert evil not in text_table(["class"], [[evil]]) and safe in text_table(["class"], [[evil]])
    console.say(evil)
    assert capsys.readouterr().err == f"{safe}\n"
    stream = io.StringIO()
    LabelWriter(stream, "table").write(f"{evil}\n.jpg", [(evil, 0.5)])
    assert stream.getvalue() == rf"{safe}\n.jpg  {safe} 0.50" + "\n"
    stream.isatty = lambda: True  # type: ignore[method-assign]
    LabelWriter(console.SafeOutput(stream), "csv").write("b.jpg", [(evil, 0.5)])
    assert "\x1b" not in stream.getvalue()


def test_cells_that_a_spreadsheet_would_run_get_a_quote() -> None:
    names = ["=1+1", "+a", "-x", "-1+1", "@SUM(A1)", "\tx", "\rx", "'=x", "''=x"]
    assert [csv_cell(name) for name in names] == [f"'{name}" for name in names]
    plain = ["cat", "'cat", "a=b", "", 3, -1.5, "'", "-1.5", "+1e-3"]
    assert [csv_cell(value) for value in plain] == plain
    for name in [*names, "-1.5", "'-1.5", "cat", "'cat", "'", ""]:
        assert csv_text(csv_cell(name)) == name
    stream = io.StringIO()
    LabelWriter(stream, "csv").write("-a.jpg", [("=cmd|' /C calc'!A0", 0.5)])
    assert stream.getvalue().splitlines()[1] == "'-a.jpg,'=cmd|' /C calc'!A0,0.5"


def test_class_names_that_a_line_cannot_hold_are_refused_and_file_names_may_be_any_bytes() -> None:
    file = os.fsdecode(b"caf\xe9.jpg")

    def labels(name: str) -> LabelSet:
        return LabelSet.from_lists(name="x", root="r", files=[file], class_names=["a", name], positives=[[1]])

    for name in ("a\nb", "b\r", "\x85", "a\u2028b"):
        with pytest.raises(ValueError, match="x: 1 class names have line breaks"):
            labels(name)
    with pytest.raises(ValueError, match="x: 1 class names are not UTF-8"):
        labels(os.fsdecode(b"caf\xe9"))
    assert labels("b").file(0) == file and labels("b").path(0) == f"r/{file}"
    assert len(labels("b").fingerprint()) == 64


RANK = """
import sys, threading, time, torch
from mltrain.console import ending_as_rank

def multiply():
    a = torch.ones(400, 400)
    while True:
        a @ a  # without the GIL, and asks for it afterwards

with ending_as_rank():
    threading.Thread(target=multiply, daemon=True).start()
    time.sleep(0.1)
    print("done")
    {}
"""


@pytest.mark.parametrize(("end", "code"), [("sys.exit(3)", 3), ("pass", 0), ("raise KeyError('x')", 1)])
def test_a_rank_ends_with_its_exit_code_while_a_thread_of_torch_still_needs_the_gil(end: str, code: int) -> None:
    """Without `ending_as_rank` Python before 3.14 aborts here, as it did after one in fifty trainings of two ranks."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
    run = subprocess.run(
        [sys.executable, "-c", RANK.format(end)], capture_output=True, text=True, env=environment, check=False
    )
    assert (run.returncode, run.stdout) == (code, "done\n"), run.stderr
    assert ("KeyError: 'x'" in run.stderr) == (code == 1)
