"""Options that meet in one run: it goes to its end and its figures are whole."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from tests.promises.runs import execute, fit, state, torchrun

COMBINATIONS = [
    ["model.freeze_stages=-1", "head=ml_decoder", "head.dim=32", "head.num_heads=2"],
    ["ema=none", "runner.deterministic=true", "schedule=multistep", "schedule.warmup_steps=2"],
    ["model.name=test_vit", "runner.channels_last=true", "mix=cutmix", "augment=standard", "optimizer=sgd"],
    ["runner.channels_last=false", "runner.clip_grad_norm=1.0", "loss=focal", "loss.reduction=batchmean"],
    ["runner.batch_size=200", "runner.accumulate=3", "data.cache=true"],
    [
        "sampler=class_aware",
        "sampler.epoch_size=32",
        "head=pfc",
        "model.freeze_norm=statistics",
        "model.freeze_stages=1",
    ],
    ["augment=distribution_balanced", "sampler=square_root", "head=pfc", "schedule=multistep", "optimizer=sgd"],
    ["sampler=repeat_factor", "sampler.threshold=0.3", "sampler.epoch_size=50", "data.num_workers=1"],
    ["loss=db", "mix=mixup", "runner.accumulate=2", "runner.amp=bf16"],
    ["head=csra", "head.num_heads=2", "head.prior=0.05", "model.name=test_vit", "runner.amp=bf16"],
    ["head=query2label", "head.ffn_dim=32", "head.num_heads=2", "runner.accumulate=2", "runner.amp=bf16"],
    ["loss=class_balanced", "loss.mode=average_n", "optimizer=sgd"],
    ["runner.amp=bf16", "sampler=uniform", "optimizer=adamw", "schedule=constant", "runner.accumulate=2"],
]


@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda options: options[0])
def test_combination_runs_to_its_end(overrides: list[str], tmp_path: Path, options: list[str]) -> None:
    folder = fit([*overrides, f"data.cache_dir={tmp_path}/cache", *options])
    result = json.loads((folder / "result.json").read_text())
    assert result["epochs"] == 2
    assert {"val"} <= result.keys()
    assert ("ema" in result) == ("ema=none" not in options)
    assert math.isfinite(result["val"]["map"])
    assert all(math.isfinite(record["train_loss"]) for record in state(folder)["history"])


def test_evaluation_every_other_epoch_still_ends_with_one(overrides: list[str]) -> None:
    folder = fit([*overrides, "runner.epochs=3", "runner.evaluate_every=2", "runner.max_steps=13"])
    history = state(folder)["history"]
    assert [(record["epoch"], record["step"], "val" in record) for record in history] == [
        (1, 5, False),
        (2, 10, True),
        (3, 13, True),
    ]
    result = json.loads((folder / "result.json").read_text())
    assert result["last"] == {name: history[-1][name] for name in ("val", "ema")}
    best = next(record for record in history if record["epoch"] == result["best"]["epoch"])
    assert result["best"]["map"] == max(record[name]["map"] for record in history[1:] for name in ("val", "ema"))
    assert best[result["best"]["weights"]]["map"] == result["best"]["map"]


def one_class(folder: Path, *, corrupt: bool = False) -> list[str]:
    """24 images of one class, some verified negatives, some unknown."""
    for k in range(24):
        Image.new("RGB", (40, 30), (10 * k, 100, 255 - 10 * k)).save(folder / f"{k}.png")
    if corrupt:
        (folder / "3.png").write_bytes(b"no image")
    labels = [("a", "!a", "")[k % 3] for k in range(24)]
    rows = [f"{k}.png,{labels[k]},{'train' if k < 16 else 'val'}" for k in range(24)]
    (folder / "labels.csv").write_text("\n".join(["image,labels,split", *rows]) + "\n")
    return [
        "dataset=csv",
        f"dataset.file={folder}/labels.csv",
        "runner.batch_size=4",
        "mix=mixup",
        "loss.reduction=mean",
    ]


@pytest.mark.parametrize(
    "head",
    [
        ["head=gap"],
        ["head=pfc"],
        ["head=ml_decoder", "head.dim=32", "head.num_heads=2"],
        ["head=csra", "head.num_heads=4"],
        ["head=query2label", "head.ffn_dim=32"],
    ],
)
def test_one_partially_labelled_class_trains(overrides: list[str], tmp_path: Path, head: list[str]) -> None:
    kept = [item for item in overrides if not item.startswith("dataset.")]
    result = json.loads((fit([*kept, *one_class(tmp_path), *head]) / "result.json").read_text())
    assert 0 < result["val"]["map"] <= 100
    assert "OF1@3" not in result["val"]


@pytest.mark.slow
def test_two_ranks_with_a_frozen_backbone_accumulate_and_skip_a_corrupt_image(
    overrides: list[str], tmp_path: Path
) -> None:
    kept = [item for item in overrides if not item.startswith("dataset.")]
    options = ["model.freeze_stages=-1", "data.on_corrupt=skip", "runner.accumulate=2", "runner.batch_size=2"]
    execute(torchrun(*kept, *one_class(tmp_path, corrupt=True), *options))
    result = json.loads(next((tmp_path / "runs").rglob("result.json")).read_text())
    assert result["steps"] == 2 * 4
    assert len(result["corrupt_images"]) == 1, "whichever rank met it"
    assert "3.png" in result["corrupt_images"][0]
