"""The files of a run folder: their names, their content, and how to read them.

    config.yaml         the checked config, resolved                        written at the start
    stats.json          statistics of the training labels (`LabelStats`)    "
    environment.json    versions, hardware and command line                 "
    data.npz            fingerprint of labels and files (`mltrain.datasets.fingerprint`)   "
    train.log           what the training printed (`mltrain.transcript`)    written during the training
    metrics.jsonl       figures by step and epoch                           "
    last.pt, best.pt    checkpoints (`mltrain.engine.checkpoint`)           "
    epoch-0007.pt       weights of epochs (`mltrain.engine.kept`)           "
    extended.json       the run that this one extends (`mltrain.runs.extend`)
    nonfinite_rank0.json  why a loss or gradient that was not finite stopped the run
    per_class.csv, confusion.csv, predictions.npz                           written at the end, of the validation split;
                        those of the test split end in `_test`
    result.json         figures of the run, written last: a folder that has it is a finished run
    report.html         the page of the run; a repeat of the training writes it if it is missing
    evaluation*.*, tuning.json    the same of a later evaluation (mltrain evaluate)
    thresholds.json     a threshold for each class (mltrain tune_thresholds)
    train_features.npz  features of the training images (mltrain demo); can be deleted
    source.json, model.safetensors, classes.txt    weights that were trained elsewhere, or are to be published

Figures of the raw weights are under "val" in all of them, those of the averaged weights under "ema": `WEIGHTS` has the
names that people read. This module imports neither torch nor omegaconf, so that reports start fast.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mltrain.engine.saved_tables import ClassTable, SavedPredictions, read_class_table, read_confusion, read_predictions
from mltrain.errors import DataError
from mltrain.files import has_file
from mltrain.labels import LabelStats
from mltrain.safe_yaml import read_yaml
from mltrain.text import counted

CONFIG = "config.yaml"
STATS = "stats.json"
ENVIRONMENT = "environment.json"
DATA = "data.npz"
LOG = "train.log"
METRICS = "metrics.jsonl"
RESULT = "result.json"
REPORT = "report.html"
EVALUATION = "evaluation.json"
TUNING = "tuning.json"
THRESHOLDS = "thresholds.json"
TRAIN_FEATURES = "train_features.npz"
SOURCE = "source.json"
EXTENDED = "extended.json"
EPOCH = "epoch-{:04d}"  # a checkpoint, without .pt
NONFINITE = "nonfinite_rank{rank}.json"
JOB = "job-*.json"  # in the folder of a sweep, one for each job
PER_CLASS = {"val": "per_class.csv", "test": "per_class_test.csv"}
CONFUSION = {"val": "confusion.csv", "test": "confusion_test.csv"}
EVALUATION_PER_CLASS = {"val": "evaluation_val.csv", "test": "evaluation_test.csv"}
EVALUATION_CONFUSION = {"val": "evaluation_val_confusion.csv", "test": "evaluation_test_confusion.csv"}
PREDICTIONS = {
    "val": ("predictions.npz", "evaluation_val_predictions.npz"),
    "test": ("predictions_test.npz", "evaluation_test_predictions.npz"),
}
"""by split: the run's own file, then that of a later evaluation"""

RAW, EMA = "val", "ema"
WEIGHTS = {RAW: "raw", EMA: "EMA"}
"""kinds of weights: key in files -> name for people"""
SPLITS = {"val": "validation", "test": "test"}

logger = logging.getLogger(__name__)

_HOW = "mltrain evaluate {run} metrics.save_predictions=true writes them"


