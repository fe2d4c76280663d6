"""Tests of what is printed instead of a run: configs, how they were put together, and what a command would do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mltrain.config.compose import load
from mltrain.config.identity import run_folder
from tests.commands.conftest import Call


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_cfg_shows_every_job_of_a_sweep(call: Call) -> None:
    code, out, _ = call("train", "-m", "loss=bce,asl", "seed=3", "--cfg", "job", "--package", "loss", "--resolve")
    assert code == 0
    first, second = out.split("---\n")
    assert first.startswith("# job 1 of 2: loss=bce\n") and second.startswith("# job 2 of 2: loss=asl\n")
    assert yaml.safe_load(first)["_target_"] == "mltrain.losses.bce.BinaryCrossEntropy"
    assert yaml.safe_load(second)["gamma_neg"] == 4.0
    assert not list(Path().iterdir()), "nothing is written"


def test_cfg_shows_hydras_own_settings(call: Call) -> None:
    code, out, _ = call("train", "--cfg", "hydra", "-p", "hydra.sweep")
    assert code == 0 and yaml.safe_load(out)["dir"].startswith("${paths.runs}/multirun/")
    code, out, _ = call("train", "--cfg", "all", "seed=7")
    shown = yaml.safe_load(out)
    assert code == 0 and shown["seed"] == 7 and "launcher" in shown["hydra"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--info", "searchpath", "--config-dir", "mine"], "mine"),
        (["--info", "loss=bce"], "loss/bce"),
    ],
)
def test_info_says_how_a_config_was_put_together(call: Call, words: list[str], expected: str) -> None:
    Path("mine").mkdir()
    code, out, err = call("train", *words)
    assert code == 0 and expected in out, err


def test_a_dry_run_lists_jobs_and_what_is_done(call: Call) -> None:
    base = ["dataset=shapes", "paths.runs=results"]
    done, unfinished = (run_folder(load([*base, f"seed={seed}"])) for seed in (0, 1))
    for folder in (done, unfinished):
        folder.mkdir(parents=True)
        OmegaConf.save(load(base), folder / "config.yaml")
    (done / "result.json").write_text(json.dumps({"val": {"map": 1.0}, "best": {"weights": "val"}}))
    (unfinished / "last.pt").write_bytes(b"")
    code, out, err = call("train", "-m", *base, "seed=0,1,2", "--dry-run")
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split()[1:3] for line in lines[2:5]] == [
        ["seed=0", "finished"],
        ["seed=1", "resumes:"],
        ["seed=2", "new"],
    ]
    assert str(done) in lines[2]
    assert lines[-1] == "3 jobs: 1 finished, 1 resumes, 1 new; nothing was run"
    assert call("train", *base, "seed=2", "--dry-run")[1].splitlines()[-1] == "1 job: 1 new; nothing was run"


def test_an_error_in_a_file_of_config_dir_names_that_file(call: Call) -> None:
    Path("mine/loss").mkdir(parents=True)
    text = "_target_: mltrain.losses.AsymmetricLoss\ngamma_neg: four\n"
    for name in ("mine", "asl"):
        Path(f"mine/loss/{name}.yaml").write_text(text, encoding="utf-8")
    code, _, err = call("train", "loss=mine", "--config-dir", "mine", "--cfg", "job")
    assert code == 2 and "(from mine/loss/mine.yaml, line 2)" in err
    code, _, err = call("train", "loss=asl", "--config-dir", "mine", "--cfg", "job")
    assert code == 2 and "configs/loss/asl.yaml comes first and hides mine/loss/asl.yaml; rename yours" in err


def test_another_folder_and_name_of_the_main_config(call: Call) -> None:
    Path("own/loss").mkdir(parents=True)
    Path("own/main.yaml").write_text("defaults: [base, runner: default, _self_]\nseed: 5\n", encoding="utf-8")
    code, _, err = call("train", "-cp", "own", "-cn", "main", "--cfg", "job")
    assert code == 2 and "head: is missing; choose one with head=OPTION" in err


def test_a_debug_preset_has_a_folder_of_its_own() -> None:
    plain, tried = load([]), load(["debug=overfit"])
    assert tried.debug == "overfit" and run_folder(tried).parts[:2] == ("runs", "debug")
    assert run_folder(plain) == run_folder(load(["debug=none"])), "none is the training as it is"
    assert load(["debug=overfit", "data.limit=5"]).data.limit == 5
