"""The attack sees what it looks for, and finds nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.attack.children import exit_code
from tests.attack.compare import differences, snapshot
from tests.attack.operations import Blow
from tests.promises.runs import ROOT, environment

WRITER = """
import os, sys
from pathlib import Path
from mltrain.files import write_text
from tests.attack.operations import Blow, Counters, Operations
counters, place = Counters(), Path(sys.argv[1])
Operations(place, counters, eval(sys.argv[2])).install()
try:
    write_text(place / "a.txt", "x" * 100)
except OSError as error:
    print(error.errno)
print(counters.read())
"""


def strike(folder: Path, blow: Blow | None) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", WRITER, str(folder), repr(blow)]
    return subprocess.run(words, capture_output=True, text=True, env=environment(), check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks for processes in /proc")
def test_every_operation_on_a_file_is_counted_and_can_be_struck(tmp_path: Path) -> None:
    assert strike(tmp_path, None).stdout.split("\n")[0] == "(7, 6, False)"  # open, write, open and sync, rename, ...
    (tmp_path / "a.txt").write_text("old")
    full = strike(tmp_path, Blow("ENOSPC", at=1))
    assert full.stdout.startswith("28\n") and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert strike(tmp_path, Blow("SIGKILL", at=1)).returncode == -9, "during the write"
    (half,) = (path for path in tmp_path.iterdir() if path.name != "a.txt")
    assert half.read_text() == "x" * 50 and (tmp_path / "a.txt").read_text() == "old"
    assert strike(tmp_path, Blow("SIGTERM", at=2, writes=False)).returncode == -15


def test_every_kind_of_difference_is_seen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        torch.save({"x": torch.zeros(3), "seconds": len(name)}, folder / "last.pt")
        (folder / "result.json").write_text(json.dumps({"map": 1.0, "seconds": len(os.fspath(folder)) + ord(name)}))
        (folder / "report.html").write_text(f"<p>mAP 1.0</p>\n<p>{ord(name)} s</p>")
    a, b = tmp_path / "a", tmp_path / "b"
    assert differences(snapshot(a), snapshot(b)) == [], "times do not count"
    torch.save({"x": torch.tensor([0.0, 0.0, 1e-45])}, b / "last.pt")
    (b / "result.json").write_text(json.dumps({"map": 1.0000001}))
    (b / "report.html").write_text("<p>mAP 1.1</p>\n<p>1 s</p>")
    (b / ".last.pt.tmp").touch()
    torch.save({}, b / "previous.pt")  # a run that was stopped has saved once more
    (a / "per_class.csv").write_text("")
    found = differences(snapshot(a), snapshot(b))
    assert len(found) == 5
    for text in ("left over: .last.pt.tmp", "missing: per_class.csv", "last.pt .x", "result.json .map", "report.html"):
        assert any(text in line for line in found), text


@pytest.mark.parametrize(
    ("codes", "struck", "code"),
    [
        ((-15, 2), 0, -15),  # the other one finds its peer gone
        ((2, 143), 1, 143),
        ((143, 143), 1, 143),
        ((0, 0), 1, 0),
        ((0, 1), 0, 1),  # it has failed by itself
        ((2,), 0, 2),
    ],
)
def test_a_command_of_several_ranks_has_the_exit_code_of_the_one_that_failed_first(
    codes: tuple[int, ...], struck: int, code: int
) -> None:
    assert exit_code(codes, struck) == code


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks for processes in /proc")
@pytest.mark.parametrize(
    "kinds", ["train_often,train_ranks,train_rerun,sweep", "draw,push,predict,shrink,download,images,names_push_c"]
)
def test_an_attack_finds_nothing(kinds: str, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "tests.attack",
        "trials=0:2",
        "minutes=15",
        f"kinds={kinds}",
        f"keep={tmp_path}/keep",
    ]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert "| all |" in done.stdout


@pytest.mark.slow
def test_a_run_resumes_with_other_versions_of_the_libraries(tmp_path: Path) -> None:
    """MLTRAIN_OLD_PYTHON is the interpreter of an environment with the oldest supported versions."""
    old = os.environ.get("MLTRAIN_OLD_PYTHON")
    if old is None:
        pytest.skip("set MLTRAIN_OLD_PYTHON; python -m tests.attack.versions build=FOLDER makes such an environment")
    from tests.attack.versions import gaps, run_all

    runs = run_all(old, sys.executable, tmp_path)
    for a, b in (("old, then new", "old"), ("new, then old", "new")):
        found = gaps(runs[a], runs[b])
        assert found["mAP"] <= 1e-4 and found["epoch loss"] <= 1e-4, (a, b, found)
