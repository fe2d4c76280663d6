from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain.config.compose import load
from mltrain.engine import distributed
from mltrain.engine.logging import FinalRecord, MetricsLog, Sinks, TensorBoard, make_sinks, save_environment
from mltrain.engine.progress import Progress
from mltrain.errors import ConfigError
from mltrain.progress import duration


def _config(**options):
    logger = {"tensorboard": False, "wandb": False, "mlflow": False, "project": "tests", **options}
    return {"logger": logger, "loss": {"gamma_neg": 4.0}, "name": "n"}


def _records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def one_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return distributed.start("cpu")


# metrics.jsonl


def test_records_are_on_the_disk_at_once_with_numbers_of_every_kind(tmp_path, one_rank):
    with make_sinks(tmp_path, _config(), one_rank) as sinks:
        sinks.resume(0)
        sinks.log(3, {"a": 1, "b": torch.tensor(0.5), "c": np.float32(2.0), "d": float("nan"), "e": "text"})
        sinks.log(4, {"inf": float("inf"), "none": None})
        assert _records(tmp_path / "metrics.jsonl") == [
            {"step": 3, "a": 1, "b": 0.5, "c": 2.0, "d": None, "e": "text"},
            {"step": 4, "inf": None, "none": None},
        ]


def test_a_resumed_log_reads_like_one_that_never_stopped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.resume(0)
    for step in (10, 20, 30):
        log.log(step, {"loss": step / 10})
    log.log(20, {"epoch": 1, "map": 50.0})
    log.close(failed=True)
    with path.open("a") as file:
        file.write('{"step": 40, "lo')  # a kill in the middle of a line
    expected = [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 2.0},
        {"step": 20, "epoch": 1, "map": 50.0},
        {"step": 30, "loss": 3.0},
    ]
    for evaluated in (False, True):  # the evaluation of the resumed step is repeated, or part of the checkpoint
        log = MetricsLog(path)
        log.resume(20, evaluated=evaluated)
        if not evaluated:
            log.log(20, {"epoch": 1, "map": 50.0})
        log.log(30, {"loss": 3.0})
        log.close(failed=False)
        assert _records(path) == expected


def test_a_new_run_starts_an_empty_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "loss": 1.0}\n')
    log = MetricsLog(path)
    log.resume(0)
    log.close(failed=False)
    assert path.read_text() == ""


def test_other_ranks_write_nothing(tmp_path, one_rank):
    one_rank.rank = 1
    with make_sinks(tmp_path, _config(tensorboard=True), one_rank) as sinks:
        sinks.resume(0)
        sinks.log(1, {"a": 1.0})
    assert list(tmp_path.iterdir()) == []


# Other sinks


def test_tensorboard_reads_back_what_was_logged_and_forgets_what_a_resume_voids(tmp_path, one_rank):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resumed, steps in ((0, (1, 2, 3)), (1, (2,))):
        with make_sinks(tmp_path, _config(tensorboard=True), one_rank) as sinks:
            sinks.resume(resumed)
            for step in steps:
                sinks.log(step, {"train/loss": step + 10.0 * resumed, "text": "skipped", "val/map": torch.tensor(5)})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "val/map"]
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 12.0)]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, one_rank, monkeypatch, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    one_rank.rank = 1  # every rank must refuse, or the others would wait for the main one
    with pytest.raises(ConfigError, match=rf"logger\.{package}=true needs.*pip install 'mltrain-vision\[{package}\]'"):
        make_sinks(tmp_path, _config(**{package: True}), one_rank)


def test_wandb_goes_on_in_the_same_run_offline(tmp_path, one_rank, monkeypatch):
    pytest.importorskip("wandb", reason="needs mltrain-vision[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for resumed in (0, 2):
        with make_sinks(tmp_path, _config(wandb=True), one_rank) as sinks:
            sinks.resume(resumed)
            sinks.log(resumed + 1, {"train/loss": 1.0, "text": "skipped"})
    runs = [folder.name for folder in (tmp_path / "wandb").glob("offline-run-*")]
    assert len({name.split("-", 3)[-1] for name in runs}) == 1


def test_mlflow_goes_on_in_the_same_run(tmp_path, one_rank, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mltrain-vision[mlflow]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for resumed in (0, 2):
        with make_sinks(tmp_path, _config(mlflow=True), one_rank) as sinks:
            sinks.resume(resumed)
            sinks.log(resumed + 1, {"train/loss": 1.0 + resumed, "val/P@3": 2.0})
    client = mlflow.tracking.MlflowClient(tracking_uri=(tmp_path / "mlruns").resolve().as_uri())
    runs = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert len(runs) == 1
    history = client.get_metric_history(runs[0].info.run_id, "train/loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 1.0), (3, 3.0)]
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.params["loss.gamma_neg"] == "4.0"


class _Recorder:
    """Stand-in for a module or client: records calls, and returns itself."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            return self

        return call


SERVICE = {"entity": "team", "group": "losses", "tags": ["a", "b"], "run_name": "mine"}
FINAL = FinalRecord(
    7, {"val/map": 50.0}, [["class", "ap"], ["cat", 40.0], ["dog", 60.0]], [("a b.jpg", Image.new("RGB", (4, 4)))]
)


def _with_service(monkeypatch, tmp_path, one_rank, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    sinks = make_sinks(tmp_path, _config(**{package: True}, **SERVICE), one_rank)
    sinks.final = lambda result, evaluation: FINAL
    return sinks


def test_wandb_gets_group_tags_and_tables_with_pictures(tmp_path, one_rank, monkeypatch):
    module, run = _Recorder(), _Recorder()
    module.init = lambda **options: module.calls.append(("init", (), options)) or run
    module.Table = lambda **options: ("table", options)
    module.Image = lambda picture, caption: ("image", picture.size, caption)
    run.summary = _Recorder()
    monkeypatch.setitem(sys.modules, "wandb", module)
    with _with_service(monkeypatch, tmp_path, one_rank, "wandb") as sinks:
        sinks.resume(0)
        sinks.finish({}, None)
    options = module.calls[0][2]
    assert (options["entity"], options["group"], options["tags"], options["name"]) == (
        "team",
        "losses",
        ["a", "b"],
        "mine",
    )
    assert options["id"].endswith(tmp_path.name) and options["resume"] == "allow"
    (logged,) = [arguments[0] for name, arguments, _ in run.calls if name == "log"]
    assert logged["classes"] == ("table", {"columns": ["class", "ap"], "data": [["cat", 40.0], ["dog", 60.0]]})
    assert logged["predictions"][1]["data"] == [[("image", (4, 4), "a b.jpg"), "a b.jpg"]]
    assert run.summary.calls == [("update", ({"best/val/map": 50.0},), {})]


def test_mlflow_gets_group_tags_and_artifacts(tmp_path, one_rank, monkeypatch):
    client = _Recorder()
    client.info, client.search_runs = types.SimpleNamespace(run_id="r1"), lambda *arguments, **options: []
    tracking, entities = types.ModuleType("mlflow.tracking"), types.ModuleType("mlflow.entities")
    tracking.MlflowClient = lambda tracking_uri: client
    entities.Metric = lambda key, value, time, step: (key, value, step)
    for name, module in (
        ("mlflow", types.ModuleType("mlflow")),
        ("mlflow.tracking", tracking),
        ("mlflow.entities", entities),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    with _with_service(monkeypatch, tmp_path, one_rank, "mlflow") as sinks:
        sinks.resume(0)
        sinks.finish({}, None)
    calls = {name: (arguments, options) for name, arguments, options in client.calls}
    tags = calls["create_run"][1]["tags"]
    assert calls["create_run"][1]["run_name"] == "mine"
    assert {key: tags[key] for key in ("a", "b", "group")} == {"a": "true", "b": "true", "group": "losses"}
    assert calls["log_batch"][1]["metrics"] == [("best/val/map", 50.0, 7)]
    assert calls["log_text"][0][1:] == ("class,ap\r\ncat,40.0\r\ndog,60.0\r\n", "classes.csv")
    assert calls["log_image"][1] == {"artifact_file": "predictions/00_a_b.png"}


def test_a_service_that_fails_at_the_end_is_named_and_the_run_goes_on(tmp_path, one_rank, monkeypatch, caplog):
    module = _Recorder()
    module.Table = lambda **options: 1 / 0
    monkeypatch.setitem(sys.modules, "wandb", module)
    with _with_service(monkeypatch, tmp_path, one_rank, "wandb") as sinks:
        sinks.resume(0)
        sinks.finish({}, None)
    assert "wandb has no tables and pictures of this run: ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("word", ["logger.group=x", "logger.entity=x", "logger.tags=[a]", "logger.run_name=x"])
def test_an_option_of_a_service_needs_the_service(word):
    with pytest.raises(ConfigError, match=r"needs logger\.wandb=true"):
        load([word, *(["logger.mlflow=true"] if "entity" in word else [])])
    load([word, "logger.wandb=true"])


def test_every_sink_learns_whether_the_run_failed():
    class Spy:
        def close(self, failed):
            self.failed = failed

    spies = [Spy(), Spy()]
    with pytest.raises(ZeroDivisionError), Sinks(spies):
        raise ZeroDivisionError
    assert [spy.failed for spy in spies] == [True, True]
    with Sinks(spies):
        pass
    assert [spy.failed for spy in spies] == [False, False]


def test_tensorboard_reads_starts_within_one_second_in_their_order(tmp_path, monkeypatch):
    """The counter in a file's name has no leading zeros, so that the tenth file sorts before the ninth."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    count = itertools.count(9)
    monkeypatch.setattr(event_file_writer._global_uid, "get", lambda: next(count))
    for start in (0, 3):
        board = TensorBoard(tmp_path)
        board.resume(start)
        for step in range(start + 1, start + 4):
            board.log(step, {"loss": step / 10})
        board.close(failed=False)
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_that_was_never_opened_closes(tmp_path):
    TensorBoard(tmp_path / "events").close(failed=True)
    assert list(tmp_path.iterdir()) == [], "nothing is written for a run that never began"


def test_the_environment_names_versions_hardware_and_command(tmp_path):
    save_environment(tmp_path)
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["cpu"]["cores"] >= 1
    assert isinstance(found["command"], list)
    assert found["git"] is None or len(found["git"]["commit"]) == 40


# Progress


def _epochs(progress, caplog, epochs=2):
    with caplog.at_level(logging.INFO), progress:
        for epoch in range(epochs):
            progress.start_epoch(epoch, epochs, 3, 0, 3 * (epochs - epoch))
            for step in range(3):
                progress.update(loss=torch.tensor(0.125 * (step + 1)), lr=1e-4, images=8, waited=0.0)
            progress.end_epoch(f"epoch {epoch + 1}: mAP 50.00")


def test_lines_tell_loss_rate_speed_and_time_left(caplog):
    _epochs(Progress(mode="lines", line_seconds=0.0), caplog)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 8
    assert lines[1].startswith("epoch 1/2  step 2/3  loss 0.25  lr 1.00e-04  ")
    assert all(part in lines[1] for part in (" img/s", "data 0%", "eta 0:00"))
    assert lines[3].startswith("epoch 1: mAP 50.00")


def test_lines_come_at_their_cadence_and_a_loss_is_read_only_when_shown(caplog):
    class Unreadable(torch.Tensor):
        def __float__(self):
            raise AssertionError("read")

    progress = Progress(mode="lines", line_seconds=60.0)
    with caplog.at_level(logging.INFO), progress:
        progress.start_epoch(0, 1, 2, 0, 2)
        progress.update(loss=torch.tensor(1.0).as_subclass(Unreadable), lr=1e-4, images=8, waited=0.0)
        progress.end_epoch("done")
    assert [record.getMessage().split("  ")[0] for record in caplog.records] == ["done"]


@pytest.mark.parametrize(
    "options", [{"mode": "off"}, {"mode": "lines", "enabled": False}, {"mode": "bar", "enabled": False}]
)
def test_off_and_other_ranks_show_nothing_but_still_measure(options, caplog, capsys):
    progress = Progress(**options)
    _epochs(progress, caplog)
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")
    assert progress.mean_rate() > 0
    assert set(progress.rates()) == {"train/images_per_second", "train/data_wait"}


def test_a_bar_goes_to_stderr_and_log_lines_stand_above_it(capsys, caplog, monkeypatch):
    monkeypatch.setattr("mltrain.progress.BAR_SECONDS", 0.0)
    progress = Progress(mode="bar")
    progress._every = 0.0
    _epochs(progress, caplog)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/2" in err
    assert "loss 0.375  lr 1.00e-04" in err
    assert [record.getMessage()[:8] for record in caplog.records] == ["epoch 1:", "epoch 2:"]


def test_auto_is_lines_where_stderr_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert Progress().mode == "lines"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert Progress().mode == "bar"


def test_rates_are_those_since_the_last_call(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    progress = Progress(mode="off")
    progress.start_epoch(0, 1, 10, 0, 10)
    for images, seconds in ((10, 1.0), (10, 1.0), (40, 1.0)):
        clock[0] += seconds
        progress.update(loss=0.0, lr=0.0, images=images, waited=0.25)
        if images == 10 and clock[0] == 2.0:
            assert progress.rates() == {"train/images_per_second": 10.0, "train/data_wait": 0.25}
    assert progress.rates() == {"train/images_per_second": 40.0, "train/data_wait": 0.25}
    assert progress.mean_rate() == 20.0
    assert progress._eta() == pytest.approx(7.0)
    clock[0] += 100.0  # an evaluation
    progress.start_epoch(1, 2, 10, 0, 10)
    clock[0] += 1.0
    progress.update(loss=0.0, lr=0.0, images=20, waited=0.0)
    assert progress.mean_rate() == 20.0


def test_time_left_reads_as_a_clock():
    assert [duration(s) for s in (0.4, 61, 3661)] == ["0:00", "1:01", "1:01:01"]
