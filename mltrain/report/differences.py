"""Differences of compared runs to a baseline, with intervals over test images.

add_differences(table, "loss=bce")
row.difference.value, row.difference.low, row.difference.high       # of mAP, in percent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mltrain.engine.run_folder import STATS, RunFolder
from mltrain.engine.saved_tables import SavedPredictions
from mltrain.errors import DataError
from mltrain.report.bootstrap import percentile_interval, resample, resampled_accuracy, resampled_figures
from mltrain.report.compare import Comparison, Difference, Row, fold_of
from mltrain.report.runs import Filter, RunRecord, spelled

AGREE = 0.01
"""Tolerance between a figure from saved predictions and that of result.json, in percent."""


def add_differences(
    table: Comparison, baseline: str | Sequence[str], *, figure: str | None = None, resamples: int = 1000, seed: int = 0
) -> None:
    """Fill in `Row.difference` of every row but the baselines, and `Row.is_baseline`.

    The baseline of a row is the row that the filters choose, e.g. "loss=bce"; if they choose several, the one that
    agrees with the row in every other column. The interval (95 %) is a bootstrap over the images of the split, with the
    same images for both rows; it needs the predictions of every run of both (`mltrain.report.predictions`).

    Args:
        baseline: filters (`Filter.parse`).
        figure: "map", "map_head" ..., or "accuracy" ... for single labels; None: the main figure of the task.
        resamples: number of resamples of the images; 0: no intervals.
        seed: seed of the resamples.

    Raises:
        ValueError: a filter cannot be read, no row of the table is chosen, or no row has the figure.
    """
    texts = [baseline] if isinstance(baseline, str) else list(baseline)
    filters = [Filter.parse(text) for text in texts]
    figure = figure or table.headline[0]
    for row in table.rows:
        row.is_baseline = all(item.matches(row.runs[0]) for item in filters)
        row.difference = None
    bases = [row for row in table.rows if row.is_baseline]
    if not bases:
        raise ValueError(f"{table.dataset}: none of the finished runs is {' '.join(texts)}, the baseline")
    if not table.has(figure):
        raise ValueError(f"{table.dataset}: no run has the figure {figure}")
    resampled = _Resampled(table, figure, resamples, seed)
    named = {item.key for item in filters}
    columns = [*table.columns, *(item.key for item in table.implied)]
    for row in table.rows:
        base = None if row.is_baseline else _baseline_of(row, bases, named, columns)
        if base is None or figure not in row.figures or figure not in base.figures:
            continue
        value = row.figures[figure].mean - base.figures[figure].mean
        low, high, why = None, None, ""
        if resamples:
            try:
                _check_folds(row, base)
                of_base = resampled.mean(base)  # first: its images are those that the others are checked against
                interval = percentile_interval(value, resampled.mean(row) - of_base)
                low, high = interval.low, interval.high
            except DataError as error:
                why = str(error)
        row.difference = Difference(value, low, high, figure, base, why)


def _check_folds(row: Row, base: Row) -> None:
    """Refuse rows of different folds: their images differ. Raises DataError."""
    own, others = (sorted(set(map(fold_of, each.runs))) for each in (row, base))
    if set(own) != set(others):
        raise DataError(f"has the folds {own}, the baseline {others}: no interval of differing images")


def _baseline_of(row: Row, bases: list[Row], named: set[str], columns: Sequence[str]) -> Row | None:
    """Return the one baseline that agrees with the row in all columns that the filters do not name, or None."""
    if len(bases) == 1:
        return bases[0]
    # Columns that a filter names, whole or in part, are those in which the row may differ from its baseline.
    free = [k for k in columns if named.isdisjoint({k, k.partition(".")[0], k.rpartition(".")[2]})]

    def others(of: Row) -> list[str]:
        settings = of.runs[0].settings
        return [spelled(settings[key]) if key in settings else "" for key in free]

    found = [base for base in bases if others(base) == others(row)]
    return found[0] if len(found) == 1 else None


class _Resampled:
    """Resampled figures of the runs of a table, each computed once."""

    def __init__(self, table: Comparison, figure: str, resamples: int, seed: int) -> None:
        self.table, self.figure, self.resamples, self.seed = table, figure, resamples, seed
        self.images: dict[int, tuple[tuple[str, ...], NDArray[np.int8], tuple[str, ...]]] = {}
        """of the split, by fold: files, targets and classes that all runs must have"""
        self.weights: dict[int, NDArray[np.integer]] = {}
        self.known: dict[Path, NDArray[np.float64] | DataError] = {}

    def mean(self, row: Row) -> NDArray[np.float64]:
        """Return the mean over the seeds of a row, `(R,)`. Raises DataError if a run has no fitting predictions."""
        return np.mean(np.stack([self.of(run) for run in row.runs]), axis=0)

    def of(self, run: RunRecord) -> NDArray[np.float64]:
        """Return the figure of a run in each resample, `(R,)`; raises as `mean`."""
        if run.folder not in self.known:
            try:
                self.known[run.folder] = self._compute(run)
            except DataError as error:  # without the folder, so that runs with the same problem have the same reason
                self.known[run.folder] = DataError(str(error).replace(str(run.folder), "RUN"))
        found = self.known[run.folder]
        if isinstance(found, DataError):
            raise found
        return found

    def _compute(self, run: RunRecord) -> NDArray[np.float64]:
        weights = None if self.table.weights == "best" else self.table.weights
        saved = run.predictions(self.table.split, weights)
        # Folds are validated on different images, so each is resampled by itself.
        fold = fold_of(run) if self.table.split == "val" else 0
        if fold not in self.images:
            self.images[fold] = saved.files, saved.targets, saved.class_names
            self.weights[fold] = resample(len(saved.files), self.resamples, self.seed + fold)
        files, targets, names = self.images[fold]
        if saved.files != files or saved.class_names != names or not np.array_equal(saved.targets, targets):
            raise DataError(f"{run.folder}: was evaluated on other images, classes or labels than the baseline")
        groups = run_groups(run)
        once = figure_of(run, saved, np.ones((1, len(files)), dtype=np.int64), groups, self.figure)[0]
        reported = run.scalars(self.table.split, self.table.weights)[self.figure]
        if not abs(once - reported) <= AGREE:
            raise DataError(
                f"{run.folder}: its predictions give {self.figure} {once:.2f}, result.json has {reported:.2f}: they "
                "are of another evaluation"
            )
        return figure_of(run, saved, self.weights[fold], groups, self.figure)


def figure_of(
    run: RunRecord,
    saved: SavedPredictions,
    weights: NDArray[np.integer],
    groups: Mapping[str, NDArray[np.int64]],
    figure: str,
) -> NDArray[np.float64]:
    """Compute a figure `(R,)` of a run under weights of the images `(R, N)`, with the run's own metrics settings.

    Raises:
        DataError: this figure cannot be resampled.
    """
    metrics = run.config.get("metrics", {})
    name = figure.partition("_")[2]
    wanted = {name: groups[name]} if name in groups else {}
    found: dict[str, NDArray[np.float64]] = {}
    if figure in ("map", f"map_{name}") and run.task == "multi_label":
        keys = ("absent", "min_positives", "min_negatives")
        options = {key: metrics[key] for key in keys if key in metrics}
        found = resampled_figures(saved.logits, saved.targets, weights, wanted, **options)
    elif figure in ("accuracy", f"accuracy_{name}") and run.task != "multi_label":
        found = resampled_accuracy(saved.logits, saved.targets, weights, wanted)
    if figure not in found:
        raise DataError(
            f"{figure}: no interval; there are intervals for map and accuracy, of all classes or of a group"
        )
    return found[figure]


def run_groups(run: RunFolder) -> dict[str, NDArray[np.int64]]:
    """Return the classes of head, medium, tail ..., and "seen" where some are unseen.

    Raises:
        DataError: stats.json is missing or cannot be read.
    """
    if run.stats is None:
        raise DataError(f"{run.folder / STATS}: is missing")
    groups = run.stats.group_indices()
    if "unseen" in groups:
        groups["seen"] = np.setdiff1d(np.arange(len(run.stats.class_names)), groups["unseen"])
    return groups
