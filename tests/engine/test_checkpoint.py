from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.errors import CheckpointError


def _state(step: int, size: int = 1000) -> dict:
    return {
        "step": step,
        "weights": torch.full((size,), float(step)),
        "history": [{"map": 1.5, "name": "a"}],
        "none": None,
    }


def _flip_byte_of_tensor_data(path, value: float) -> None:
    data = bytearray(path.read_bytes())
    pattern = np.full(8, value, dtype=np.float32).tobytes()
    data[data.index(pattern) + 5] ^= 0xFF
    path.write_bytes(data)


def test_a_state_comes_back_as_it_was(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "betas": (0.9, 0.99),
        "text": "ü",
        "flag": True,
    }
    CheckpointFolder(tmp_path / "new").save(state)
    loaded = CheckpointFolder(tmp_path / "new").load()
    assert loaded is not None
    assert loaded["betas"] == (0.9, 0.99)
    assert loaded["text"] == "ü"
    assert loaded["flag"] is True
    for name, value in model.state_dict().items():
        assert torch.equal(loaded["model"][name], value)
    optimizer.load_state_dict(loaded["optimizer"])


def test_an_empty_folder_has_nothing_to_load(tmp_path):
    folder = CheckpointFolder(tmp_path)
    assert folder.load() is None
    assert folder.load("best") is None


def test_the_one_before_is_kept_and_best_stands_apart(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2, 3):
        folder.save(_state(step))
    folder.save(_state(2), "best")
    folder.save(_state(7), "best")
    assert folder.load()["step"] == 3
    assert folder.load("previous")["step"] == 2
    assert folder.load("best")["step"] == 7
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "last.pt", "previous.pt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flip", "missing"])
def test_a_damaged_last_falls_back_to_the_one_before_with_a_warning(tmp_path, caplog, damage):
    writer = CheckpointFolder(tmp_path)
    writer.save(_state(1))
    writer.save(_state(2))
    last = tmp_path / "last.pt"
    if damage == "cut":
        os.truncate(last, last.stat().st_size - 300)
    elif damage == "empty":
        os.truncate(last, 0)
    elif damage == "text":
        last.write_text("no checkpoint")
    elif damage == "flip":
        _flip_byte_of_tensor_data(last, 2.0)
    else:
        last.unlink()
    folder = CheckpointFolder(tmp_path)
    with caplog.at_level("WARNING"):
        assert folder.load()["step"] == 1
    reason = {"flip": "does not match its checksum", "missing": "is missing"}.get(damage, "is cut short")
    assert str(last) in caplog.text
    assert "previous.pt" in caplog.text
    assert reason in caplog.text
    # The next save must not push the whole file out for the damaged one.
    folder.save(_state(2))
    assert folder.load()["step"] == 2
    assert folder.load("previous")["step"] == 1


def test_a_damaged_one_before_is_named_and_replaced_by_the_next_save(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        folder.save(_state(step))
    (tmp_path / "previous.pt").write_bytes(b"")
    assert folder.load()["step"] == 2
    assert f"{tmp_path / 'previous.pt'}: damaged, but not needed" in caplog.text
    folder.save(_state(3))
    assert folder.load("previous")["step"] == 2


def test_a_writer_that_never_loaded_does_not_rotate_a_cut_file_over_a_whole_one(tmp_path):
    writer = CheckpointFolder(tmp_path)
    for step in (1, 2):
        writer.save(_state(step))
    os.truncate(tmp_path / "last.pt", 500)
    CheckpointFolder(tmp_path).save(_state(3))
    assert CheckpointFolder(tmp_path).load("previous")["step"] == 1


def test_two_damaged_files_raise_and_name_both(tmp_path):
    writer = CheckpointFolder(tmp_path)
    writer.save(_state(1))
    writer.save(_state(2))
    for name in ("last.pt", "previous.pt"):
        os.truncate(tmp_path / name, 100)
    with pytest.raises(CheckpointError, match=r"neither.*last\.pt.*cut short.*previous\.pt.*cut short.*rerun=true"):
        writer.load()


def test_a_damaged_only_file_raises(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(_state(1))
    folder.save(_state(1), "best")
    for name in ("last", "best"):
        os.truncate(tmp_path / f"{name}.pt", 100)
        with pytest.raises(CheckpointError, match=rf"{name}\.pt: is cut short"):
            folder.load(name)


class _Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Evil()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        CheckpointFolder(tmp_path).load()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2), r"state\['a'\]\[1\]\['b'\] is a numpy\.ndarray.*torch\.from_numpy"),
        (np.float64(1.0), r"is a numpy\.float64.*number\.item\(\)"),
        (collections.defaultdict(int), r"is a collections\.defaultdict"),
        (object(), r"is a object"),
        ({np.int64(1): 2}, r"has a key of type numpy\.int64"),
        ({1, 2}, r"is a set"),
    ],
)
def test_what_could_not_be_loaded_back_is_refused_with_its_place(tmp_path, value, message):
    folder = CheckpointFolder(tmp_path)
    folder.save(_state(1))
    with pytest.raises(ValueError, match=message):
        folder.save({"a": [0, {"b": value}]})
    assert folder.load()["step"] == 1


