"""A run remembers its data: a repeat on other data is neither shown as finished nor resumed."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

import pytest

from mltrain import cli
from mltrain.commands.evaluate import evaluate
from mltrain.commands.train import COMMAND
from mltrain.config.build import instantiate, load, load_run
from mltrain.config.identity import run_folder
from mltrain.errors import DataError, Interrupted
from mltrain.runs.same_data import check_runs, named_files, remember
from mltrain.runs.train import train
from tests.promises.runs import TINY, coloured_run, stop_at, unpack
from tests.promises.test_old_runs import ARCHIVE, RUN, words

FRAME = [item for item in TINY if not item.startswith("dataset.")]


def again(folder: Path, *options: str) -> list[str]:
    """The command of `coloured_run`."""
    data = ["dataset=csv", f"dataset.file={folder}/labels.csv", "dataset.test_split=test", "runner.epochs=1"]
    return [*FRAME, *data, *options, f"paths.data={folder}", f"paths.runs={folder}/runs"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    coloured_run(folder, f"paths.data={folder}")
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A finished run and its data, to be changed."""
    shutil.copytree(finished, tmp_path / "place")
    return tmp_path / "place"


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "labels.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def refused(command: list[str]) -> str:
    with pytest.raises(DataError) as caught:
        cli.execute(COMMAND, command)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_finished_run_on_other_data_says_what_changed_and_its_advice_works(place: Path) -> None:
    shutil.copy(place / "0.png", place / "new.png")
    change(place, "47.png", "new.png,zebra;a,train\n47.png")
    run = run_folder(load(again(place)))
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    text = refused(again(place))
    assert "finished on other data" in text and str(run) in text
    assert "train: 24 images then, 25 now, 1 added (the first: new.png, now a, zebra)" in text
    assert "classes: 1 added (zebra)" in text
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before, "nothing is lost"
    name = re.search(r"name=\S+", text)
    assert name is not None
    cli.execute(COMMAND, again(place, name.group()))
    assert (run.parents[1] / name.group()[5:] / run.name / "result.json").is_file() and run.is_dir()
    assert "-3" in refused(again(place))
    cli.execute(COMMAND, again(place, "rerun=true"))
    assert (run / "result.json").read_bytes() != before[run / "result.json"]
    assert train(load(again(place))) is not None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("40.png,", "40.png,a;b;c;", "test: 1 with other labels"),
        ("30.png,", "30.png,!", "with other labels"),
        ("5.png,", "5.png,?", "with other labels"),
        (",test", ",val", "13 now"),
    ],
)
def test_any_change_of_labels_or_splits_counts(place: Path, old: str, new: str, said: str) -> None:
    change(place, old, new)
    assert said in refused(again(place))


