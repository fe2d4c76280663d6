"""Intervals and chance levels of the figures of one run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mltrain.engine.run_folder import RunFolder
from mltrain.engine.saved_tables import SavedPredictions
from mltrain.errors import DataError
from mltrain.report.bootstrap import Interval, centred_interval, resample, resampled_accuracy, resampled_figures
from mltrain.report.differences import AGREE, run_groups

ENTRIES = 1_000_000_000
"""Entries (images x classes x resamples) that the intervals of a page may cost: some 5 s of a core."""
FEWEST = 200
"""Fewest resamples of which percentiles are taken."""


def affordable(saved: SavedPredictions, asked: int) -> int:
    """Return how many of the resamples that are asked for the predictions of a page may cost; 0 for too few."""
    most = min(asked, ENTRIES // max(1, saved.targets.size))
    return most if most >= min(asked, FEWEST) else 0


def intervals_of(run: RunFolder, saved: SavedPredictions, resamples: int) -> dict[str, Interval]:
    """Compute 95 % intervals of mAP (accuracy with single labels), of all classes and of each group.

    They come from a bootstrap over the images (see `bootstrap`), with the metrics settings of the run.

    Args:
        run: a finished run.
        saved: its predictions of the weights and split to report.
        resamples: number of resamples.

    Returns:
        figure -> interval around the figure of result.json, in percent; only figures that result.json has.

    Raises:
        DataError: the predictions do not give the figures of result.json: they are of another evaluation; or stats.json
            is missing.
    """
    groups = run_groups(run)
    images = len(saved.files)
    once = _figures(run, saved, np.ones((1, images), dtype=np.int64), groups)
    reported = run.scalars(saved.split, saved.weights)
    for key, values in once.items():
        if key in reported and not abs(values[0] - reported[key]) <= AGREE:
            raise DataError(
                f"{run.folder}: its predictions give {key} {values[0]:.2f}, result.json has {reported[key]:.2f}: they "
                "are of another evaluation"
            )
    found = _figures(run, saved, resample(images, resamples), groups)
    return {
        key: centred_interval(reported[key], values)
        for key, values in found.items()
        if key in reported and not np.isnan(values).all()
    }


def _figures(
    run: RunFolder, saved: SavedPredictions, weights: NDArray[np.integer], groups: dict[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.float64]]:
    if run.single_label:
        return resampled_accuracy(saved.logits, saved.targets, weights, groups)
    metrics = run.config.get("metrics", {})
    options = {key: metrics[key] for key in ("absent", "min_positives", "min_negatives") if key in metrics}
    return resampled_figures(saved.logits, saved.targets, weights, groups, **options)


def prevalence(targets: NDArray[np.int8]) -> NDArray[np.float64]:
    """Return the share of positives among the known targets of each class, in percent; float64 (C,), NaN without one.

    It is the AP that a random order of very many images has. Of few images a random order has a little more.
    """
    known, positives = (targets >= 0).sum(axis=0), (targets == 1).sum(axis=0)
    return np.divide(100.0 * positives, known, out=np.full(len(known), np.nan), where=known > 0)


def chance_levels(run: RunFolder, saved: SavedPredictions) -> dict[str, float]:
    """Return what a model that knows nothing gets for mAP or accuracy, of all classes and of each group, in percent.

    mAP: the mean prevalence of the classes that count. Accuracy of all classes: the share of the images that have the
    most frequent label; of a group there is none.
    """
    positives = (saved.targets == 1).sum(axis=0)
    if run.single_label:
        return {"accuracy": 100.0 * float(positives.max()) / max(int(positives.sum()), 1)}
    metrics = run.config.get("metrics", {})
    negatives = (saved.targets == 0).sum(axis=0)
    least = max(1, int(metrics.get("min_positives") or 1))
    counts = (positives >= least) & (negatives >= int(metrics.get("min_negatives") or 0))
    counts &= (negatives > 0) | ~(saved.targets == -1).any(axis=0)
    share = prevalence(saved.targets)
    if metrics.get("absent") == "zero":
        counts |= positives == 0
    members = {"map": np.arange(len(positives))}
    members |= {f"map_{name}": index for name, index in run_groups(run).items()}
    return {key: float(share[index[counts[index]]].mean()) for key, index in members.items() if counts[index].any()}
