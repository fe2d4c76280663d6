"""The predictions that a run keeps: logits and targets of its evaluated splits, for reports and comparisons.

    predictions.npz                     of the validation split       } written at the end of a run
    predictions_test.npz                of the test split             }
    evaluation_val_predictions.npz      the same, of tools/evaluate.py RUN metrics.save_predictions=true
    evaluation_test_predictions.npz

Each holds `files` and `class_names` (strings), `targets` (int8, (N, C)) and `logits_val` (raw weights) or `logits_ema`
(EMA weights) or both (fp32, (N, C)); row i is image i of the split. With `metrics.save_predictions` at null the best
weights' logits are kept, of splits of up to `metrics.predictions_mb` of them (N x C x 4 bytes) whose targets are
mostly known; true keeps those of all weights of any split, false none. Logits are fp32: fp16 would make ties that move
the average precision.

    kept = load_predictions("runs/coco/tresnet_l-gap-asl/0a1b2c3d")     # of the test split, else of validation
    kept.logits, kept.targets, kept.files, kept.class_names, kept.split, kept.weights

Needs NumPy only.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mltrain.errors import DataError
from mltrain.labels import LabelSet

if TYPE_CHECKING:
    from mltrain.engine.evaluator import Evaluation

FILES = {
    "val": ("predictions.npz", "evaluation_val_predictions.npz"),
    "test": ("predictions_test.npz", "evaluation_test_predictions.npz"),
}
"""By split: the run's own file first."""

HOW = "python tools/evaluate.py {run} metrics.save_predictions=true writes them"


@dataclass(frozen=True, eq=False)
class SavedPredictions:
    """What one set of weights predicts for one split."""

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
    """"val" raw, "ema" """


def write_predictions(path: Path, evaluation: Evaluation, labels: LabelSet, *, weights: str | None = None) -> None:
    """Logits of `weights` (None: of all), targets, image files and class names; in whole or not at all."""
    predictions = evaluation.predictions
    assert predictions is not None, "an evaluation for it keeps all predictions"
    arrays = {
        "files": np.array([labels.file(i) for i in range(len(labels))]),
        "class_names": np.array(labels.class_names),
        "targets": predictions.targets.numpy(),
    }
    for name, logits in predictions.logits.items():
        if weights is None or name == weights:
            arrays[f"logits_{name}"] = logits.numpy()
    temporary = path.with_name(path.name + ".tmp")
    with zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            # Logits hardly get smaller; targets and names do, tenfold and more.
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_STORED if name.startswith("logits_") else zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    temporary.replace(path)


def keep_predictions(
    folder: Path, split: str, evaluation: Evaluation, labels: LabelSet, *, best: str, save: bool | None, limit_mb: float
) -> None:
    """Write a run's predictions of a split as its `metrics.save_predictions` and `metrics.predictions_mb` say.

    Args:
        best: the weights that are reported, "val" or "ema".
    """
    path = folder / FILES[split][0]
    small = len(labels) * labels.num_classes * 4 <= limit_mb * 1e6
    if save or (save is None and small and evaluation.predictions is not None):
        write_predictions(path, evaluation, labels, weights=None if save else best)
    else:
        path.unlink(missing_ok=True)  # of a run before that was stopped as it wrote its results


def load_predictions(run: str | Path, *, split: str | None = None, weights: str | None = None) -> SavedPredictions:
    """Predictions of a finished run.

    Args:
        run: the run folder.
        split: "val" or "test"; None: the test split where the run has one, else the validation split.
        weights: "val" (raw) or "ema"; None: the best ones, by which the run is reported.

    Raises:
        DataError: the run is not finished, has not kept them (it says how to make them), or the file cannot be read.
        ValueError: `split` or `weights` is none of these.
    """
    folder = Path(run)
    result = _result(folder)
    split = split or ("test" if result.get("test") else "val")
    if split not in FILES:
        raise ValueError(f'split must be "val" or "test"; got {split!r}')
    weights = weights or str(result["best"]["weights"])
    if weights not in ("val", "ema"):
        raise ValueError(f'weights must be "val" (raw) or "ema"; got {weights!r}')
    how = HOW.format(run=folder)
    path = next((folder / name for name in FILES[split] if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{folder}: the run has kept no predictions of the {split} split; {how}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if f"logits_{weights}" not in arrays:
                raise DataError(f"{path}: holds no logits of the weights {weights!r}; {how}")
            return SavedPredictions(
                logits=arrays[f"logits_{weights}"],
                targets=arrays["targets"],
                files=tuple(arrays["files"].tolist()),
                class_names=tuple(arrays["class_names"].tolist()),
                split=split,
                weights=weights,
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); {how}") from error


def _result(folder: Path) -> Mapping[str, Any]:
    path = folder / "result.json"
    if not path.is_file():
        raise DataError(f"{folder}: no finished run: it has no result.json")
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return result