class RunFolder:
    """A run folder; each file is read when it is first asked for, and kept.

    Every file but config.yaml may be missing: its content is then empty or None. A file that exists but cannot be read
    raises DataError with its path; only result.json counts as missing then, with a warning.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    # -- files -------------------------------------------------------------------------------------------------------

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config as the run wrote it, without the options that were added since."""
        return read_config(self.folder)

    @cached_property
    def result(self) -> dict[str, Any]:
        """The content of result.json; empty for a run that has not finished, see `read_result`."""
        return read_result(self.folder) or {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of environment.json."""
        return read_json(self.folder / ENVIRONMENT) or {}

    @cached_property
    def stats(self) -> LabelStats | None:
        """Statistics of the training labels."""
        content = read_json(self.folder / STATS)
        try:
            return LabelStats.from_arrays(content) if content else None
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{self.folder / STATS}: cannot be read: {error}") from error

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, in their order. Raises DataError: something else than a file has the name."""
        path = self.folder / METRICS
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if has_file(path) else []
        except OSError:
            return []
        parsed = (parse_record(line) for line in lines)
        return [record for record in parsed if record is not None]

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """The records within epochs: loss, LR, throughput after a step."""
        return [record for record in self.metrics if record.get("epoch") is None]

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The records of epochs, their figures nested under "val" and "ema"."""
        epochs = []
        for record in self.metrics:
            if record.get("epoch") is not None:
                nested: dict[str, Any] = {}
                for key, value in record.items():
                    weights, slash, figure = key.partition("/")
                    if slash and weights in WEIGHTS:
                        nested.setdefault(weights, {})[figure] = value
                    else:
                        nested[key] = value
                epochs.append(nested)
        return epochs

    @cached_property
    def classes(self) -> dict[str, ClassTable]:
        """The content of per_class.csv, by split."""
        paths = {split: self.folder / name for split, name in PER_CLASS.items()}
        return {split: read_class_table(path) for split, path in paths.items() if has_file(path)}

    def confusion(self, split: str) -> tuple[np.ndarray, list[str]] | None:
        """Return the confusion matrix of a split, int64 (C, C), images by true and predicted class, and the names."""
        path = self.folder / CONFUSION[split]
        return read_confusion(path) if has_file(path) else None

    def predictions_file(self, split: str) -> Path | None:
        """Return the file with the predictions of a split, or None."""
        paths = (self.folder / name for name in PREDICTIONS[split])
        return next((path for path in paths if has_file(path)), None)

    def predictions(self, split: str | None = None, weights: str | None = None) -> SavedPredictions:
        """Return the predictions that the run has kept.

        Args:
            split: "val" or "test"; None: the split by which the run is reported.
            weights: "val" (raw) or "ema"; None: those by which the run is reported.

        Raises:
            DataError: the run has not finished or has kept no predictions (the message tells how to make them), or the
                file cannot be read.
            ValueError: `split` or `weights` is none of these.
        """
        if not self.result:
            raise DataError(f"{self.folder}: no finished run: it has no {RESULT}")
        split, weights = split or self.split, weights or self.best_weights
        if split not in SPLITS:
            raise ValueError(f'split must be "val" or "test"; got {split!r}')
        if weights not in WEIGHTS:
            raise ValueError(f'weights must be "val" (raw) or "ema"; got {weights!r}')
        path, how = self.predictions_file(split), _HOW.format(run=self.folder)
        if path is None:
            raise DataError(f"{self.folder}: the run has kept no predictions of the {split} split; {how}")
        return read_predictions(path, split, weights, how)

    # -- facts from the files ----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True if the run has a result."""
        return bool(self.result)

    @property
    def task(self) -> str:
        """ "multi_label" or "single_label"."""
        return str(self.config.get("task", "multi_label"))

    @property
    def single_label(self) -> bool:
        """True if an image has one label."""
        return self.task == "single_label"

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        section = self.config.get("dataset") or {}
        return str(self.result.get("dataset") or section.get("name") or str(section.get("_target_")).rpartition(".")[2])

    @property
    def name(self) -> str:
        """`<model>-<head>-<loss>`, or the name that the user gave."""
        return str(self.result.get("name") or self.config.get("name") or self.folder.parent.name)

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.config.get("seed", 0))

    @property
    def best_by(self) -> str:
        """The figure that chose the epoch."""
        asked = (self.config.get("metrics") or {}).get("best")
        main = "accuracy" if self.single_label else "map"
        return str((self.result.get("best") or {}).get("by") or asked or main)

    @property
    def best_weights(self) -> str:
        """The weights that are reported, "val" (raw) or "ema": those with the better figure on the validation split."""
        return str(self.result["best"]["weights"]) if self.result else RAW

    @property
    def split(self) -> str:
        """The split that is reported: "test" where there is one, else "val"."""
        return "test" if self.result.get("test") else "val"

    @property
    def evaluated(self) -> list[str]:
        """The weights that have figures: raw, and EMA where the run keeps it."""
        return [w for w in WEIGHTS if self.scalars("val", w) or any(w in record for record in self.epochs)]

    @property
    def steps_per_epoch(self) -> float | None:
        """Optimizer steps of an epoch; None before the first has ended."""
        whole = [record["step"] / record["epoch"] for record in self.epochs if record["epoch"]]
        return max(whole) if whole else None

    def scalars(self, split: str = "val", weights: str = "best") -> dict[str, float]:
        """Return the figures of a split and of the weights "best", "val" or "ema"; empty where there are none."""
        figures = self.result if split == "val" else self.result.get("test") or {}
        found = figures.get(self.best_weights if weights == "best" else weights)
        return found if isinstance(found, dict) else {}

    @property
    def machine(self) -> str:
        """Hardware of the run: "2 x NVIDIA H200", "AMD EPYC, 2 cores"; empty where not known."""
        gpus, cpu = self.environment.get("gpus") or [], self.environment.get("cpu") or {}
        world = int(self.environment.get("world_size") or 1)
        device = str((self.config.get("runner") or {}).get("device", "auto"))
        if gpus and device != "cpu":
            name = gpus[0].get("name", "GPU") if isinstance(gpus[0], Mapping) else str(gpus[0])
            return f"{world} x {name}"
        if not cpu:
            return ""
        return f"{cpu.get('model', 'CPU')}, {counted(cpu.get('cores', 0), 'core')}" + (
            f", {world} ranks" if world > 1 else ""
        )


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder has a config, as every run has from its start."""
    return (folder / CONFIG).is_file()


def epoch_of(name: str) -> int | None:
    """Return the epoch of a checkpoint by its name without .pt; None for other names."""
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and EPOCH.format(int(digits)) == name else None


def weights_key(name: str) -> str:
    """Return the key in files of "raw" or "EMA", in upper or lower case; other text is returned as it is."""
    return next((key for key, title in WEIGHTS.items() if title.lower() == name.lower()), name)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.yaml as plain values; nothing is checked or filled in.

    Raises:
        DataError: there is no config.yaml, or it cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(f"{folder}: no run folder: it has no {CONFIG}")
    try:
        tree = read_yaml(path)
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: holds no config")
    return tree


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    if not has_file(path):
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object")
    return content


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read result.json; None for a run that has not finished.

    A file that is empty, damaged or no result is as good as none: a warning says so, and a repeat of the training
    writes it anew.
    """
    try:
        content = read_json(folder / RESULT)
        if content is None:
            return None
        if isinstance(content.get("best"), Mapping) and "weights" in content["best"]:
            return content
        problem = f"{folder / RESULT}: names no best weights"
    except DataError as error:
        problem = str(error)
    logger.warning("%s; the run counts as unfinished, and repeating its training completes it", problem)
    return None


def read_jobs(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records that the jobs of a sweep left in its folder, by number.

    Raises:
        DataError: a record cannot be read.
    """
    for path in sorted(folder.glob(JOB)):
        content = read_json(path)
        if content is not None:  # the sweep may be running
            yield content


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested config as one table, keys joined by dots; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse_record(line: str) -> dict[str, Any] | None:
    """Parse a line of metrics.jsonl; None for a line that a kill cut short."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
