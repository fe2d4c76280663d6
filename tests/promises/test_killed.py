"""A run that is killed, starved or cut off at a bad moment keeps its promises, and says what happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from mltrain.config.build import load
from mltrain.config.identity import run_folder
from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.runner import Runner
from mltrain.engine.step import TrainStep
from mltrain.errors import CheckpointError, DataError, Interrupted
from mltrain.runs import train
from tests.promises.runs import assert_same, command, environment, execute, fit, records, state, stop_at


class Killed(BaseException):
    """Stands for a kill at a place: nothing catches it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Raise before a call of a function for which `when` holds."""
    call = getattr(owner, name)

    def kill(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            raise Killed
        return call(*args, **kwargs)

    monkeypatch.setattr(owner, name, kill)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


# -- results and reports ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", ["", '{"best": {"we', "[]"])
def test_a_torn_result_means_unfinished_and_a_repeat_writes_it_again(
    overrides: list[str], caplog: pytest.LogCaptureFixture, torn: str
) -> None:
    folder = fit(overrides)
    whole = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(torn)
    assert fit(overrides) == folder
    assert "result.json" in caplog.text and "unfinished" in caplog.text
    again = json.loads((folder / "result.json").read_text())
    assert again["val"] == whole["val"] and again["best"] == whole["best"]


def test_a_run_stopped_before_its_report_writes_it_at_the_next_start(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*overrides, "runner.epochs=1", "logger.report=true"]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, train, "report_at_end", lambda *_: True)
        fit(options)
    folder = run_folder(load(options))
    assert (folder / "result.json").is_file() and not (folder / "report.html").exists()
    fit(options)
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_finished_run_is_reported_without_its_lock(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only folder admits no lock file."""
    folder = fit([*overrides, "runner.epochs=1"])

    def refused(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(train, "run_lock", refused)
    assert fit([*overrides, "runner.epochs=1"]) == folder


def test_a_folder_in_the_place_of_the_figures_is_one_message(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 3)
        fit(overrides)
    file = run_folder(load(overrides)) / "metrics.jsonl"
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match=r"metrics\.jsonl: is a folder, not a file; move it away"):
        fit(overrides)
    file.rmdir()
    fit(overrides)  # as the message says


# -- reruns ----------------------------------------------------------------------------------------------------------


