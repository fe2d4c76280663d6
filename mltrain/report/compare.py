"""Comparisons of runs: what differs between them, mean and spread over seeds and folds, differences to a baseline.

    tables = compare(records)                        # of report.runs.read_runs; one Comparison for each data set
    table.columns                                    # settings that differ between its rows: ["loss", "sampler", ...]
    for row in table.rows:                           # runs that differ in nothing but seed and fold
        row.settings["loss"], row.figures["map"]     # Score(mean, std, values); in percent
    table.unfinished                                 # runs without a result, with their status and note
    report.differences.add_differences(table, "loss=bce")     # fills row.difference: Difference(value, low, high)

Every setting that can change a result and differs between the runs is a column, with two exceptions. Options of a
component are compared with those of the same component only (ASL's `gamma_neg` means nothing for BCE). A setting that
follows from a column is left out (`schedule.epochs` follows `runner.epochs`) or, if it has values of its own, is in
`table.implied` and the notes (every ML-Decoder run has 224 px).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from mltrain.engine.run_folder import CONFIG, RESULT
from mltrain.errors import DataError
from mltrain.report.runs import RunRecord, is_number, lookup, spelled
from mltrain.report.tables import HEADLINES

Split = Literal["auto", "val", "test"]
# Shown even if another component or option explains them: they matter for every comparison.
ALWAYS = ("model.image_size", "model.pretrained", "optimizer.lr", "head.prior")
REPEATS = ("seed", "dataset.fold")
"""Settings that repeat a training: figures are averaged over their values."""
SECTIONS = (
    *("dataset", "partial", "model", "head", "loss", "sampler", "augment", "eval_resize", "mix"),
    *("optimizer", "schedule", "ema", "curriculum"),
)


class Score(NamedTuple):
    """A figure over seeds, or over folds."""

    mean: float
    std: float | None
    """standard deviation of the sample (n - 1); None for one run"""
    values: tuple[float, ...]
    """one per run, in the order of `Row.runs`"""

    @classmethod
    def of(cls, values: Sequence[float]) -> Score:
        """Average the values of the runs of a row."""
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), std, tuple(values))


@dataclass(frozen=True)
class Difference:
    """Difference of a row's figure to the baseline's, each the mean over seeds."""

    value: float
    low: float | None
    high: float | None
    """bounds of the paired 95 % interval over test images, or None: `why` has the reason, if one was asked for"""
    figure: str
    baseline: Row
    why: str = ""
    """RUN in it stands for the folder of a run"""


@dataclass(eq=False)
class Row:
    """Runs that differ in nothing but their seed and fold."""

    settings: dict[str, Any]
    """by column of the table; a component that has no such option has no such key"""
    runs: list[RunRecord]
    """finished, by seed, then by fold"""
    unfinished: list[RunRecord]
    figures: dict[str, Score] = field(default_factory=dict)
    """those that all finished runs have, "seconds" and "images_per_second" among them"""
    is_baseline: bool = False
    difference: Difference | None = None

    @property
    def first(self) -> RunRecord:
        """A run that stands for all of them, a finished one if there is one."""
        return (self.runs or self.unfinished)[0]

    @property
    def label(self) -> str:
        """Settings that tell the row from the others, `loss=asl head=gap`; the name of its runs if there are none."""
        text = " ".join(f"{key}={spelled(value)}" for key, value in self.settings.items())
        return text or self.first.name


class Implied(NamedTuple):
    """A setting whose value follows from that of a column."""

    key: str
    column: str
    values: dict[str, str]
    """value of the column -> value of the setting, both as overrides spell them"""


@dataclass(eq=False)
class Comparison:
    """Runs on one data set, to be shown as a table."""

    dataset: str
    task: str
    split: str
    """split of the figures: "val" or "test" """
    weights: str
    """"best" (by the validation split), "val" (raw) or "ema" """
    columns: list[str]
    """settings that differ, the most important first"""
    rows: list[Row]
    """those with a finished run, the best first"""
    unfinished: list[RunRecord]
    implied: list[Implied] = field(default_factory=list)
    headline: tuple[str, ...] = ()
    """the main figures of the task"""
    notes: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[RunRecord]:
        """All finished runs."""
        return [run for row in self.rows for run in row.runs]

    @property
    def repeats(self) -> str:
        """Name of the runs of a row: "seeds", "folds", or "runs" if they differ in both."""
        folds, seeds = len({fold_of(run) for run in self.records}), len({run.seed for run in self.records})
        return "seeds" if folds < 2 else "folds" if seeds < 2 else "runs"

    def has(self, figure: str) -> bool:
        """Return whether a row has the figure."""
        return any(figure in row.figures for row in self.rows)

    def sort(self, figure: str, *, descending: bool = True) -> None:
        """Sort the rows by a figure; rows without it come last."""
        sign = -1 if descending else 1
        self.rows.sort(key=lambda row: sign * row.figures[figure].mean if figure in row.figures else math.inf)


def compare(records: Sequence[RunRecord], *, split: Split = "auto", weights: str = "best") -> list[Comparison]:
    """Make a comparison for each data set and task, sorted by name.

    Args:
        records: of `read_runs`, perhaps filtered.
        split: split of the figures; "auto" is the test split if every finished run of a data set has one, else
            validation.
        weights: "best": those that validation chose, run by run; "val" raw; "ema".

    Raises:
        DataError: a finished run has no figures of the split and weights asked for.
    """
    unreadable = [record for record in records if record.status == "unreadable"]
    kinds = sorted({(r.dataset, r.task) for r in records if r.status != "unreadable"})
    tables = []
    for dataset, task in kinds:
        own = [r for r in records if r.status != "unreadable" and (r.dataset, r.task) == (dataset, task)]
        tables.append(_compare(own, dataset, task, split, weights))
    if unreadable:
        if not tables:
            tables.append(Comparison("(none)", "multi_label", "val", weights, [], [], []))
        tables[-1].unfinished += unreadable
    return tables


def _compare(records: list[RunRecord], dataset: str, task: str, split: Split, weights: str) -> Comparison:
    records, repeated = _newest(records)
    finished = [r for r in records if r.finished]
    if split == "auto":
        split = "test" if finished and all(r.split == "test" for r in finished) else "val"
    by_setting: dict[str, Row] = {}
    for record in sorted((r for r in records if r.config), key=lambda r: (r.seed, fold_of(r), str(r.folder))):
        row = by_setting.setdefault(_identity(record, repeats=False), Row({}, [], []))
        (row.runs if record.finished else row.unfinished).append(record)
    columns, implied = _without_implied(differing([r for r in records if r.config]), list(by_setting.values()))
    for row in by_setting.values():
        row.settings = {key: row.first.settings[key] for key in columns if key in row.first.settings}
    rows = [row for row in by_setting.values() if row.runs]
    for row in rows:
        row.figures = _figures(row.runs, split, weights)
    headline = next((keys for keys in HEADLINES if any(keys[0] in row.figures for row in rows)), HEADLINES[0])
    unfinished = [r for r in records if not r.finished]
    table = Comparison(dataset, task, split, weights, columns, rows, unfinished, implied, headline)
    table.sort(headline[0])
    table.notes += _notes(table, finished)
    if repeated:
        table.notes.append(f"{repeated} runs repeat another with the same settings and seed; the newest one counts.")
    return table


def fold_of(record: RunRecord) -> int:
    """Return the fold that validated a run; 0 for runs without folds."""
    fold = record.settings.get("dataset.fold")
    return fold if isinstance(fold, int) else 0


def _identity(record: RunRecord, *, repeats: bool) -> str:
    kept = ((key, spelled(value)) for key, value in record.settings.items() if repeats or key not in REPEATS)
    return repr(sorted(kept))


def _newest(records: list[RunRecord]) -> tuple[list[RunRecord], int]:
    """Keep one run per settings and seed, a finished one if there is one; return also how many were left out."""
    kept: dict[str, RunRecord] = {}

    def age(record: RunRecord) -> tuple[bool, float]:
        path = record.folder / (RESULT if record.finished else CONFIG)
        return record.finished, path.stat().st_mtime if path.is_file() else 0.0

    for record in records:
        same = _identity(record, repeats=True)
        if same not in kept or age(record) > age(kept[same]):
            kept[same] = record
    return list(kept.values()), len(records) - len(kept)


def _figures(runs: list[RunRecord], split: str, weights: str) -> dict[str, Score]:
    tables = []
    for run in runs:
        scalars = run.scalars(split, weights)
        if not scalars:
            raise DataError(f"{run.folder}: has no figures of the {split} split and the weights {weights!r}")
        tables.append(scalars)
    keys = [key for key in tables[0] if all(is_number(table.get(key)) for table in tables)]
    figures = {key: Score.of([table[key] for table in tables]) for key in keys}
    for key in ("seconds", "images_per_second"):
        values = [run.result.get(key) for run in runs]
        if all(is_number(value) for value in values):
            figures[key] = Score.of([float(value) for value in values if value is not None])
    return figures


def _notes(table: Comparison, finished: list[RunRecord]) -> list[str]:
    notes = []
    if table.split == "val" and finished:
        notes.append("Epoch and weights were chosen on the images that are reported (no test split).")
    # Settings that follow from the same column are named in one sentence per value of it.
    for column in dict.fromkeys(item.column for item in table.implied):
        items = [item for item in table.implied if item.column == column]
        for value in items[0].values:
            text = ", ".join(f"{item.key}={item.values[value]}" for item in items if value in item.values)
            notes.append(f"Every run with {column}={value} has {text}.")
    by = sorted({run.best_by for run in finished})
    if len(by) > 1:
        notes.append(f"The epoch was not chosen by the same figure in all runs: {', '.join(by)}.")
    machines = sorted({run.machine for run in finished if run.machine})
    if len(machines) > 1:
        notes.append(f"Times are not comparable: the runs were on {'; '.join(machines)}.")
    repeats = {len(row.runs) for row in table.rows}
    if len(repeats) > 1:
        notes.append(f"Rows have from {min(repeats)} to {max(repeats)} {table.repeats}.")
    for row in table.rows:
        wanted, found = int(row.first.settings.get("dataset.folds") or 0), {fold_of(run) for run in row.runs}
        if 0 < len(found) < wanted:
            missing = ", ".join(str(fold) for fold in range(wanted) if fold not in found)
            notes.append(f"{row.label}: {len(found)} of {wanted} folds; without {missing}.")
    corrupt = sum(1 for run in finished if run.result.get("corrupt_images"))
    if corrupt:
        notes.append(f"{corrupt} runs skipped images that could not be decoded (corrupt_images in result.json).")
    return notes


# -- settings that differ --------------------------------------------------------------------------------------------


def differing(records: Sequence[RunRecord]) -> list[str]:
    """Return the settings by which runs of one data set differ, except seed and fold.

    Components come first, then the built-in sections, then other options.
    """
    present: dict[str, None] = {}
    for record in records:
        present |= dict.fromkeys(record.settings)
    found = [key for key in present if key not in REPEATS and _differs(key, records)]
    found.sort(key=_rank)
    kept: list[str] = []
    # Sorted by importance, so that a less important setting is left out for a more important one, never the reverse.
    for key in found:
        if key in ALWAYS or not any(_follows(key, other, records) for other in kept):
            kept.append(key)
    return kept


def _rank(key: str) -> tuple[int, int, str]:
    section, _, option = key.partition(".")
    place = SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)
    if not option:
        return 0, place, ""
    return (1 if section == "runner" else 2 if key in ALWAYS else 3), place, key


def _differs(key: str, records: Sequence[RunRecord]) -> bool:
    """Return whether a setting differs: an option of a component between runs with that component, else between any."""
    section = key.partition(".")[0]
    by_component: dict[str, set[str]] = {}
    for record in records:
        if key in record.settings:
            # Options of different components are not compared with each other, except those of `ALWAYS`.
            target = "" if key in ALWAYS else str(record.settings.get(f"{section}._target_", ""))
            by_component.setdefault(target, set()).add(spelled(record.settings[key]))
    if key == section or key.endswith("._target_"):  # one name may stand for two classes
        return len(set().union(*by_component.values())) > 1 or (
            key == section and any(key not in record.settings for record in records)
        )
    return any(len(values) > 1 for values in by_component.values())


def _follows(key: str, other: str, records: Sequence[RunRecord]) -> bool:
    """Return whether the column `other` determines `key`: as its component, or with the same last name and values."""
    section = key.partition(".")[0]
    if other == section:
        return all(len(values) == 1 for values in _values_by(other, key, records).values())
    same_name = key.rpartition(".")[2] == other.rpartition(".")[2]
    return same_name and all(values == {name} for name, values in _values_by(other, key, records).items())


def _values_by(column: str, key: str, records: Iterable[RunRecord]) -> dict[str, set[str]]:
    """Return the values of `key` for each value of `column`, as overrides spell them; "" for runs without it."""
    found: dict[str, set[str]] = {}
    for record in records:
        name, value = (spelled(record.settings[k]) if k in record.settings else "" for k in (column, key))
        found.setdefault(name, set()).add(value)
    return found


def _without_implied(columns: list[str], rows: Sequence[Row]) -> tuple[list[str], list[Implied]]:
    """Split columns into those to show and those that follow from a component which several rows share."""
    kept: list[str] = []
    implied: list[Implied] = []
    for key in columns:
        for column in (c for c in kept if "." not in c):
            found = _values_by(column, key, [row.first for row in rows])
            # With as many components as rows every setting would follow from the component, by chance.
            if len(found) < len(rows) and all(len(values) == 1 for values in found.values()):
                values = {name: value for name, (value,) in found.items() if value}
                implied.append(Implied(key, column, values))
                break
        else:
            kept.append(key)
    return kept, implied


def sort_rows(table: Comparison, key: str) -> None:
    """Sort by a figure (the best first) or a setting; `-key` sorts the other way round.

    Raises:
        ValueError: no row has the figure or setting.
    """
    reverse, key = key.startswith("-"), key.lstrip("-")
    if table.has(key):
        table.sort(key, descending=(key == "seconds") == reverse)  # less time is better
        return
    values = {id(row): lookup(row.runs[0], key) for row in table.rows}
    if not any(found for found, _ in values.values()):
        raise ValueError(f"sort={key}: {table.dataset} has no such figure or setting")

    def order(row: Row) -> tuple[bool, bool, float, str]:
        found, value = values[id(row)]
        number = is_number(value)
        return not found, not number, float(value) if number else 0.0, spelled(value)

    table.rows.sort(key=order, reverse=reverse)
