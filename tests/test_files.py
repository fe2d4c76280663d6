"""Files appear whole or not at all, and locks keep processes apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mltrain import files
from mltrain.errors import DataError
from mltrain.files import (
    LockedError,
    atomic_folder,
    atomic_write,
    has_file,
    leftovers,
    locked,
    remove_leftovers,
    write_json,
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": [float("nan"), (1.5, float("inf"))], "n": 1})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"é": [None, [1.5, None]], "n": 1}


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "below" / "folder"
    with atomic_folder(place) as temporary:
        (temporary / "one").write_text("1")
        assert not place.exists()
    with pytest.raises(RuntimeError), atomic_folder(place) as temporary:
        (temporary / "two").write_text("2")
        raise RuntimeError
    assert names(place) == ["one"]
    with atomic_folder(place) as temporary:
        (temporary / "three").write_text("3")
    assert names(place) == ["three"] and names(place.parent) == ["folder"]
    with atomic_folder(place, sync=False) as temporary:
        (temporary / "four").write_text("4")
    assert names(place) == ["four"] and names(place.parent) == ["folder"]
    assert place.stat().st_mode & 0o777 == 0o777 & ~files.umask()


@pytest.mark.skipif(files.fcntl is None, reason="this system has no locks")
def test_a_lock_file_may_be_removed_by_its_holder_while_another_process_waits(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    program = (
        "import sys; from pathlib import Path; from mltrain.files import locked\n"
        "print('here', flush=True)\n"
        "with locked(Path(sys.argv[1])): print(Path(sys.argv[1]).exists())\n"
    )
    with locked(path):
        waiting = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
        assert waiting.stdout is not None and waiting.stdout.readline() == "here\n"
        time.sleep(0.3)
        path.unlink()
    assert waiting.communicate(timeout=60)[0] == "True\n", "it has made the file again"


@pytest.mark.skipif(files.fcntl is None, reason="this system has no locks")
def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "below" / ".lock"
    code = (
        "import sys, time; from pathlib import Path; from mltrain.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} on"), locked(path, patience=0):
            pass
        holder.kill()
    with locked(path, patience=5):
        pass


KILLED = (
    "import os, signal, sys; from pathlib import Path; from mltrain.files import atomic_folder, atomic_write\n"
    "place = Path(sys.argv[1])\n"
    "with atomic_folder(place / 'folder') as folder, atomic_write(place / 'a.txt') as file:\n"
    "    (folder / 'one').write_text('1'); file.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_a_killed_process_leaves_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert len(names(tmp_path)) == 2 and all(name.endswith(".tmp") for name in names(tmp_path))
    with atomic_folder(tmp_path / "folder") as folder:  # removes its own kind
        assert len(leftovers(tmp_path)) == 1
        remove_leftovers(tmp_path, "b.txt")
        assert len(leftovers(tmp_path)) == 1
        remove_leftovers(tmp_path)
        assert not leftovers(tmp_path) and folder.exists()
    assert sorted(names(tmp_path)) == ["folder"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_the_first_file_written_to_a_folder_removes_what_killed_processes_left_there(tmp_path: Path) -> None:
    """Commands write to folders of the user, which nothing else looks through."""
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    for other in (".rsync.x1y2z3_4.tmp", ".a.txt.on-elsewhere.1.1.tmp"):  # not surely ours, or not surely dead
        (tmp_path / other).touch()
        os.utime(tmp_path / other, (0, 0))
    os.utime(tmp_path / other)
    with atomic_write(tmp_path / "b.txt") as file:
        file.write_text("whole")
        assert sorted(names(tmp_path))[0] == ".a.txt.on-elsewhere.1.1.tmp" and file.exists()
    left = [name for name in names(tmp_path) if not name.startswith(".folder.")]
    assert sorted(left) == [".a.txt.on-elsewhere.1.1.tmp", ".rsync.x1y2z3_4.tmp", "b.txt"]


def test_a_folder_whose_successor_never_came_gets_its_name_back(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "one").write_text("1")
    code = KILLED.replace("file.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)", "").replace(
        "with", "replace = Path.replace\n"
        "Path.replace = lambda a, b: replace(a, b) if a.name == 'folder' else os.kill(os.getpid(), signal.SIGKILL)\n"
        "with", 1,
    ).replace(", atomic_write(place / 'a.txt') as file", "")  # fmt: skip
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert sorted(Path(name).suffix for name in names(tmp_path)) == [".old", ".tmp"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["one"]


@pytest.mark.parametrize(
    ("name", "days", "removed"),
    [
        (".a.txt.on-elsewhere.1.1.tmp", 0.5, False),  # nobody here knows whether process 1 lives elsewhere
        (".a.txt.on-elsewhere.1.1.tmp", 1.5, True),
        (".a.txt.x1y2z3_4.tmp", 0.5, False),  # of an earlier version
        (".a.txt.x1y2z3_4.tmp", 1.5, True),
        (".push-x1y2z3_4", 1.5, True),
        (".a.txt.PID.1.tmp", 0.0, False),
        (".a.txt.PID.1.tmp", 900.0, True),  # an earlier process of the same number
        ("a.txt.1.1.tmp", 900.0, False),
        (".a.txt", 900.0, False),
    ],
)
def test_names_of_temporary_files_tell_what_is_left_over(tmp_path: Path, name: str, days: float, removed: bool) -> None:
    name = name.replace("PID", str(os.getpid()))
    path = tmp_path / "below" / name
    path.parent.mkdir()
    path.touch()
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    remove_leftovers(tmp_path)
    assert path.exists()
    remove_leftovers(tmp_path, below=True)
    assert path.exists() != removed


@pytest.mark.parametrize("make", ["folder", "pipe", "circle", "link to nothing"])
def test_has_file_refuses_what_is_no_file(tmp_path: Path, make: str) -> None:
    path = tmp_path / "metrics.jsonl"
    assert not has_file(path)
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if make == "circle" else tmp_path / "gone")
    with pytest.raises(DataError, match=r"metrics\.jsonl: is a .*, not a file"):
        has_file(path)


def test_has_file_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert has_file(tmp_path / "link")