def test_what_a_killed_save_left_is_removed_by_the_next_writer_only(tmp_path):
    stale = tmp_path / ".last.abc.pt.tmp"
    stale.write_bytes(b"half")
    reader = CheckpointFolder(tmp_path)
    assert reader.load() is None
    assert stale.exists()
    reader.save(_state(1))
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


_FULL_DISK = """
import resource, sys, torch
from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.errors import CheckpointError
folder = CheckpointFolder(sys.argv[1])
folder.save({"step": 1, "weights": torch.zeros(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    folder.save({"step": 2, "weights": torch.zeros(1_000_000)})
except CheckpointError as error:
    print(error)
    sys.exit(7)
"""


def test_a_disk_that_takes_no_more_leaves_the_old_files_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 7, done.stderr
    assert "cannot write" in done.stdout
    assert "earlier checkpoints are unharmed" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
    assert CheckpointFolder(tmp_path).load()["step"] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot write"):
            CheckpointFolder(tmp_path).save(_state(1))
    finally:
        tmp_path.chmod(0o700)


_KILLED_SAVES = """
import os, random, signal, sys, time, torch
from mltrain.engine.checkpoint import CheckpointFolder

torch.set_num_threads(1)
rng = random.Random(0)
reached = 0
for _ in range(12):
    child = os.fork()
    if child == 0:
        folder = CheckpointFolder(sys.argv[1])
        state = folder.load()
        step = 0 if state is None else state["step"]
        while True:
            step += 1
            folder.save({"step": step, "weights": torch.full((300_000,), float(step))})
    time.sleep(0.1 + 0.15 * rng.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state = CheckpointFolder(sys.argv[1]).load()
    if state is None:
        continue
    assert torch.equal(state["weights"], torch.full((300_000,), float(state["step"])))
    assert state["step"] >= reached
    reached = state["step"]
print(reached)
"""


def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_SAVES, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 12


def test_every_crash_point_between_two_renames_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    """Stop a save before each of its file operations in turn, and look at what is there."""

    class Crash(BaseException):
        pass

    writer = CheckpointFolder(tmp_path)
    writer.save(_state(1))
    writer.save(_state(2))
    real = Path.replace
    for stop_at in (0, 1, 2):
        calls = [0]

        def replace(path, target, calls=calls, stop_at=stop_at):
            if calls[0] == stop_at:
                raise Crash
            calls[0] += 1
            return real(path, target)

        monkeypatch.setattr(Path, "replace", replace)
        try:
            CheckpointFolder(tmp_path).save(_state(3))
        except Crash:
            assert stop_at < 2
        monkeypatch.setattr(Path, "replace", real)
        assert CheckpointFolder(tmp_path).load()["step"] in (2, 3)
    assert CheckpointFolder(tmp_path).load()["step"] == 3


def test_saving_copies_no_tensor(tmp_path, monkeypatch):
    tensor = torch.zeros(1000)
    monkeypatch.setattr(torch.Tensor, "clone", lambda *_: pytest.fail("cloned"))
    CheckpointFolder(tmp_path).save({"a": tensor, "b": tensor})
    assert (tmp_path / "last.pt").stat().st_size < 2 * tensor.nbytes  # the shared storage is written once
