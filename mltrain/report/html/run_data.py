"""What a run folder holds, read for a report; every file but config.yaml and metrics.jsonl may be missing."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mltrain.errors import DataError
from mltrain.labels import LabelStats

WEIGHTS = {"val": "raw", "ema": "EMA"}
SPLITS = {"val": "validation", "test": "test"}

TITLES = {
    "map": "mAP",
    "map_unseen": "mAP unseen",
    "micro_ap": "micro AP",
    "accuracy": "accuracy",
    "accuracy@5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_F1": "macro F1",
    "weighted_F1": "weighted F1",
    "g_mean": "G-mean",
    "mauc": "MAUC",
    "map_head": "head mAP",
    "map_medium": "medium mAP",
    "map_tail": "tail mAP",
    "accuracy_head": "head accuracy",
    "accuracy_medium": "medium accuracy",
    "accuracy_tail": "tail accuracy",
    "OF1": "OF1",
    "CF1": "CF1",
}

MULTI_LABEL = ("map", "map_head", "map_medium", "map_tail", "map_unseen", "OF1", "CF1", "macro_F1")
SINGLE_LABEL = (
    *("accuracy", "accuracy_head", "accuracy_medium", "accuracy_tail", "accuracy@5", "balanced_accuracy"),
    *("macro_F1", "g_mean", "mauc"),
)


@dataclass(frozen=True, eq=False)
class ClassTable:
    """per_class.csv of a split."""

    names: list[str]
    groups: list[str]
    train_positives: np.ndarray
    """int64 (C,)"""
    columns: dict[str, np.ndarray]
    """float64 (C,) by `<weights>_<figure>`, percent or numbers; NaN where a class has none"""

    def figure(self, weights: str, name: str) -> np.ndarray | None:
        """A column, or None."""
        return self.columns.get(f"{weights}_{name}")


@dataclass(frozen=True, eq=False)
class RunData:
    """A run, as its folder tells it."""

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]
    """result.json; empty for a run that has not finished"""
    epochs: list[dict[str, Any]]
    """records of metrics.jsonl with an epoch, their figures under "val" and "ema" """
    steps: list[dict[str, Any]]
    """the other records: loss, LR, throughput after a step"""
    environment: dict[str, Any]
    stats: LabelStats | None
    classes: dict[str, ClassTable]
    """by split"""

    @property
    def finished(self) -> bool:
        """Whether there is a result."""
        return bool(self.result)

    @property
    def single_label(self) -> bool:
        """One label an image."""
        return self.config.get("task") == "single_label"

    @property
    def headline(self) -> tuple[str, ...]:
        """The figures of the task, the most important first."""
        return SINGLE_LABEL if self.single_label else MULTI_LABEL

    @property
    def best_by(self) -> str:
        """The figure that chose the epoch."""
        best = self.result.get("best") or {}
        return str(best.get("by") or self.config.get("metrics", {}).get("best") or self.headline[0])

    @property
    def weights(self) -> str:
        """The weights that are reported, "val" (raw) or "ema"."""
        return str((self.result.get("best") or {}).get("weights", "val"))

    @property
    def split(self) -> str:
        """The split that is reported: "test" where there is one."""
        return "test" if self.result.get("test") else "val"

    @property
    def dataset(self) -> str:
        """Its name."""
        section = self.config.get("dataset", {})
        return str(self.result.get("dataset") or section.get("name") or str(section.get("_target_")).rpartition(".")[2])

    @property
    def name(self) -> str:
        """`<model>-<head>-<loss>`, or what the user called it."""
        return str(self.result.get("name") or self.config.get("name") or self.folder.parent.name)

    @property
    def steps_per_epoch(self) -> float | None:
        """Optimizer steps of an epoch; None before the first has ended."""
        whole = [record["step"] / record["epoch"] for record in self.epochs if record.get("epoch")]
        return max(whole) if whole else None

    def scores(self, split: str | None = None, weights: str | None = None) -> dict[str, float]:
        """Figures of the result; of the best weights on the split that is reported, unless named."""
        split, weights = split or self.split, weights or self.weights
        content = self.result.get("test", {}) if split == "test" else self.result
        found = content.get(weights)
        return dict(found) if isinstance(found, dict) else {}

    @property
    def evaluated(self) -> list[str]:
        """Weights that have figures: raw, and EMA where the run keeps it."""
        return [w for w in WEIGHTS if self.scores("val", w) or any(w in record for record in self.epochs)]


def read_run(folder: str | Path) -> RunData:
    """Read a run folder.

    Raises:
        DataError: it is none, or a file in it cannot be read.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder}: no run folder: it has no config.yaml")
    try:
        config = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), Loader=_LOADER)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder / 'config.yaml'}: cannot be read: {error}") from error
    epochs, steps = _metrics(folder / "metrics.jsonl")
    stats = _json(folder / "stats.json")
    files = {"val": folder / "per_class.csv", "test": folder / "per_class_test.csv"}
    return RunData(
        folder=folder,
        config=config if isinstance(config, dict) else {},
        result=_json(folder / "result.json"),
        epochs=epochs,
        steps=steps,
        environment=_json(folder / "environment.json"),
        stats=LabelStats.from_arrays(stats) if stats else None,
        classes={split: _classes(file) for split, file in files.items() if file.is_file()},
    )


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    epochs, steps = [], []
    for record in _records(path):
        if record.get("epoch") is None:
            steps.append(record)
            continue
        nested: dict[str, Any] = {}
        for key, value in record.items():
            part, slash, figure = key.partition("/")
            if slash and part in WEIGHTS:
                nested.setdefault(part, {})[figure] = value
            else:
                nested[key] = value
        epochs.append(nested)
    return epochs, steps


def _records(path: Path) -> Iterable[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a kill cut it short
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield record


def _classes(path: Path) -> ClassTable:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header, rows = next(reader), list(reader)
        columns: Mapping[str, Any] = dict(zip(header, zip(*rows, strict=True), strict=True))
        return ClassTable(
            names=list(columns["class"]),
            groups=list(columns["group"]),
            train_positives=np.array(columns["train_positives"], dtype=np.int64),
            columns={
                name: np.array([float(v) if v else np.nan for v in values])
                for name, values in columns.items()
                if name not in ("class", "group", "train_positives")
            },
        )
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
