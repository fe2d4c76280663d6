"""Mistakes on the command line: one clear message, exit code 2, no traceback, no output."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mltrain.cli import COMMANDS
from mltrain.transcript import typed as typed_command
from tests.commands.conftest import Call
from tests.promises.runs import TINY
from tests.report.run_folders import write_run


def refused(call: Call, *words: object) -> str:
    code, out, err = call(*words)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "trian: there is no such command; did you mean mltrain train?\nallowed: train, evaluate"),
        (["dataset-stats"], "did you mean mltrain dataset_stats?"),
        (["train", "--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["train", "--config-dir"], "--config-dir: expected one argument"),
        (["train", "--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["train", "--info", "defauls"], "there is no such topic\nallowed: all, defaults"),
        (["train", "--package", "runner"], "is for --cfg: --cfg job --package runner"),
        (["train", "--cfg", "job", "-p", "runner.epoch"], "there is no epoch in runner; did you mean epochs?"),
        (["train", "--config-path", "."], "this must be a whole folder of configs"),
        (["find_lr", "--dry-run"], "--dry-run is for mltrain train"),
        (["find_lr", "hydra.run.dir=x"], "set paths.runs=DIR and name=NAME"),
        (["train", "--lr=3"], "did you mean optimizer.lr=3?"),
        (["train", "--resume"], "repeat the command without it"),
        (["train", "data.batch_size=16"], "did you mean runner.batch_size?"),
        (["train", "logger=wandb"], "did you mean logger.wandb=true?"),
        (["train", "+experiment=coco_asl"], "did you mean experiment=coco_asl_tresnet_l?"),
        (["results", "baselin=loss=bce"], "there is no baselin; did you mean baseline=VALUE?"),
        (
            ["train", "-m", "loss=bce,asl", "loss.gamma_neg=2"],
            "the job loss=bce loss.gamma_neg=2 has 1 problem in the config:",
        ),
        (
            ["train", "--epochs", "3"],
            "options are written KEY=VALUE, without dashes: did you mean runner.epochs=3?",
        ),
        (["train", "seed=0,1"], "for one run each add -m"),
        (["find_lr", "hydra.sweep.dir=x"], "Hydra's own settings are for sweeps (-m)"),
        (["train", "-m", "seed=0,1", "hydra.lancher.n_jobs=2"], "no hydra.lancher; did you mean hydra.launcher?"),
        (["train", "-m", "seed=0,1", "hydra.sweep.dri=x"], "did you mean hydra.sweep.dir?\n      allowed: dir, subdir"),
        (["find_lr", "steps=many"], "steps=many: must be int of at least 20"),
        (["find_lr", "steps=3"], "steps=3: must be int of at least 20"),
        (["find_lr", "start=1", "end=0.1"], "start=1.0 must be below end=0.1"),
        (["find_lr", "stesp=30"], "did you mean steps=VALUE?"),
        (["inspect_batch", "out=x.jpg"], "out=x.jpg: the name must end in .png"),
        (["browse_dataset", "pick=some"], "pick=some: must be classes | random | first"),
        (["browse_dataset", "out=x.png"], "the name must end in .html or .htm"),
        (["dataset_stats", "head_min=5"], "medium_min=20 must not be above head_min=5"),
        (["dataset_stats", "runner.epochs=3"], "there is no runner.epochs"),
        (["prepare_data", "out=x"], "add shrink=SIZE"),
        (["prepare_data", "again=true", "download=false"], "choose one"),
        (["build_label_embeddings"], "vectors: name a file of word vectors"),
        (["build_label_embeddings", "out=x.csv"], "out=x.csv: the name must end in .npz"),
        (["create_longtail_dataset", "min=9", "max=3"], "min=9 is above max=3"),
        (["import_longtail_split", "folder"], "FOLDER out=DIR"),
        (["convert_checkpoint", "overwrite=true"], "name one checkpoint, then KEY=VALUE (found 0)"),
        (["convert_checkpoint", "zoo:nothing"], "there is no such published model"),
        (["evaluate"], "name one run folder, then KEY=VALUE changes (found 0)"),
        (["evaluate", "nowhere"], "nowhere: no run folder"),
        (["predict", "RUN"], "name a run folder and then images (found 1 name)"),
        (["find_label_errors", "nowhere"], "nowhere: no such folder; name run folders"),
        (["find_label_errors", "RUN", "onyl=wrong"], "did you mean only=VALUE?"),
        (["find_label_errors", "RUN", "out=x.txt"], "out=x.txt: the name must end in .csv"),
        (["report", "nowhere"], "nowhere: no such folder"),
        (["report", "loss=asl"], "name a run folder, or a folder of runs"),
        (["results", "nowhere"], "nowhere: no such folder"),
        (["results", "--format", "html"], "format=html: must be terminal | markdown | csv"),
        (["results", "--bseline", "loss=bce"], "did you mean baseline=loss=bce?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_message(
    words: list[str], message: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(call, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_only_training_takes_a_sweep(name: str, call: Call) -> None:
    assert "-m is for mltrain train" in refused(call, name, "-m", "seed=0,1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "tune_folds=3"], "tune_folds=3: nothing is tuned"),
        (["evaluate", "tune=thresold"], "did you mean tune=threshold?"),
        (["evaluate", "tune=off,threshold"], "one value at a time"),
        (["evaluate", "model=resnet50"], "a finished run keeps its model"),
        (["tune_thresholds", "precision=0.9", "recall=0.8"], "recall"),
        (["tune_thresholds", "per=all", "min_positives=3"], "with per=all there is one threshold for all classes"),
        (["tune_thresholds", "recall=2"], "recall=2: must be float | null from 0 to 1"),
        (["export", "out=model.bin"], "model.bin"),
        (["export", "input=int8"], "input=int8: must be uint8 | float | normalised"),
        (["push", "private=true"], "add repo=OWNER/NAME"),
        (["report", "each=true"], "each=true is for the comparison of several runs"),
        (["report", "loss=asl"], "loss=asl: filters are for several runs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_about_a_run_is_one_message(words: list[str], message: str, call: Call, run: Path) -> None:
    before = sorted(run.iterdir())
    assert message in refused(call, words[0], run, *words[1:])
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "threshold=0.5", "thresholds=t.json"], "thresholds=t.json and threshold=0.5: choose one of them"),
        (["predict", "topk=0"], "topk=0: must be int | null of at least 1"),
        (["explain", "classes=[a]", "topk=2"], "leave out threshold and topk"),
        (["explain", "classes=[ccircle]"], "classes=ccircle: the run has no such class"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_about_images_is_one_message(
    words: list[str], message: str, call: Call, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.png").touch()
    assert message in refused(call, words[0], run, tmp_path / "a.png", *words[1:])


@pytest.mark.parametrize(
    ("name", "option"),
    [("find_lr", "out"), ("inspect_batch", "out"), ("browse_dataset", "out"), ("dataset_stats", "json")],
)
def test_an_output_that_cannot_be_written_names_its_option(
    name: str, option: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    suffix = {"browse_dataset": "html", "dataset_stats": "json"}.get(name, "png")
    words = ["dataset.num_train=80", "dataset.num_val=8"] if name == "dataset_stats" else TINY
    more = ["steps=20"] if name == "find_lr" else []
    code, _, err = call(name, *words, *more, f"{option}=file/x.{suffix}")
    assert code == 2
    assert f"{option}=file/x.{suffix}: cannot be written: " in err


@pytest.mark.parametrize("name", ["results", "report"])
@pytest.mark.parametrize(
    "baseline",
    [
        ["--baseline", "loss=bce"],
        ["--baseline=loss=bce"],
        ["baseline=loss=bce"],
        ["baseline=loss=bce seed=0"],
        ["baseline='loss=bce seed=0'"],
        ["--baseline", "loss=bce", "--baseline", "seed=0"],
    ],
    ids=" ".join,
)
def test_a_baseline_is_taken_as_it_is_typed(name: str, baseline: list[str], call: Call, tmp_path: Path) -> None:
    for loss in ("bce", "asl"):
        write_run(tmp_path / "runs", f"loss={loss}")
    out = tmp_path / "out.txt"
    code, _, err = call(name, tmp_path / "runs", *baseline, "resamples=0", f"out={out}")
    assert code == 0, err
    assert "baseline" in out.read_text(encoding="utf-8")


def test_older_dashes_are_still_options(call: Call, run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run.parents[2], tmp_path / "copied")
    assert call("report", copied, "--each", "--resamples", "0").code == 0
    assert len(list(copied.rglob("report.html"))) == 1
    for loss in ("bce", "asl"):
        write_run(tmp_path / "runs", f"loss={loss}")
    orders = []
    for words in (["sort=loss"], ["--sort=-loss"], ["--sort", "loss"], ["sort=-map"], ["--sort=-map"]):
        code, out, err = call("results", tmp_path / "runs", *words)
        assert code == 0, err
        orders.append([line.split()[0] for line in out.splitlines() if line.startswith(("asl", "bce"))])
    assert orders[0] == orders[2] == orders[1][::-1] == ["asl", "bce"]
    assert orders[3] == orders[4]


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/venv/bin/mltrain", "train", "loss=asl"], "mltrain train loss=asl"),
        (["/src/mltrain/__main__.py", "train", "a=b c"], "mltrain train 'a=b c'"),
        (["tools/browse_dataset.py", "split=val"], "mltrain browse_dataset split=val"),
    ],
)
def test_a_command_to_repeat_works_wherever_mltrain_is_installed(
    argv: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert typed_command() == shown