def test_moving_and_touching_the_data_changes_nothing(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for path in place.iterdir():
        os.utime(path, (0, 0))
    assert train(load(again(place))) is not None
    (place / "images").mkdir()
    for image in place.glob("*.png"):
        image.rename(place / "images" / image.name)
    (place / "labels.csv").rename(place / "images" / "labels.csv")
    moved = load_run(run_folder(load(again(place))), [f"dataset.file={place}/images/labels.csv"])
    assert evaluate(moved, run_folder(load(again(place)))) is not None
    assert "finished before" in caplog.text and "changed" not in caplog.text


def begun(command: list[str]) -> Path:
    """A run folder that looks as if this command had trained its first epoch."""
    cfg = load(command)
    remember(cfg, instantiate(cfg.dataset, "dataset"))
    (run_folder(cfg) / "last.pt").touch()
    return run_folder(cfg)


def test_a_relative_file_in_another_folder_is_other_data(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [word for word in again(place) if not word.startswith(("dataset.file", "paths.runs"))]
    command += ["dataset.file=labels.csv", f"paths.runs={tmp_path}/shared"]
    for name in ("other", "same"):
        shutil.copytree(place, tmp_path / name, ignore=shutil.ignore_patterns("runs"))
    change(tmp_path / "other", "3.png,", "3.png,b;")
    monkeypatch.chdir(place)
    run = begun(command)
    monkeypatch.chdir(tmp_path / "other")
    assert "began on other data" in refused(command)
    monkeypatch.chdir(tmp_path / "same")
    assert run_folder(load(command)) == run and check_runs([load(command)])


def test_data_that_cannot_be_read_leave_a_finished_run_readable(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    (place / "labels.csv").unlink()
    assert train(load(again(place))) is not None
    assert "not known, because they cannot be read" in caplog.text
    (run_folder(load(again(place))) / "data.npz").write_bytes(b"damaged")
    assert train(load(again(place))) is not None
    assert "data.npz: cannot be read" in caplog.text


def test_files_that_the_config_names_count_by_content(place: Path) -> None:
    (place / "w.pt").write_bytes(b"weights")
    (place / "small").write_bytes(b"no weights")
    prior = ["loss=csl", f"loss.prior={place}/prior.txt"]
    (place / "prior.txt").write_text("0.1")
    command = again(place, f"model.checkpoint={place}/w.pt", *prior)
    cfg = load(command)
    assert sorted(key for key, _ in named_files(cfg)) == ["loss.prior", "model.checkpoint"]
    begun(command)
    os.utime(place / "w.pt", (0, 0))
    assert check_runs([cfg])
    (place / "w.pt").write_bytes(b"Weights")
    with pytest.raises(DataError, match=r"model\.checkpoint: the file has another content"):
        check_runs([cfg])
    (place / "w.pt").unlink()
    assert check_runs([cfg]), "a finished run does not need the file"
    (place / "prior.txt").write_text("0.2")
    with pytest.raises(DataError, match=r"loss\.prior: the file has another content"):
        check_runs([cfg])
    start = run_folder(load(again(place)))
    assert dict(named_files(load(again(place, f"model.checkpoint={start}")))) == {"model.checkpoint": start / "best.pt"}


def test_an_interrupted_run_is_not_resumed_on_other_data(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = again(place, "seed=1", "runner.epochs=3")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 1)
        train(load(command))
    run = run_folder(load(command))
    text = (place / "labels.csv").read_text()
    change(place, "2.png,", "2.png,a;b;c;")
    before = (run / "last.pt").read_bytes()
    assert "began on other data, so it cannot be resumed" in (said := refused(command)) and "2.png" in said
    assert (run / "last.pt").read_bytes() == before and not (run / "result.json").exists()
    (place / "labels.csv").write_text(text)
    assert train(load(command)) is not None, "with the old data it resumes"


def test_an_unfinished_rerun_on_other_data_begins_anew(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = again(place, "seed=1", "rerun=true")
    run = begun(command)
    change(place, "2.png,", "2.png,a;b;c;")
    cfg = load(command)
    remember(cfg, instantiate(cfg.dataset, "dataset"))
    assert "an unfinished run on other data, which begins anew (train: 1 with other labels" in caplog.text
    assert [path.name for path in run.iterdir()] == ["data.npz"]


def test_a_sweep_refuses_before_anything_runs(place: Path) -> None:
    sweep = ["-m", *again(place, "seed=0,1", f"hydra.sweep.dir={place}/sweep")]
    change(place, "2.png,", "2.png,a;b;c;")
    text = refused(sweep)
    assert text.startswith("nothing was run: 1 of 2 runs is of other data. ") and "2.png" in text
    assert not (place / "sweep").exists()


def test_evaluate_warns_in_one_line(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, moved = run_folder(load(again(place))), [f"dataset.file={place}/labels.csv"]
    change(place, "1.png,", "1.png,c;")
    evaluate(load_run(run, moved), run)
    assert "have changed" not in caplog.text, "other training labels do not matter"
    change(place, "30.png,a;c", "30.png,a")
    evaluate(load_run(run, moved), run)
    (line,) = [record.getMessage() for record in caplog.records if "have changed" in record.getMessage()]
    assert "val: 1 with other labels (the first: 30.png, now a)" in line and "\n" not in line
    caplog.clear()
    evaluate(load_run(run, [*moved, "dataset.name=another"]), run)
    assert "have changed" not in caplog.text


def test_older_runs_have_no_fingerprint_and_get_one_when_resumed(tmp_path: Path) -> None:
    unpack(ARCHIVE, tmp_path)
    assert train(load(words(tmp_path, "whole"))) is not None
    assert not (tmp_path / "whole" / RUN / "data.npz").exists(), "a finished run is only read"
    assert train(load(words(tmp_path, "stopped"))) is not None
    assert (tmp_path / "stopped" / RUN / "data.npz").is_file()
