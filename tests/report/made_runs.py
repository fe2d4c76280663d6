"""Run folders as a training leaves them, made from random numbers in a second."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from PIL import Image

from mltrain.engine.evaluator import Evaluation, Predictions
from mltrain.files import write_json
from mltrain.labels import LabelSet, LabelStats
from mltrain.metrics.single_label import summarize_single_label
from mltrain.metrics.summary import summarize
from mltrain.report.outcome import write_confusion, write_per_class
from mltrain.report.predictions import write_predictions

EVIL = "<script>window.hacked = 1</script>"
"""A class name that must be text wherever it is shown."""

LOSSES = {
    "asl": "mltrain.losses.asl.AsymmetricLoss",
    "bce": "mltrain.losses.bce.BinaryCrossEntropy",
    "focal": "mltrain.losses.focal.FocalLoss",
}
HEADS = {
    "gap": "mltrain.models.heads.gap.GlobalAveragePool",
    "ml_decoder": "mltrain.models.heads.ml_decoder.MLDecoder",
}


def class_names(count: int) -> list[str]:
    names = [f"class {k}" for k in range(count)]
    names[:6] = [EVIL, "<b>bold & strong</b>", "</script><img src=x onerror=alert(1)>", "a%{x}b", "zebra $x$", "2024"]
    return names[:count]


def make_run(
    folder: Path,
    *,
    classes: int = 30,
    images: int = 60,
    single_label: bool = False,
    ema: bool = True,
    predictions: bool = True,
    groups: bool = True,
    epochs: int = 3,
    seed: int = 0,
    skill: float = 3.0,
    loss: str = "asl",
    head: str = "gap",
    pictures: Path | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """A finished run of a long-tailed set; `skill`: how far the logits of labels are above the others."""
    folder.mkdir(parents=True)
    data = np.random.default_rng(0)  # the same images in every run
    noise = np.random.default_rng(seed + 1)
    names = list(names or class_names(classes))
    share = np.geomspace(0.5, 0.004, classes)

    def labels(name: str, n: int) -> LabelSet:
        if single_label:
            targets = np.eye(classes, dtype=np.int8)[data.choice(classes, size=n, p=share / share.sum())]
        else:
            targets = (data.random((n, classes)) < share * min(1.0, 60 / classes)).astype(np.int8)
            targets[np.arange(n), data.integers(0, min(classes, 20), n)] = 1
        files = [f"{name}/{i:05}.jpg" for i in range(n)]
        root = str(pictures or folder)
        return LabelSet.from_dense(name=name, root=root, files=files, class_names=names, targets=targets)

    train, val = labels("train", 400), labels("val", images)
    stats = LabelStats.from_labels(train)
    targets = torch.from_numpy(val.dense())
    weights = ["val", "ema"] if ema else ["val"]
    logits = {}
    for k, name in enumerate(weights):
        random = torch.from_numpy(noise.normal(-2.0, 1.6, size=targets.shape).astype(np.float32))
        logits[name] = random + (skill + 0.3 * k) * targets
    found = stats.group_indices() if groups else None
    summaries = {
        name: summarize_single_label(x, targets, group_indices=found)
        if single_label
        else summarize(x, targets, group_indices=found)
        for name, x in logits.items()
    }
    evaluation = Evaluation(Predictions(logits, targets), summaries)
    by = "accuracy" if single_label else "map"
    best = evaluation.best(by)
    scalars = {name: summary.scalars for name, summary in summaries.items()}

    file = (pictures or folder.parent.parent) / "labels.csv"
    config: dict[str, Any] = {
        "task": "single_label" if single_label else "multi_label",
        "seed": seed,
        "name": f"small-{head}-{loss}",
        "rerun": False,
        "runner": {"epochs": epochs, "batch_size": 16},
        "metrics": {"head_min": 100, "medium_min": 20, "threshold": 0.5},
        "loss": {"_target_": LOSSES[loss], "note": EVIL},
        "head": {"_target_": HEADS[head]},
        "dataset": {"_target_": "mltrain.datasets.csv.csv_file", "name": "made", "file": str(file)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_json(folder / "stats.json", stats.to_json())
    environment = {"time": "2026-01-31T12:00:00+0000", "command": ["tools/train.py", EVIL], "python": "3.11"}
    write_json(folder / "environment.json", environment | {"cpu": {"model": "a CPU", "cores": 2}, "gpus": []})
    with (folder / "metrics.jsonl").open("w") as log:
        for step in range(1, 25 * epochs + 1):
            record = {"step": step, "train/loss": 90 / step**0.3, "train/lr": 1e-3, "train/grad_norm": 3.0}
            log.write(json.dumps(record | {"train/images_per_second": 400.0, "train/data_wait": 0.05}) + "\n")
            if step % 25 == 0:
                epoch = step // 25
                part = 0.5 + 0.5 * epoch / epochs
                flat = {f"{w}/{k}": part * v for w, values in scalars.items() for k, v in values.items()}
                log.write(json.dumps({"step": step, "train/epoch_loss": 90 / step**0.3, "epoch": epoch, **flat}) + "\n")
        log.write('{"step": 76, "train/lo')  # as a kill leaves it
    with mock.patch("mltrain.report.plots.per_class_ap_plot"):  # a picture that no page shows, and most of the time
        write_per_class(folder / "per_class.csv", evaluation, stats)
    write_confusion(folder / "confusion.csv", evaluation, best, stats.class_names)
    if predictions:
        write_predictions(folder / "predictions.npz", evaluation, val, weights=best)
    if pictures is not None:
        for i in range(images):
            path = pictures / val.file(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(path)
    result = scalars | {
        "best": {"epoch": epochs, "step": 25 * epochs, "weights": best, "by": by, by: scalars[best][by]},
        "last": scalars,
        "epochs": epochs,
        "steps": 25 * epochs,
        "seconds": 61.5,
        "images_per_second": 400.0,
        "corrupt_images": [],
        "config_id": folder.name,
        "dataset": "made",
        "name": config["name"],
        "seed": seed,
        "folder": str(folder),
    }
    write_json(folder / "result.json", result)
    return folder
