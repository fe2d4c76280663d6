"""Run folders become records, whatever state they are in, and filters choose among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mltrain.errors import DataError
from mltrain.report.runs import Filter, known_keys, lookup, read_runs, spelled
from tests.promises.runs import ROOT
from tests.report.run_folders import load_settings, records, write_run


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    write_run(tmp_path, "loss=bce", seed=3, map=41.5)
    (record,) = records(tmp_path)
    assert record.finished and record.seed == 3 and record.dataset == "shapes" and record.name == "small-gap-bce"
    assert record.settings["loss"] == "bce" and record.settings["sampler"] == "uniform"
    assert record.scalars()["map"] == 41.5 and record.scalars("val", "val")["map"] == 1.0
    assert record.split == "val" and record.scalars("test") == {}


def test_unfinished_runs_are_listed_with_how_far_they_came(tmp_path: Path) -> None:
    stopped = write_run(tmp_path, seed=1, finished=False)
    lines = [{"step": 10, "train/loss": 1.0}, {"step": 20, "epoch": 2}, {"step": 30, "train/loss": 0.5}]
    (stopped / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4')
    failed = write_run(tmp_path, seed=2, finished=False)
    (failed / "nonfinite_rank0.json").write_text(json.dumps({"error": "the loss is NaN"}))
    unreadable = write_run(tmp_path, seed=3, config_text="loss: [")
    begun = write_run(tmp_path, seed=4, finished=False)
    found = {record.folder: record for record in records(tmp_path)}
    assert (found[stopped].status, found[stopped].note) == ("stopped", "epoch 2 of 24, step 30")
    assert found[failed].status == "failed" and found[failed].note.endswith("the loss is NaN")
    assert found[unreadable].status == "unreadable" and "config.yaml: cannot be read" in found[unreadable].note
    assert (found[begun].status, found[begun].note) == ("stopped", "before its first step was logged")


def test_a_run_that_a_process_holds_is_running(tmp_path: Path) -> None:
    folder = write_run(tmp_path, finished=False)
    code = f"""
        import sys
        from pathlib import Path
        from mltrain.engine.lock import run_lock
        with run_lock(Path({str(folder)!r})):
            print("held", flush=True)
            sys.stdin.read()
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        (record,) = records(tmp_path)
        assert record.status == "running"
        process.communicate(b"")
    (record,) = records(tmp_path)
    assert record.status == "stopped"


def test_failures_that_a_sweep_recorded_are_listed_with_their_reason(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "loss=bce", finished=False)
    done = write_run(tmp_path, "loss=asl")
    sweep = tmp_path / "multirun" / "now"
    sweep.mkdir(parents=True)
    jobs = [
        {"folder": str(folder), "state": "failed", "error": "out of memory\nmore", "started": 2.0},
        {"folder": str(folder), "state": "running", "error": None, "started": 1.0},
        {"folder": str(done), "state": "failed", "error": "then", "started": 1.0},
        {"folder": "runs/shapes/x/01234567", "state": "failed", "error": "no data", "overrides": "loss=db seed=1"},
        {"folder": "runs/shapes/x/00000001", "state": "interrupted", "error": "SIGTERM", "overrides": "loss=db seed=2"},
    ]
    for number, job in enumerate(jobs):
        (sweep / f"job-{number:04d}.json").write_text(json.dumps(job))
    (sweep / "job-0009.json").write_text("{")
    found = {record.folder: record for record in records(tmp_path)}
    assert found[folder].status == "failed" and found[folder].note.endswith("logged: out of memory")
    assert found[done].finished
    lost = found[Path("runs/shapes/x/01234567")]
    assert (lost.status, lost.note, lost.dataset) == ("failed", "no data", "shapes")
    assert Filter.parse("loss=db").matches(lost) and len(found) == 3


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("loss=bce", {"bce"}),
        ("loss=bce|asl", {"bce", "asl"}),
        ("loss=*s*", {"asl"}),
        ("loss!=asl", {"bce", "db"}),
        ("epochs>=24", {"asl", "bce"}),
        ("runner.epochs<24", {"db"}),
        ("seed=1", {"db"}),
        ("map>45", {"asl", "bce"}),
        ("map<=45", {"db"}),
        ("loss.gamma_neg=4", {"asl"}),
        ("loss.gamma_neg!=4", {"bce", "db"}),
        ("loss.gamma_neg>1", {"asl"}),
        ("metrics.words_k=null", set()),
        ("optimizer.fused=null", {"asl", "bce", "db"}),
        ("model.pretrained=false", {"asl", "bce", "db"}),
        ("status=finished", {"asl", "bce", "db"}),
        ("dataset=shapes", {"asl", "bce", "db"}),
        ("name=*-bce", {"bce"}),
        ("absent=exclude", {"asl", "bce", "db"}),
    ],
)
def test_a_filter_chooses_by_config_and_figures(three: list, text: str, wanted: set[str]) -> None:
    assert {r.settings["loss"] for r in three if Filter.parse(text).matches(r)} == wanted


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list:
    runs = tmp_path_factory.mktemp("runs")
    write_run(runs, "loss=asl", map=50.0)
    write_run(runs, "loss=bce", map=47.0)
    write_run(runs, "loss=db", map=40.0, seed=1, changes={"runner.epochs": 10, "schedule.epochs": 10})
    return records(runs)


@pytest.mark.parametrize("text", ["loss", "=3", "epochs>=many", "epochs>", "loss~asl"])
def test_what_is_no_filter_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"e\.g\. loss=asl|compares numbers"):
        Filter.parse(text)


def test_a_key_that_several_sections_have_must_be_whole(three: list) -> None:
    with pytest.raises(ValueError, match=r"ambiguous.*optimizer\.lr|_target_ is ambiguous"):
        lookup(three[0], "_target_")
    assert lookup(three[0], "epochs") == (True, 24)
    assert {"loss.gamma_neg", "gamma_neg", "epochs", "map", "seconds", "seed"} <= known_keys(three)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_runs([tmp_path / "none"], load_settings)
    assert read_runs([tmp_path], load_settings) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (1e-4, "0.0001"), ([1, None], "[1,null]"), ({"a": 2.0}, "{a:2}")],
)
def test_values_are_spelled_as_overrides_spell_them(value: object, text: str) -> None:
    assert spelled(value) == text
