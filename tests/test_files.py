"""Files appear whole or not at all, and locks keep processes apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mltrain import files
from mltrain.files import LockedError, atomic_folder, atomic_write, locked, write_json


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
