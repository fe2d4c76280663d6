"""A run leaves its files behind, and evaluating it again gives the same numbers."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mltrain.config.build import load
from mltrain.config.identity import run_folder
from mltrain.engine import distributed
from mltrain.engine.evaluator import Inference, evaluate
from mltrain.metrics import average_precision
from mltrain.runs.assemble import build_parts, eval_loader, summarizer
from mltrain.runs.train import train
from tests.promises.runs import ROOT, command, execute, fit, state


def test_run_folder_is_complete_and_evaluate_reproduces_its_numbers(overrides: list[str]) -> None:
    options = [item for item in overrides if item != "logger.tensorboard=false"]
    folder = fit([*options, "metrics.save_predictions=true", "head=ml_decoder", "head.dim=32", "head.num_heads=2"])
    for name in ("config.yaml", "environment.json", "stats.json", "metrics.jsonl", "last.pt", "best.pt"):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").iterdir())
    result = json.loads((folder / "result.json").read_text())
    assert {"val", "ema", "config_id", "seconds", "best", "last", "dataset", "seed"} <= result.keys()
    assert {"map", "map_tail", "micro_ap", "OF1", "CF1", "OF1@3", "words_F1", "words_N+"} <= result["val"].keys()
    assert result["config_id"] == folder.name

    evaluated = execute([sys.executable, str(ROOT / "tools" / "evaluate.py"), str(folder)])
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["val"] == pytest.approx(result["val"], abs=1e-6)
    assert again["ema"] == pytest.approx(result["ema"], abs=1e-6)
    assert f"{result['val']['map']:.2f}" in evaluated.stderr

    saved = np.load(folder / "predictions.npz")
    ap = average_precision(torch.from_numpy(saved["logits_val"]), torch.from_numpy(saved["targets"])).numpy()
    assert 100 * np.nanmean(ap) == pytest.approx(result["val"]["map"], abs=1e-6)
    with (folder / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == saved["class_names"].tolist()
    shown = np.array([float(row["val_ap"] or "nan") for row in rows])
    np.testing.assert_allclose(shown, 100 * ap, atol=1e-4)
    stats = json.loads((folder / "stats.json").read_text())
    assert [int(row["train_positives"]) for row in rows] == stats["positives"]


def test_each_run_names_the_best_of_raw_and_ema_weights(overrides: list[str]) -> None:
    folder = fit([*overrides, "runner.epochs=3", "ema.decay=0.5"])
    history = torch.load(folder / "last.pt", weights_only=True)["history"]
    scores = {(record["epoch"], name): record[name]["map"] for record in history for name in ("val", "ema")}
    best = json.loads((folder / "result.json").read_text())["best"]
    assert best["map"] == max(scores.values()) == scores[best["epoch"], best["weights"]]
    assert len(set(scores.values())) > 2


@pytest.mark.slow
def test_sweep_runs_every_combination_and_skips_finished_ones(overrides: list[str], tmp_path: Path) -> None:
    sweep = command("-m", *overrides, "runner.max_steps=1", "loss=bce,asl", "head=gap,ml_decoder", "seed=0,1")
    execute(sweep)
    results = list((tmp_path / "runs").rglob("result.json"))
    found = {(path.parts[-3], json.loads(path.read_text())["seed"]) for path in results}
    assert len(results) == len(found) == 8
    assert {name for name, _ in found} == {
        f"timm-{head}-{loss}" for head in ("gap", "ml_decoder") for loss in ("bce", "asl")
    }
    times = {path: path.stat().st_mtime_ns for path in results}
    again = execute(sweep)
    assert "sweep: 8 finished before" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in results} == times


def test_coco_files_train_through_the_whole_program(shared_data: Path, tmp_path: Path) -> None:
    folder = fit(
        [
            "dataset=coco2017",
            f"dataset.root={shared_data}/coco_tiny",
            "model=timm",
            "model.name=test_resnet",
            "model.pretrained=false",
            "model.image_size=32",
            "runner.batch_size=16",
            "runner.epochs=1",
            "runner.device=cpu",
            "data.num_workers=0",
            "logger.progress=off",
            f"paths.runs={tmp_path}",
        ]
    )
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 5
    assert 0 < result["val"]["map"] <= 100


@pytest.mark.slow
def test_real_coco_images_can_be_learnt_by_heart(shared_data: Path, tmp_path: Path) -> None:
    cfg = load(
        [
            "dataset=coco2017",
            f"dataset.root={shared_data}/coco_tiny",
            "model=small",
            "augment=none",
            "optimizer=scratch",
            "optimizer.weight_decay=0",
            "loss=bce",
            "ema=none",
            "runner.batch_size=20",
            "runner.epochs=60",
            "runner.evaluate_every=60",
            "runner.device=cpu",
            "data.num_workers=1",
            "logger.progress=off",
            "logger.tensorboard=false",
            f"paths.runs={tmp_path}",
        ]
    )
    train(cfg)
    with distributed.start("cpu") as dist:
        splits, stats, model = build_parts(cfg, dist)
        model.load_state_dict(state(run_folder(cfg))["model"])
        loader = eval_loader(cfg, dist, splits.train, model)
        evaluation = evaluate({"val": model}, loader, summarizer(cfg, stats), Inference(dist))
        loader.close()
    assert evaluation is not None
    assert len(evaluation.predictions.targets) == 80
    assert evaluation.summaries["val"].scalars["map"] > 95
