"""The predictions that a run keeps: logits and targets of its evaluated splits, for reports and comparisons.

    predictions.npz                     of the validation split       } written at the end of a run
    predictions_test.npz                of the test split             }
    evaluation_val_predictions.npz      the same, of mltrain evaluate RUN metrics.save_predictions=true
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

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mltrain.engine.run_folder import PREDICTIONS, RunFolder
from mltrain.engine.saved_tables import SavedPredictions
from mltrain.files import atomic_write
from mltrain.labels import LabelSet

if TYPE_CHECKING:
    from mltrain.engine.evaluator import Evaluation


def write_predictions(path: Path, evaluation: Evaluation, labels: LabelSet, *, weights: str | None = None) -> None:
    """Write logits of `weights` (None: of all), targets, image files and class names, atomically."""
    predictions = evaluation.predictions
    assert predictions is not None, "the evaluation was asked to keep all predictions"
    arrays = {
        "files": np.array([labels.file(i) for i in range(len(labels))]),
        "class_names": np.array(labels.class_names),
        "targets": predictions.targets.numpy(),
    }
    for name, logits in predictions.logits.items():
        if weights is None or name == weights:
            arrays[f"logits_{name}"] = logits.numpy()
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            # Logits hardly get smaller; targets and names do, tenfold and more.
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_STORED if name.startswith("logits_") else zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def keep_predictions(
    folder: Path, split: str, evaluation: Evaluation, labels: LabelSet, *, best: str, save: bool | None, limit_mb: float
) -> None:
    """Write a run's predictions of a split if `metrics.save_predictions` and `metrics.predictions_mb` ask for them.

    Args:
        best: the weights that are reported, "val" or "ema".
    """
    path = folder / PREDICTIONS[split][0]
    small = len(labels) * labels.num_classes * 4 <= limit_mb * 1e6
    if save or (save is None and small and evaluation.predictions is not None):
        write_predictions(path, evaluation, labels, weights=None if save else best)
    else:
        path.unlink(missing_ok=True)  # left by an earlier start that was stopped as it wrote its results


def load_predictions(run: str | Path, *, split: str | None = None, weights: str | None = None) -> SavedPredictions:
    """Return the predictions of a finished run.

    Args:
        run: the run folder.
        split: "val" or "test"; None: the test split where the run has one, else the validation split.
        weights: "val" (raw) or "ema"; None: the best ones, by which the run is reported.

    Raises:
        DataError: the run has not finished or has kept no predictions (the message tells how to make them), or the file
            cannot be read.
        ValueError: `split` or `weights` is none of these.
    """
    return RunFolder(run).predictions(split, weights)
