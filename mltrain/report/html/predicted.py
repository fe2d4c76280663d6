"""The predictions of a run as its page shows them: probabilities, thresholds and predicted classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mltrain.engine.run_folder import SPLITS, THRESHOLDS, WEIGHTS, RunFolder
from mltrain.engine.saved_tables import SavedPredictions
from mltrain.engine.saved_thresholds import best_identity, read_thresholds
from mltrain.errors import ConfigError
from mltrain.files import has_file
from mltrain.report.html import analysis


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions with the probabilities and predicted classes that they mean."""

    saved: SavedPredictions
    probability: np.ndarray
    """fp32 (N, C)"""
    predicted: np.ndarray
    """bool (N, C)"""
    threshold: float | None
    """metrics.threshold; None: the class with the highest logit is predicted"""
    groups: dict[str, np.ndarray]
    """class indices by name; empty without statistics of the training set"""
    tuned: dict[str, Any] | None = None
    """content of thresholds.json, where the run has thresholds of its own for these weights"""

    @property
    def single(self) -> bool:
        """True if an image has one label."""
        return self.threshold is None

    @property
    def where(self) -> str:
        """Images and weights of the predictions, as text."""
        return f"{len(self.saved.files):,} {SPLITS[self.saved.split]} images, {WEIGHTS[self.saved.weights]} weights"

    @property
    def rule(self) -> str:
        """Rule by which classes count as predicted, as text."""
        if self.threshold is None:
            return "the most probable class"
        if self.tuned is None:
            return f"classes above {self.threshold:g}"
        return f"classes above the thresholds of {THRESHOLDS}"

    @property
    def thresholds(self) -> np.ndarray:
        """Threshold of each class, float64 (C,)."""
        if self.tuned is not None:
            return np.asarray(self.tuned["thresholds"])
        return np.full(self.probability.shape[1], np.nan if self.threshold is None else self.threshold)

    def counts(self) -> dict[str, np.ndarray]:
        """Count each class: predicted, and precision, recall and F1 in percent, as `ClassTable` has them; (C,) each."""
        known, own = self.saved.targets >= 0, self.saved.targets == 1
        hits, predicted = (self.predicted & own).sum(axis=0), (self.predicted & known).sum(axis=0)
        positives = own.sum(axis=0).astype(np.float64)
        positives[positives == 0] = np.nan
        return {
            "predicted": predicted.astype(np.float64),
            "precision": 100 * hits / np.maximum(predicted, 1),
            "recall": 100 * hits / positives,
            "f1": 200 * hits / (predicted + positives),
        }


def prepare(run: RunFolder, saved: SavedPredictions) -> tuple[Predicted, str]:
    """Compute probabilities and predicted classes by the run's task and thresholds.

    Returns:
        The predictions, and why the run's own thresholds are not used; empty where they are, or where it has none.
    """
    probability = analysis.probabilities(saved.logits, softmax=run.single_label)
    groups: dict[str, np.ndarray] = {}
    if run.stats is not None and run.stats.class_names == saved.class_names:
        groups = {name: index for name, index in run.stats.group_indices().items() if len(index)}
    if run.single_label:
        predicted = np.zeros(probability.shape, dtype=bool)
        predicted[np.arange(len(predicted)), saved.logits.argmax(axis=1)] = True
        return Predicted(saved, probability, predicted, None, groups), ""
    threshold = float(run.config.get("metrics", {}).get("threshold", 0.5))
    tuned, why = tuned_thresholds(run, saved)
    values = np.float64(threshold) if tuned is None else tuned["thresholds"]
    with np.errstate(divide="ignore"):
        cuts = np.log(values) - np.log1p(-values)  # logits are compared, because the sigmoid would make ties
    return Predicted(saved, probability, saved.logits > cuts, threshold, groups, tuned), why


def tuned_thresholds(run: RunFolder, saved: SavedPredictions) -> tuple[dict[str, Any] | None, str]:
    """Return the content of thresholds.json if it is of these weights, else None and the reason."""
    path = run.folder / THRESHOLDS
    if not has_file(path):
        return None, ""
    try:
        found = read_thresholds(path)
    except ConfigError as error:
        return None, str(error)
    if list(found["class_names"]) != list(saved.class_names):
        return None, f"{THRESHOLDS} is of other classes; mltrain tune_thresholds {run.folder} tunes again"
    if found["weights"] != saved.weights:
        own, others = WEIGHTS[saved.weights], WEIGHTS.get(found["weights"], found["weights"])
        return None, f"{THRESHOLDS} is of the {others} weights, and this page of the {own} weights"
    if found["best"] != best_identity(run.result["best"]):
        return None, f"{THRESHOLDS} is of an earlier epoch; mltrain tune_thresholds {run.folder} tunes again"
    return found, ""
