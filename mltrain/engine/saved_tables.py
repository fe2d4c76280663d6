"""The tables that a run writes at its end: per_class.csv, confusion.csv and predictions.npz."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mltrain.errors import DataError
from mltrain.text import csv_text


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The content of per_class.csv."""

    names: list[str]
    groups: list[str]
    train_positives: np.ndarray
    """int64 (C,)"""
    columns: dict[str, np.ndarray]
    """float64 (C,) by `<weights>_<figure>`, percent or numbers; NaN where a class has none"""

    def figure(self, weights: str, name: str) -> np.ndarray | None:
        """Return a column, or None."""
        return self.columns.get(f"{weights}_{name}")


@dataclass(frozen=True, eq=False)
class SavedPredictions:
    """Predictions of one set of weights for one split."""

    logits: np.ndarray
    """fp32 (N, C)"""
    targets: np.ndarray
    """int8 (N, C): 1 positive, 0 negative, -1 unknown"""
    files: tuple[str, ...]
    """image files as the data set lists them, relative to its root"""
    class_names: tuple[str, ...]
    split: str
    """"val" or "test" """
    weights: str
    """a key of `WEIGHTS`"""


def read_class_table(path: Path) -> ClassTable:
    """Read per_class.csv. Raises DataError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header, rows = next(reader), list(reader)
        columns: Mapping[str, Sequence[str]] = dict(zip(header, zip(*rows, strict=True), strict=True))
        return ClassTable(
            names=[csv_text(name) for name in columns["class"]],
            groups=list(columns["group"]),
            train_positives=np.array(columns["train_positives"], dtype=np.int64),
            columns={
                name: np.array([float(v) if v else np.nan for v in values])
                for name, values in columns.items()
                if name not in ("class", "group", "train_positives")
            },
        )
    except (OSError, ValueError, KeyError, StopIteration, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def read_confusion(path: Path) -> tuple[np.ndarray, list[str]]:
    """Read confusion.csv: int64 (C, C), images by true and predicted class, and the class names. Raises DataError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        return np.array([row[1:] for row in rows], dtype=np.int64), [csv_text(name) for name in header[1:]]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def read_predictions(path: Path, split: str, weights: str, how: str) -> SavedPredictions:
    """Read one set of weights from predictions.npz. Raises DataError, which says `how` to write it anew."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if f"logits_{weights}" not in arrays:
                raise DataError(f"{path}: holds no logits of the weights {weights!r}; {how}")
            saved = SavedPredictions(
                logits=arrays[f"logits_{weights}"],
                targets=arrays["targets"],
                files=tuple(arrays["files"].tolist()),
                class_names=tuple(arrays["class_names"].tolist()),
                split=split,
                weights=weights,
            )
            shape = (len(saved.files), len(saved.class_names))
            if saved.logits.shape != shape or saved.targets.shape != shape:
                raise ValueError(f"{shape[0]} files and {shape[1]} classes, but logits {saved.logits.shape}")
            return saved
    except DataError:
        raise
    except Exception as error:  # damaged archives and arrays raise nearly every type
        raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error}); {how}") from error
