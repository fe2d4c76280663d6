"""The run id follows what the result depends on, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mltrain.config.compose import load, load_run
from mltrain.config.identity import default_name, run_folder, run_id
from mltrain.config.overrides import CONFIGS
from mltrain.config.schema import DEFAULTS_FOR_OLDER_RUNS

BASE = load()


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "rerun=true",
        "data.num_workers=3",
        "data.cache_dir=/elsewhere",
        "logger.tensorboard=false",
        "logger.every_steps=1",
        "paths.runs=/elsewhere",
        "paths.data=/elsewhere",
        "runner.checkpoint_every_minutes=1",
        "runner.eval_batch_size=7",
        "optimizer.lr=0.01",
        "optimizer.lr=1e-2",
        "seed=0",
        "loss=asl",
    ],
)
def test_what_cannot_change_the_result_does_not_change_the_id(override: str) -> None:
    assert run_id(load([override])) == run_id(BASE)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "runner.epochs=3",
        "runner.batch_size=8",
        "optimizer.lr=2e-4",
        "loss.gamma_neg=3",
        "loss=bce",
        "ema=none",
        "dataset.root=/elsewhere",
        "runner.amp=fp16",
        "data.cache=true",
    ],
)
def test_what_can_change_the_result_changes_the_id(override: str) -> None:
    assert run_id(load([override])) != run_id(BASE)


def test_the_id_does_not_depend_on_the_order_of_keys_or_the_process() -> None:
    turned = OmegaConf.create({key: BASE[key] for key in reversed(list(BASE))})
    assert run_id(turned) == run_id(BASE)
    code = "from mltrain.config import load; from mltrain.config.identity import run_id; print(run_id(load()), end='')"
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(CONFIGS.parent)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout == run_id(BASE)


def test_a_saved_config_has_the_same_id(tmp_path: Path) -> None:
    OmegaConf.save(BASE, tmp_path / "config.yaml")
    saved = OmegaConf.load(tmp_path / "config.yaml")
    assert isinstance(saved, type(BASE))
    assert run_id(saved) == run_id(BASE)


def test_the_folder_is_dataset_name_id() -> None:
    assert run_folder(BASE) == Path("runs/shapes/small-gap-asl") / run_id(BASE)
    assert len(run_id(BASE)) == 8
    assert int(run_id(BASE), 16) >= 0
    tree = OmegaConf.to_container(BASE)
    assert isinstance(tree, dict)
    del tree["dataset"]["name"]
    unnamed = OmegaConf.create(tree, flags={"struct": True})
    assert run_folder(unnamed).parts[:3] == ("runs", "shapes", "small-gap-asl"), "the module of a target without a name"


def test_a_config_composed_by_hydra_alone_has_a_name_too() -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        cfg = compose("train", ["head=ml_decoder"])
    assert default_name(cfg).split("-")[1:] == ["ml_decoder", "asl"]
    assert run_folder(cfg).name == run_id(cfg)


@pytest.mark.parametrize("path", DEFAULTS_FOR_OLDER_RUNS)
def test_an_option_that_came_later_exists_and_has_the_value_it_stands_for(path: str) -> None:
    section, _, key = path.partition(".")
    files = (CONFIGS / section).glob("*.yaml") if key else ()
    trees = [OmegaConf.to_container(BASE), *({section: yaml.safe_load(file.read_text())} for file in files)]
    values = [tree[section][key] if key else tree[section] for tree in trees if not key or key in tree[section]]
    assert DEFAULTS_FOR_OLDER_RUNS[path] in values


@pytest.mark.parametrize(
    "override", ["partial=none", "metrics.min_positives=1", "partial=drop", "metrics.min_positives=2"]
)
def test_an_option_that_came_later_changes_the_id_only_where_it_is_used(override: str) -> None:
    tree = OmegaConf.to_container(BASE)
    assert isinstance(tree, dict)
    for path in DEFAULTS_FOR_OLDER_RUNS:
        section, _, key = path.partition(".")
        (tree[section] if key else tree).pop(key or section, None)  # not every component has each
    older = OmegaConf.create(tree)
    assert (run_id(load([override])) == run_id(older)) == ("none" in override or override.endswith("=1"))


def test_a_run_from_before_an_option_came_can_be_loaded(tmp_path: Path) -> None:
    tree = OmegaConf.to_container(BASE)
    assert isinstance(tree, dict)
    for path in DEFAULTS_FOR_OLDER_RUNS:
        section, _, key = path.partition(".")
        (tree[section] if key else tree).pop(key or section, None)  # not every component has each
    OmegaConf.save(OmegaConf.create(tree), tmp_path / "config.yaml")
    loaded = load_run(tmp_path)
    assert loaded.partial == {"_target_": None}
    assert run_id(loaded) == run_id(BASE)


def test_ids_of_earlier_commits_stay() -> None:
    """run_ids.json was written by commit 31a3634: an id that changes would lose the runs people have."""
    known = json.loads((Path(__file__).parent / "run_ids.json").read_text(encoding="utf-8"))
    assert len(known) > 100
    assert {words: run_id(load(words.split())) for words in known} == known
