"""Run folders made up for tests of comparison: a real config, made-up figures and predictions."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import OmegaConf

from mltrain.config.compose import load
from mltrain.labels import LabelSet, LabelStats
from mltrain.report.bootstrap import resampled_figures
from mltrain.report.runs import RunRecord, read_runs
from mltrain.runs.settings import load_settings

NAMES = ("a", "b", "c", "d", "e")


@cache
def composed(*overrides: str) -> dict[str, Any]:
    tree = OmegaConf.to_container(load(overrides), resolve=True)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def config(*overrides: str, changes: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Any]:
    """A checked config, with changes by dotted key."""
    tree = copy.deepcopy(composed(*overrides))
    for key, value in {"seed": seed, **(changes or {})}.items():
        node = tree
        *sections, last = key.split(".")
        for section in sections:
            node = node[section]
        node[last] = value
    return tree


def write_run(
    runs: Path,
    *overrides: str,
    seed: int = 0,
    changes: dict[str, Any] | None = None,
    map: float = 50.0,
    split: str = "val",
    logits: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    finished: bool = True,
    config_text: str | None = None,
) -> Path:
    """One run folder; with `logits` and `targets` its figures are theirs."""
    tree = config(*overrides, changes=changes, seed=seed)
    number = len(list(runs.glob("*/*/*"))) if runs.is_dir() else 0
    folder = runs / tree["dataset"]["name"] / tree["name"] / f"{number:08x}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_text if config_text is not None else yaml.safe_dump(tree))
    labels = LabelSet.from_lists(
        name="train",
        root=Path(),
        files=[f"{k}.png" for k in range(150)],
        class_names=NAMES,
        positives=[
            [0, *([1] if k < 120 else []), *([2] if k < 50 else []), *([3] if k < 4 else [])] for k in range(150)
        ],
    )
    stats = LabelStats.from_labels(labels)
    (folder / "stats.json").write_text(json.dumps(stats.to_json()))
    if not finished:
        return folder
    figures = {"map": map, "map_head": map + 1, "map_tail": map - 1, "OF1": 60.0, "CF1": 55.0}
    if logits is not None and targets is not None:
        once = np.ones((1, len(logits)), dtype=np.int64)
        found = resampled_figures(logits, targets, once, stats.group_indices())
        figures |= {key: float(value[0]) for key, value in found.items()}
        arrays = {"files": np.array([f"{k}.jpg" for k in range(len(logits))]), "class_names": np.array(NAMES)}
        path = folder / ("predictions.npz" if split == "val" else "predictions_test.npz")
        np.savez(path, targets=targets, logits_ema=logits, **arrays)
    result: dict[str, Any] = {"val": dict.fromkeys(figures, 1.0), "ema": figures}
    if split == "test":
        result["test"] = {"ema": figures}
    result |= {"best": {"epoch": 2, "weights": "ema", "by": "map", "map": map}, "seconds": 60.0 + seed}
    (folder / "result.json").write_text(json.dumps(result | {"images_per_second": 100.0}))
    return folder


def records(runs: Path) -> list[RunRecord]:
    return read_runs([runs], load_settings)


def predictions(n: int = 60, seed: int = 0, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets of `NAMES`; the targets, and what is hard in an image, are the same for every seed."""
    fixed, random = np.random.default_rng(0), np.random.default_rng(seed + 1)
    targets = (fixed.random((n, len(NAMES))) < 0.3).astype(np.int8)
    hard = fixed.normal(size=targets.shape)
    logits = hard + 0.3 * random.normal(size=targets.shape) + strength * targets
    return logits.astype(np.float32), targets
