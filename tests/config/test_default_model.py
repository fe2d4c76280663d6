"""Photographs are fine-tuned by default; drawn sets, recipes and explicit choices keep their own settings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mltrain.config.compose import load
from mltrain.config.identity import run_folder
from mltrain.optim.schedules import OneCycle
from mltrain.runs.notices import earlier_runs

PHOTOGRAPHS = ("csv", "folder", "list", "coco", "cifar10", "mnist")
CSV = ["dataset=csv", "dataset.file=labels.csv"]


@pytest.mark.parametrize("dataset", PHOTOGRAPHS)
def test_a_set_of_photographs_fine_tunes_pretrained_weights(dataset: str) -> None:
    cfg = load([f"dataset={dataset}"])
    assert (cfg.model.name, cfg.model.pretrained, cfg.model.image_size) == ("mobilenetv2_100", True, None)
    assert cfg.optimizer._target_.endswith("adamw")
    assert (cfg.optimizer.lr, cfg.optimizer.head_lr_multiplier) == (3e-4, 10)
    assert (cfg.runner.epochs, cfg.runner.batch_size, cfg.schedule.epochs) == (15, 32, 15)
    assert cfg.name.startswith("finetune-")


@pytest.mark.parametrize("words", [[], ["dataset=digits"]])
def test_drawn_sets_train_the_small_network(words: list[str]) -> None:
    cfg = load(words)
    assert (cfg.model.name, cfg.optimizer.lr) == ("test_byobnet", 1e-2)
    assert cfg.name.startswith("small-")


def test_what_the_command_line_or_a_recipe_chooses_wins(tmp_path: Path) -> None:
    chosen = load([*CSV, "model=resnet50"])
    settings = (chosen.optimizer.lr, chosen.optimizer.head_lr_multiplier, chosen.runner.epochs, chosen.augment.crop)
    assert chosen.model.name == "resnet50" and settings == (1e-4, 1, 40, "squish"), "as before there was a default"
    backbone = load([*CSV, "model.name=resnet50"])
    assert (backbone.model.name, backbone.optimizer.lr, backbone.runner.epochs) == ("resnet50", 3e-4, 15)
    assert load([*CSV, "optimizer=sgd"]).optimizer.lr == 0.02
    assert load([*CSV, "runner.epochs=3", "augment=asl"]).runner.epochs == 3
    recipe = load(["+experiment=corel5k", "dataset.file=x.csv"])
    assert (recipe.runner.epochs, recipe.optimizer._target_.rpartition(".")[2]) == (6, "adam")
    assert recipe.name.startswith("mobilenetv2_100-")


@pytest.mark.parametrize("images", [100, 240, 1000, 5000])
def test_the_schedule_fits_any_number_of_images(images: int) -> None:
    cfg = load(CSV)
    steps = images // cfg.runner.batch_size
    schedule = OneCycle(steps_per_epoch=steps, epochs=cfg.runner.epochs, pct_start=cfg.schedule.pct_start)
    factors = [schedule.at(step)[0] for step in range(steps * cfg.runner.epochs)]
    peak = factors.index(max(factors))
    assert len(factors) >= 45 and peak >= 8
    assert math.isclose(peak / len(factors), 0.2, abs_tol=0.04)
    assert max(factors) > 0.95 and factors[0] < 0.05 and factors[-1] < 1e-4


def test_runs_of_the_earlier_default_are_named_with_the_word_that_finds_them(tmp_path: Path) -> None:
    words = [*CSV, f"paths.runs={tmp_path}"]
    cfg = load(words)
    assert earlier_runs(cfg, run_folder(cfg)) is None
    old = run_folder(load([*words, "model=small"]))
    assert old.name == "43f3c857", "the run folder of `dataset=csv dataset.file=labels.csv` before"
    old.mkdir(parents=True)
    (old / "config.yaml").write_text("{}")
    said = earlier_runs(cfg, run_folder(cfg))
    assert said is not None and str(old.parent) in said and "model=small" in said
    now = run_folder(cfg)
    now.mkdir(parents=True)
    (now / "config.yaml").write_text("{}")
    assert earlier_runs(cfg, now) is None, "once the new run is there, it is not repeated"
    assert earlier_runs(load([*words, "model=small"]), old) is None