def test_a_rerun_resumes_itself_and_starts_over_from_anything_else(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fit(overrides)
    first = state(folder)

    def stopped(step: int, *options: str) -> int:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            stop_at(patch, step)
            fit([*overrides, *options])
        return int(state(folder)["step"])

    assert stopped(2, "rerun=true") == 4
    steps: list[int] = []
    call = TrainStep.__call__
    monkeypatch.setattr(TrainStep, "__call__", lambda s, k, *a: (steps.append(k), call(s, k, *a))[1])
    fit([*overrides, "rerun=true"])
    assert steps == [4, 5, 6, 7, 8, 9], "the rerun resumed"
    assert_same(state(folder), first)
    steps.clear()
    assert stopped(1, "rerun=true") == 3
    assert steps == [0, 1, 2], "a finished rerun runs again"
    damage(folder / "last.pt")
    steps.clear()
    fit([*overrides, "rerun=true"])
    assert steps[0] == 0, "a rerun whose checkpoint is damaged starts over"
    assert_same(state(folder), first)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_run_killed_before_its_last_save_ends_with_a_last_checkpoint_that_matches_its_result(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit([*overrides, f"paths.runs={tmp_path}/whole"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 9)  # saved after the last step, before the last evaluation
        fit(overrides)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, Runner, "_save", lambda runner: runner.step == 10)
        fit(overrides)
    folder = fit(overrides)
    assert_same(state(folder), state(whole))
    assert records(folder) == records(whole)
    (folder / "result.json").unlink()
    (folder / "last.pt").replace(folder / "previous.pt")  # a kill between the two renames of a save
    fit(overrides)
    assert_same(state(folder), state(whole))


@pytest.mark.parametrize("known", [True, False])
def test_a_damaged_best_checkpoint_is_found_at_the_start(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, known: bool
) -> None:
    whole = fit([*overrides, f"paths.runs={tmp_path}/whole"])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 5 if known else 8)
        fit([*overrides, "runner.checkpoint_every_minutes=1e-9"] if not known else overrides)
    folder = run_folder(load(overrides))
    damage(folder / "best.pt")
    fit(overrides)
    assert f"{folder / 'best.pt'}: damaged" in caplog.text
    result = json.loads((folder / "result.json").read_text())
    if known:
        assert "written again" in caplog.text
        assert_same(state(folder, "best"), state(whole, "best"))
        assert result["val"] == json.loads((whole / "result.json").read_text())["val"]
    else:
        assert "are lost" in caplog.text and result["best"]["epoch"] == 2


def test_a_best_checkpoint_lost_after_all_training_is_that_of_the_last_epoch(overrides: list[str]) -> None:
    folder = fit([*overrides, "runner.epochs=3"])
    (folder / "result.json").unlink()
    (folder / "best.pt").write_bytes(b"")
    best = state(folder)["best"]
    fit([*overrides, "runner.epochs=3"])
    found = json.loads((folder / "result.json").read_text())["best"]
    assert found["epoch"] == 3 or found == best


def test_a_full_disk_is_named_by_its_reason(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from mltrain.console import exit_on_error; from mltrain.engine.checkpoint import CheckpointFolder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "with exit_on_error(): CheckpointFolder(Path(sys.argv[1])).save({'x': torch.zeros(10**6)})\n"
    )
    done = execute([sys.executable, "-c", code, str(tmp_path)], code=2)
    assert "File too large" in done.stderr and "inline_container" not in done.stderr
    assert not list(tmp_path.iterdir())


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_a_malicious_checkpoint_brings_no_advice_to_run_it(tmp_path: Path) -> None:
    torch.save({"x": _Evil()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError) as caught:
        CheckpointFolder(tmp_path).load()
    assert "may run code" in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_deleted_run_folder_ends_the_run_with_one_message(overrides: list[str], tmp_path: Path) -> None:
    words = command(*overrides, "runner.epochs=500", "runner.evaluate_every=500", "logger.tensorboard=true")
    with started(words) as process:
        file = wait_for(lambda: next((tmp_path / "runs").rglob("last.pt"), None), process)
        shutil.rmtree(file.parent)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 2, said
    assert "was deleted" in said and "Traceback" not in said
    assert not file.parent.exists()


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside the block, and kill it after the block."""
    with subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(find: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := find()):
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


# -- figures ---------------------------------------------------------------------------------------------------------


def points(folder: Path) -> dict[str, list[int]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("place", ["before the first save", "before its evaluation", "after its evaluation"])
def test_each_point_of_tensorboard_is_there_once_after_a_resume(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    options = [*overrides, "logger.tensorboard=true", "logger.every_steps=1"]
    whole = fit([*options, f"paths.runs={tmp_path}/whole"])
    if place == "before its evaluation":
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            stop_at(patch, 4)
            fit(options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        step = 7 if place == "after its evaluation" else 5
        killed_at(patch, Runner, "_save", lambda runner: runner.step >= step)
        if place == "after its evaluation":
            killed_at(patch, TrainStep, "__call__", lambda s, k, *a: k == step)
        fit(options)
    time.sleep(1.1)  # event files are read in the order of their names, which have seconds
    assert points(fit(options)) == points(whole)


# -- workers and waits -----------------------------------------------------------------------------------------------


def workers_of(pid: int) -> list[int]:
    children = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            children.append(int(file.parent.name))
    return children


LONG = ["runner.epochs=1000", "runner.evaluate_every=1000", "data.num_workers=2", "runner.checkpoint_every_minutes=60"]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for workers in /proc")
@pytest.mark.parametrize("case", ["killed", "stopped"])
def test_a_killed_worker_and_a_signal_while_workers_are_stopped_save_the_run(
    overrides: list[str], tmp_path: Path, case: str
) -> None:
    with started(command(*overrides, *LONG)) as process:
        wait_for(lambda: next((tmp_path / "runs").rglob("last.pt"), None), process)
        workers = wait_for(lambda: workers_of(process.pid), process)
        if case == "killed":
            os.kill(workers[0], signal.SIGKILL)
        else:
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)
            time.sleep(1)  # the batches that were ready are used up
            process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert "Traceback" not in said and "Error" not in said, said
    folder = next((tmp_path / "runs").rglob("last.pt")).parent
    step = state(folder)["step"]
    if case == "killed":
        assert process.returncode == 2 and "SIGKILL" in said and "memory" in said and "data.num_workers=1" in said
    else:
        assert process.returncode == 143 and "stopped by SIGTERM while waiting" in said
    assert step % 5 or step > 5, "saved where it stood"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_closed_terminal_ends_the_run_after_saving(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted, match="SIGHUP") as stopped:
        stop_at(monkeypatch, 3, signal.SIGHUP)
        fit(overrides)
    assert stopped.value.exit_code == 128 + signal.SIGHUP
    assert state(run_folder(load(overrides)))["step"] == 5


# -- ranks and sweeps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_waits_for_others_names_them(rank: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"RANK": f"{rank}", "WORLD_SIZE": "3", "LOCAL_RANK": f"{rank}", "MASTER_ADDR": "127.0.0.1"}
    code = (
        "from mltrain.console import exit_on_error; from mltrain.engine import distributed\n"
        "distributed.ANNOUNCE_SECONDS = 0.5\n"
        "with exit_on_error(): distributed.start('cpu', timeout_minutes=0.03)\n"
    )
    env = {**environment(), **variables, "MASTER_PORT": str(port)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    others = "ranks that have not started: 1, 2" if rank == 0 else "rank 1 waits for rank 0"
    assert others in done.stderr, done.stderr


@pytest.mark.slow
def test_jobs_of_a_killed_sweep_save_and_end(overrides: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "loss=bce,asl"]
    words = command("-m", *overrides, "runner.epochs=2000", *sweep)
    with started(words) as process:
        wait_for(lambda: len(list(tmp_path.glob("runs/shapes/*/*/last.pt"))) == 2, process)
        process.kill()
    texts = wait_for(
        lambda: all('"interrupted"' in f.read_text() for f in tmp_path.glob("runs/multirun/*/job-*.json")), seconds=20
    )
    assert texts


# -- leftovers -------------------------------------------------------------------------------------------------------


def test_leftovers_of_killed_processes_go_at_the_next_start(overrides: list[str], dead: int) -> None:
    folder = fit([*overrides, "runner.epochs=1"])
    left = [folder / ".last.abc.pt.tmp", folder / f".best.pt.{dead}.1.tmp", folder / f".report.html.{dead}.7.tmp"]
    other = folder / f".report.html.{os.getpid()}.7.tmp"
    for file in (*left, other):
        file.write_bytes(b"half")
    os.utime(left[0], (0, 0))
    fit([*overrides, "runner.epochs=1"])
    assert not any(file.exists() for file in left)
    assert other.exists(), "that process lives"


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid
