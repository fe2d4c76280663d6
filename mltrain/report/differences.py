"""Differences of the rows of a table to a baseline, with intervals over test images.

add_differences(table, "loss=bce")
row.difference.value, row.difference.low, row.difference.high       # of mAP, in percent
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mltrain.errors import DataError
from mltrain.labels import LabelStats
from mltrain.report.bootstrap import percentile_interval, resample, resampled_accuracy, resampled_figures
from mltrain.report.compare import Difference, Row, Table
from mltrain.report.predictions import SavedPredictions, load_predictions
from mltrain.report.runs import Filter, RunRecord, spelled

AGREE = 0.01
"""Percent by which a figure from kept predictions may differ from result.json."""


def add_differences(
    table: Table, baseline: str | Sequence[str], *, figure: str | None = None, resamples: int = 1000, seed: int = 0
) -> None:
    """Fill `Row.difference` of every row but the baselines, and `Row.is_baseline`.

    The baseline of a row is the row that the filters choose, e.g. "loss=bce"; of several, the one that agrees with the
    row in every other column. The interval (95 %) is the bootstrap's over the images of the split, with the same images
    for both rows; it needs the predictions of every run of both (`mltrain.report.predictions`).

    Args:
        baseline: filters (`Filter.parse`).
        figure: "map", "map_head" ..., or "accuracy" ... of single labels; None: the first of the table's headline.
        resamples: of the images; 0: no intervals.
        seed: of the resamples.

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
    if not any(figure in row.figures for row in table.rows):
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
                of_base = resampled.mean(base)  # first: its images are those that the others must have
                interval = percentile_interval(value, resampled.mean(row) - of_base)
                low, high, why = interval.low, interval.high, ""
            except DataError as error:
                why = str(error)
        row.difference = Difference(value, low, high, figure, base, why)


def _baseline_of(row: Row, bases: list[Row], named: set[str], columns: Sequence[str]) -> Row | None:
    """The baseline that agrees with the row in all that differs and that the filters do not name, if it is one."""
    if len(bases) == 1:
        return bases[0]
    free = [k for k in columns if named.isdisjoint({k, k.partition(".")[0], k.rpartition(".")[2]})]

    def others(of: Row) -> list[str]:
        settings = of.runs[0].settings
        return [spelled(settings[key]) if key in settings else "" for key in free]

    found = [base for base in bases if others(base) == others(row)]
    return found[0] if len(found) == 1 else None


class _Resampled:
    """Resampled figures of the runs of a table, each computed once."""

    def __init__(self, table: Table, figure: str, resamples: int, seed: int) -> None:
        self.table, self.figure, self.resamples, self.seed = table, figure, resamples, seed
        self.images: tuple[tuple[str, ...], NDArray[np.int8], tuple[str, ...]] | None = None
        self.weights: NDArray[np.integer] | None = None
        self.known: dict[Path, NDArray[np.float64] | DataError] = {}

    def mean(self, row: Row) -> NDArray[np.float64]:
        """Over the seeds of a row, `(R,)`. Raises DataError where a run's predictions are not to be had."""
        total: NDArray[np.float64] = np.mean(np.stack([self.of(run) for run in row.runs]), axis=0)
        return total

    def of(self, run: RunRecord) -> NDArray[np.float64]:
        if run.folder not in self.known:
            try:
                self.known[run.folder] = self._compute(run)
            except DataError as error:  # one reason for all the runs that have it
                self.known[run.folder] = DataError(str(error).replace(str(run.folder), "RUN"))
        found = self.known[run.folder]
        if isinstance(found, DataError):
            raise found
        return found

    def _compute(self, run: RunRecord) -> NDArray[np.float64]:
        weights = None if self.table.weights == "best" else self.table.weights
        kept = load_predictions(run.folder, split=self.table.split, weights=weights)
        if self.images is None:
            self.images = kept.files, kept.targets, kept.class_names
            self.weights = resample(len(kept.files), self.resamples, self.seed)
        files, targets, names = self.images
        if kept.files != files or kept.class_names != names or not np.array_equal(kept.targets, targets):
            raise DataError(f"{run.folder}: was evaluated on other images, classes or labels than the baseline")
        assert self.weights is not None
        groups = run_groups(run)
        once = figure_of(run, kept, np.ones((1, len(files)), dtype=np.int64), groups, self.figure)[0]
        reported = run.scalars(self.table.split, self.table.weights)[self.figure]
        if not abs(once - reported) <= AGREE:
            raise DataError(
                f"{run.folder}: its predictions give {self.figure} {once:.2f}, result.json has {reported:.2f}: they "
                "are of another evaluation"
            )
        return figure_of(run, kept, self.weights, groups, self.figure)


def figure_of(
    run: RunRecord,
    kept: SavedPredictions,
    weights: NDArray[np.integer],
    groups: Mapping[str, NDArray[np.int64]],
    figure: str,
) -> NDArray[np.float64]:
    """A figure of a run under weights of the images `(R, N)`, `(R,)`, with the run's own metrics settings.

    Raises:
        DataError: there is no such figure to resample.
    """
    metrics = run.config.get("metrics", {})
    name = figure.partition("_")[2]
    wanted = {name: groups[name]} if name in groups else {}
    found: dict[str, NDArray[np.float64]] = {}
    if figure in ("map", f"map_{name}") and run.task == "multi_label":
        keys = ("absent", "min_positives", "min_negatives")
        options = {key: metrics[key] for key in keys if key in metrics}
        found = resampled_figures(kept.logits, kept.targets, weights, wanted, **options)
    elif figure in ("accuracy", f"accuracy_{name}") and run.task != "multi_label":
        found = resampled_accuracy(kept.logits, kept.targets, weights, wanted)
    if figure not in found:
        raise DataError(f"{figure}: no interval; intervals are made for map, accuracy and these of a group")
    return found[figure]


def run_groups(run: RunRecord) -> dict[str, NDArray[np.int64]]:
    """Classes of head, medium, tail ... of a run's training set, and "seen" where some are unseen.

    Raises:
        DataError: stats.json cannot be read.
    """
    path = run.folder / "stats.json"
    try:
        stats = LabelStats.from_arrays(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    groups = stats.group_indices()
    if "unseen" in groups:
        groups["seen"] = np.setdiff1d(np.arange(len(stats.class_names)), groups["unseen"])
    return groups
