"""Early stopping, kept checkpoints and extensions of runs: the same bits whether a run is stopped or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mltrain.config.build import load, load_run
from mltrain.config.identity import run_folder
from mltrain.engine import kept
from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.run_folder import RunFolder
from mltrain.engine.runner import Runner
from mltrain.errors import ConfigError, Interrupted, MltrainError
from mltrain.runs.train import train
from tests.promises.runs import TINY, assert_same, execute, records, state, stop_at, torchrun
from tests.promises.test_killed import Killed, killed_at

NO_BETTER = ["runner.epochs=6", "runner.patience=2", "runner.min_delta=100"]
"""No figure rises by 100 points, so the run ends after three evaluations."""


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A folder with the config that the runs change: to read it takes a tenth of composing it."""
    folder = tmp_path_factory.mktemp("frame")
    small = ["dataset.num_train=32", "runner.batch_size=16"]  # 2 steps an epoch
    cfg = load([*TINY, *small, f"paths.data={data_folder}"])
    cfg.schedule.epochs = "${runner.epochs}"  # as the file of the schedule has it
    OmegaConf.save(cfg, folder / "config.yaml")
    return folder


@pytest.fixture
def changed(frame: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    return lambda *options: load_run(frame, [f"paths.runs={tmp_path}/runs", *options])


@pytest.fixture
def fit(changed: Callable[..., DictConfig]) -> Callable[..., Path]:
    """Train with these changes, and return the run folder."""

    def fit(*options: str) -> Path:
        cfg = changed(*options)
        train(cfg)
        return run_folder(cfg)

    return fit


@pytest.fixture(scope="module")
def old_run(frame: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs."""
    cfg = load_run(frame, ["runner.epochs=2", f"paths.runs={tmp_path_factory.mktemp('old')}"])
    train(cfg)
    return run_folder(cfg)


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plot takes longer than a run."""
    monkeypatch.setattr("mltrain.report.plots.per_class_ap_plot", lambda *_, **__: None)


def said(caplog: pytest.LogCaptureFixture, part: str) -> str:
    return next(line for line in caplog.messages if part in line)


def test_patience_ends_a_run_and_a_run_stopped_on_the_way_ends_at_the_same_epoch(
    fit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = fit(*NO_BETTER, f"paths.runs={tmp_path}/whole")
    result = RunFolder(whole).result
    assert result["epochs"] == 3 and result["steps"] == 6
    why = "runner.patience=2 ended it after epoch 3 of 6: no validation mAP higher by 100 since epoch 1"
    assert result["ended_early"] == why
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 3)
        fit(*NO_BETTER)
    with monkeypatch.context() as patch, pytest.raises(Killed):  # after its patience ran out
        killed_at(patch, Runner, "_finish", lambda *_: True)
        fit(*NO_BETTER)
    resumed = fit(*NO_BETTER)
    assert_same(state(resumed), state(whole))
    assert records(resumed) == records(whole)
    with caplog.at_level("INFO", "mltrain"):
        assert fit(*NO_BETTER) == resumed
    assert said(caplog, "finished before") and why in caplog.messages


def test_kept_epochs_of_a_stopped_run_are_those_of_a_whole_one(
    fit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["runner.epochs=4", "runner.keep_best=2", "runner.keep_last=1"]
    whole = fit(*options, f"paths.runs={tmp_path}/whole")
    files = sorted(file.name for file in whole.glob("epoch-*.pt"))
    assert 2 <= len(files) <= 3 and "epoch-0004.pt" in files
    by_hand = kept.figures(state(whole)["history"], "map")
    best = sorted(by_hand, key=lambda epoch: (-by_hand[epoch], epoch))[:2]
    assert files == sorted({f"epoch-{epoch:04d}.pt" for epoch in [*best, 4]})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        # The third epoch has its file, and last.pt does not know of it.
        at_third = {"step": 6}.items()
        killed_at(patch, CheckpointFolder, "save", lambda _, c, name: name == "last" and at_third <= c.items())
        fit(*options)
    resumed = fit(*options)
    assert sorted(file.name for file in resumed.glob("epoch-*.pt")) == files
    for name in ("best", *(file.removesuffix(".pt") for file in files)):
        assert_same(state(resumed, name), state(whole, name))


def test_an_extension_whose_schedule_has_epochs_left_is_the_longer_run(
    fit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["schedule.epochs=5", "runner.keep_best=2"]
    longer = fit(*options, "runner.epochs=4", f"paths.runs={tmp_path}/longer")
    old = fit(*options, "runner.epochs=2")
    extended = [*options, "runner.epochs=4", f"runner.extend={old}"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 5)
        fit(*extended)
    shutil.move(old, tmp_path / "away")  # once begun, the extension needs it no more
    with caplog.at_level("INFO", "mltrain"):
        new = fit(*extended)
    assert_same(state(new), state(longer))
    assert_same(state(new, "best"), state(longer, "best"))
    first_end = next(record for record in records(new) if record["step"] == 4)
    assert "train/loss" in first_end, "the last step of the old run, which a run records always"
    assert [record for record in records(new) if record != first_end] == records(longer)
    assert RunFolder(new).result["epochs"] == 4
    assert "resumed at step 6 of 8" in caplog.text


def test_a_schedule_that_has_ended_restarts_over_the_added_epochs(
    fit: Callable[..., Path], old_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = old_run
    with caplog.at_level("INFO", "mltrain"):
        # 33 images give the same 2 steps
        options = ["runner.epochs=5", f"runner.extend={old}", "optimizer.weight_decay=0.5", "dataset.num_train=33"]
        new = fit(*options)
    line = said(caplog, "extends")
    assert line.startswith(f"extends {old} from epoch 2 to 5; the schedule restarts over the added epochs: ")
    assert "learning rate 0.0004 at first" in line
    settings = said(caplog, "other settings than there")
    assert settings.endswith("optimizer.weight_decay=0.5 (was 0.01), dataset.num_train=33 (was 32)")
    groups = state(new)["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.0, 0.5}, "the new options of the optimizer count"
    assert json.loads((new / "extended.json").read_text()) == {"run": str(old), "epochs": 2, "schedule_start": 2}
    epochs = [record["epoch"] for record in RunFolder(new).epochs]
    assert epochs == [1, 2, 3, 4, 5]
    assert said(caplog, "other data than there: train: 32 images then, 33 now")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("runner.epochs=2", r"has 2 epochs, and runner.epochs counts them too; runner.epochs=12 adds 10"),
        ("model.name=test_vit", "the checkpoint does not fit the model of the config"),
        ("runner.batch_size=8", "took 4 steps in 2 epochs, and an epoch of this config has 4 steps"),
        ("model.freeze_stages=1", "optimizer: the parameters that .* model.freeze_stages"),
        ("metrics.best=CF1", "metrics.best: .* chose its best epoch by map"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    fit: Callable[..., Path], old_run: Path, monkeypatch: pytest.MonkeyPatch, option: str, message: str
) -> None:
    monkeypatch.setattr("mltrain.engine.step.TrainStep.__call__", None)
    with pytest.raises(MltrainError, match=message):
        fit("runner.epochs=3", f"runner.extend={old_run}", option)


def test_another_head_optimizer_or_average_is_refused(changed: Callable[..., DictConfig], old_run: Path) -> None:
    other = load(["head=csra", "optimizer=sgd", "ema=none"])
    for section, message in (
        ("head", r"head\._target_=\S*CSRA: \S*GlobalAveragePool in "),
        ("optimizer", r"optimizer\._target_=\S*sgd: \S*adamw in .*model\.checkpoint=\S+ starts a run"),
        ("ema", "ema: .* an average of the weights and this config none"),
    ):
        cfg = changed("runner.epochs=3", f"runner.extend={old_run}")
        cfg[section] = other[section]
        with pytest.raises(ConfigError, match=message):
            train(cfg)


def test_a_run_that_has_not_finished_is_not_extended(fit: Callable[..., Path], old_run: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(old_run, unfinished)
    (unfinished / "result.json").unlink()
    with pytest.raises(ConfigError, match="has not finished; repeat its command first"):
        fit("runner.epochs=3", f"runner.extend={unfinished}")


@pytest.mark.slow
def test_an_extension_whose_checkpoints_are_damaged_begins_anew_with_rerun(
    fit: Callable[..., Path], old_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["runner.epochs=3", f"runner.extend={old_run}", "rerun=true"]
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 4)
        fit(*words)
    folder = next((tmp_path / "runs").rglob("last.pt")).parent
    for name in ("last.pt", "previous.pt"):
        (folder / name).write_bytes(b"")
    assert [record["epoch"] for record in RunFolder(fit(*words)).epochs] == [1, 2, 3]


@pytest.mark.parametrize("option", ["runner.min_delta=1", "runner.extend_lr=restart"])
def test_an_option_that_does_nothing_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=r"does nothing without runner\.(patience|extend)"):
        load([option])


@pytest.mark.slow
def test_two_ranks_end_early_together_and_are_extended(overrides: list[str], tmp_path: Path) -> None:
    small = ["dataset.num_train=32", "runner.batch_size=16", "runner.keep_best=2", "runner.keep_last=1"]
    words = [*overrides, *small, *NO_BETTER]
    execute(torchrun(*words))
    old = next((tmp_path / "runs").rglob("result.json")).parent
    assert RunFolder(old).result["epochs"] == 3
    assert "runner.patience=2 ended it after epoch 3 of 6" in execute(torchrun(*words)).stderr
    longer = ["runner.epochs=8", f"runner.extend={old}", f"paths.runs={tmp_path}/longer"]
    execute(torchrun(*words, *longer))
    new = next((tmp_path / "longer").rglob("result.json")).parent
    assert RunFolder(new).result["epochs"] == 5, "patience counts the added epochs alone"
    assert (new / "epoch-0005.pt").exists()
