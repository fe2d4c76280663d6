"""One reader of run folders: what it gives of whole, of bare and of broken ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.config.compose import load_run
from mltrain.engine import run_folder
from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.run_folder import RunFolder, flatten, is_run_folder, read_jobs, weights_key
from mltrain.errors import ConfigError, DataError
from mltrain.report.tables import write_csv
from tests.promises.runs import environment
from tests.report.made_runs import class_names, make_run


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = RunFolder(make_run(tmp_path / "small-gap-asl" / "00000000", seed=3))
    result = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
    assert run.finished and not run.single_label and (run.task, run.seed) == ("multi_label", 3)
    assert (run.dataset, run.name, run.split, run.best_by) == ("made", "small-gap-asl", "val", "map")
    assert run.best_weights == result["best"]["weights"] and run.evaluated == ["val", "ema"]
    assert run.scalars() == result[run.best_weights] and run.scalars("val", "val") == result["val"]
    assert run.scalars("test") == {} and run.scalars("val", "none") == {}
    assert run.stats is not None and list(run.stats.class_names) == class_names(30)
    assert run.machine == "a CPU, 2 cores"
    table = run.classes["val"]
    assert table.names == class_names(30) and len(table.columns["ema_ap"]) == 30
    assert set(run.classes) == {"val"} and table.figure("val", "none") is None
    assert run.predictions().logits.shape == (60, 30)


def test_records_of_steps_and_epochs_are_apart_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    run = RunFolder(make_run(tmp_path / "run"))
    assert len(run.metrics) == len(run.steps) + len(run.epochs) == 78
    assert [record["epoch"] for record in run.epochs] == [1, 2, 3] and run.steps_per_epoch == 25
    assert run.epochs[-1]["ema"]["map"] == pytest.approx(run.scalars("val", "ema")["map"])
    assert "train/loss" in run.steps[0] and "val/map" not in run.epochs[0]


def test_a_bare_folder_has_nothing_and_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: single_label\nname: mine\n", encoding="utf-8")
    run = RunFolder(tmp_path)
    assert is_run_folder(tmp_path) and not run.finished
    assert (run.result, run.environment, run.stats, run.metrics, run.classes) == ({}, {}, None, [], {})
    assert (run.name, run.best_by, run.best_weights, run.split) == ("mine", "accuracy", "val", "val")
    assert run.machine == "" and run.confusion("val") is None and run.steps_per_epoch is None
    with pytest.raises(DataError, match=r"no finished run: it has no result\.json"):
        run.predictions()


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("config.yaml", "a: [", "config"),
        ("config.yaml", "- 1", "config"),
        ("environment.json", "3", "environment"),
        ("stats.json", '{"class_names": []}', "stats"),
        ("per_class.csv", "", "classes"),
        ("per_class.csv", "class,group\na", "classes"),
        ("per_class.csv", "class,group,train_positives,val_ap\na,head,many,1", "classes"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, part: str) -> None:
    run = make_run(tmp_path / "run", predictions=False)
    (run / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        getattr(RunFolder(run), part)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"val": {}}', '{"best": 3}'])
def test_a_run_whose_result_cannot_be_read_is_unfinished_and_a_warning_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    run = RunFolder(make_run(tmp_path / "run", predictions=False))
    (run.folder / "result.json").write_text(text, encoding="utf-8")
    assert run.result == {} and not run.finished
    assert "result.json" in caplog.text and "unfinished" in caplog.text


def test_a_broken_confusion_matrix_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", single_label=True)
    found = RunFolder(run).confusion("val")
    assert found is not None and found[0].shape == (30, 30) and found[0].sum() == 60
    assert found[1] == class_names(30) and found[0].dtype == np.int64
    (run / "confusion.csv").write_text("true,a\na,x", encoding="utf-8")
    with pytest.raises(DataError, match=r"confusion\.csv: cannot be read"):
        RunFolder(run).confusion("val")


def test_no_run_folder_is_refused(tmp_path: Path) -> None:
    assert not is_run_folder(tmp_path)
    with pytest.raises(DataError, match=r"no run folder: it has no config\.yaml"):
        _ = RunFolder(tmp_path).config


def test_raw_weights_are_val_in_files_and_raw_for_people() -> None:
    assert run_folder.WEIGHTS == {"val": "raw", "ema": "EMA"}
    assert [weights_key(name) for name in ("raw", "ema", "EMA", "best", "val")] == ["val", "ema", "ema", "best", "val"]


def test_jobs_of_a_sweep_come_by_number_and_a_broken_one_is_named(tmp_path: Path) -> None:
    for number in (10, 2):
        (tmp_path / f"job-{number:04d}.json").write_text(json.dumps({"number": number}), encoding="utf-8")
    assert [job["number"] for job in read_jobs(tmp_path)] == [2, 10]
    (tmp_path / "job-0003.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"job-0003\.json: cannot be read"):
        list(read_jobs(tmp_path))


def test_a_config_is_flattened_with_dots_and_lists_stay() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": None}) == {
        "a.b.c": 1,
        "a.d": [1, {"e": 2}],
        "f": None,
    }


def test_reading_a_run_needs_neither_torch_nor_omegaconf(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['omegaconf'] = None\n"
        "from mltrain.engine.run_folder import RunFolder\n"
        "run = RunFolder(sys.argv[1]); run.predictions(); run.classes; run.stats; run.epochs; print(run.best_weights)"
    )
    command = [sys.executable, "-c", code, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


def test_damaged_predictions_are_an_error_with_the_path_whatever_is_damaged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = RunFolder(run).predictions_file("val")
    assert path is not None
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    failed = 0
    for _ in range(200):
        damaged = bytearray(whole)
        start = int(generator.integers(0, len(whole)))
        damaged[start : start + 40] = generator.integers(
            0, 256, len(damaged[start : start + 40]), dtype=np.uint8
        ).tobytes()
        path.write_bytes(damaged[: int(generator.integers(1, len(whole)))] if failed % 5 == 4 else damaged)
        try:
            RunFolder(run).predictions()
        except DataError as error:
            assert str(path) in str(error) and "evaluate" in str(error)
            failed += 1
    assert failed > 100


def test_bytes_that_are_not_utf8_cost_the_line_and_no_more(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = RunFolder(run).metrics
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe{"step": 1\n')
    assert RunFolder(run).metrics == before
    (run / "config.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(DataError, match=r"config\.yaml: cannot be read: 'utf-8' codec"):
        _ = RunFolder(run).config
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: 'utf-8' codec"):
        load_run(run)


def test_class_names_that_look_like_formulas_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n", encoding="utf-8")
    rows = [["class", "group", "train_positives"], ["=1+1", "head", 3], ["'=x", "tail", 1], ["cat", "tail", 2]]
    write_csv(tmp_path / "per_class.csv", rows)
    assert "'=1+1,head" in (tmp_path / "per_class.csv").read_text(encoding="utf-8")
    assert RunFolder(tmp_path).classes["val"].names == ["=1+1", "'=x", "cat"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("environment.json", lambda folder: RunFolder(folder).environment),
        ("per_class.csv", lambda folder: RunFolder(folder).classes),
        ("confusion.csv", lambda folder: RunFolder(folder).confusion("val")),
        ("predictions.npz", lambda folder: RunFolder(folder).predictions_file("val")),
        ("last.pt", lambda folder: CheckpointFolder(folder).load()),
        ("previous.pt", lambda folder: CheckpointFolder(folder).load()),
        ("best.pt", lambda folder: CheckpointFolder(folder).load("best")),
    ],
)
def test_a_named_pipe_in_the_place_of_a_file_does_not_hang(
    tmp_path: Path, name: str, read: Callable[[Path], Any]
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"{re.escape(name)}: is a named pipe"):
        read(tmp_path)


@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a link that leads to no file"])
def test_what_has_the_name_of_the_metrics_and_is_no_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a named pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name)
    with pytest.raises(DataError, match=rf"metrics\.jsonl: is {kind}"):
        _ = RunFolder(tmp_path).metrics
