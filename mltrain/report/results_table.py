"""A comparison of runs as a table for the terminal, in Markdown or CSV."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mltrain.engine.run_folder import RESULT, SPLITS, WEIGHTS
from mltrain.report.compare import Comparison, Row, Score
from mltrain.report.published import Published
from mltrain.report.runs import lookup, spelled
from mltrain.report.tables import markdown_table, short_title
from mltrain.text import counted, csv_cell

TITLES = {"seconds": "time", "images_per_second": "img/s"}
"""of columns that are no figures of the metrics"""
NOT_RANKED = frozenset(
    {
        *("seconds", "images_per_second", "runs", "classes_without_positives", "classes_below_support"),
        *("coverage_error", "ranking_loss"),  # less is better
    }
)
LONGEST = 44
"""Characters of a setting in a table; of a longer one, usually a path, the end is shown."""


class Cell(NamedTuple):
    """Text of a cell, and whether it is the best of its column."""

    text: str
    best: bool = False


class Cells(NamedTuple):
    """The texts of a table."""

    header: list[str]
    rows: list[list[Cell]]
    left: frozenset[int]
    """columns that hold text, aligned to the left"""


def default_columns(table: Comparison) -> list[str]:
    """Return the figures of the task, seeds, time and throughput, as far as the runs have them."""
    present = [key for key in (*table.headline, "map_unseen") if table.has(key)]
    times = [key for key in ("seconds", "images_per_second") if table.has(key)]
    return [*present, "runs", *times]


def chosen_columns(table: Comparison, asked: Sequence[str]) -> list[str]:
    """Return the columns asked for; each `+name` comes beside the default ones.

    Raises:
        ValueError: no run of the comparison has a column.
    """
    added = [name[1:] for name in asked if name.startswith("+")]
    columns = [name for name in asked if not name.startswith("+")] or default_columns(table)
    columns += [name for name in added if name not in columns]
    for name in columns:
        if table.rows and not has_column(table, name):
            figures = ", ".join(table.rows[0].figures)
            raise ValueError(f"columns: {table.dataset} has no {name!r}; figures: {figures}; or a key of the config")
    return columns


def has_column(table: Comparison, name: str) -> bool:
    """Return whether a run of the comparison has the figure or setting; `+name` means `name`."""
    name = name.lstrip("+")
    return name == "runs" or table.has(name) or any(lookup(row.runs[0], name)[0] for row in table.rows)


def table_cells(table: Comparison, columns: Sequence[str]) -> Cells:
    """Fill the cells: settings that differ, the columns, and the difference to a baseline if there is one."""
    settings = list(table.columns)
    settings += [c for c in columns if c != "runs" and not table.has(c) and c not in settings]
    shown = [c for c in columns if c not in settings]
    best = {c: _best(table.rows, c) for c in shown}
    figure = next((row.difference.figure for row in table.rows if row.difference), None)
    header = [key.removeprefix("runner.") for key in settings] or ["run"]
    header += [table.repeats if c == "runs" else TITLES.get(c) or short_title(c) for c in shown]
    if figure is not None:
        header.append(f"{short_title(figure)} - baseline")
    rows = []
    for row in table.rows:
        line = [Cell(_setting(row, key)) for key in settings] or [Cell(row.label)]
        for c in shown:
            line.append(Cell(_figure_text(row, c), best[c] is not None and _rounded(row, c) == best[c]))
        if figure is not None:
            line.append(Cell(difference_text(row)))
        rows.append(line)
    return Cells(header, rows, frozenset(range(max(1, len(settings)))))


def _setting(row: Row, key: str) -> str:
    found, value = (True, row.settings[key]) if key in row.settings else lookup(row.runs[0], key)
    text = spelled(value) if found else ""
    return text if len(text) <= LONGEST else "…" + text[1 - LONGEST :]


def _best(rows: Sequence[Row], column: str) -> float | None:
    """Return the best value as shown, or None where there is nothing to choose from."""
    if column in NOT_RANKED or len(rows) < 2:
        return None
    values = [value for value in (_rounded(row, column) for row in rows) if value is not None]
    return max(values) if len(set(values)) > 1 else None


def _rounded(row: Row, column: str) -> float | None:
    return round(row.figures[column].mean, 2) if column in row.figures else None


def _figure_text(row: Row, column: str) -> str:
    if column == "runs":
        total = len(row.runs) + len(row.unfinished)
        return str(total) if not row.unfinished else f"{len(row.runs)} of {total}"
    if column not in row.figures:
        return "-"
    figure = row.figures[column]
    if column == "seconds":
        return duration(figure.mean)
    if column == "images_per_second":
        return f"{figure.mean:.0f}" if figure.mean >= 10 else f"{figure.mean:.1f}"
    return mean_text(figure)


def mean_text(score: Score) -> str:
    """Return `40.79 ± 0.31`, or the mean alone for one run."""
    return f"{score.mean:.2f}" + (f" ± {score.std:.2f}" if score.std is not None else "")


def difference_text(row: Row) -> str:
    """Return `+5.10 [+3.21, +7.02]`, with the 95 % interval if there is one."""
    if row.is_baseline:
        return "baseline"
    if row.difference is None:
        return "-"
    d = row.difference
    return f"{d.value:+.2f}" + (f" [{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None and d.high is not None else "")


def duration(seconds: float) -> str:
    """Return a time as `42 s`, `5.4 min` or `3.2 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def heading(table: Comparison) -> str:
    """Return the line above a table: data set, split, weights and number of runs."""
    weights = "best weights" if table.weights == "best" else f"{WEIGHTS[table.weights]} weights"
    return f"{table.dataset}: {SPLITS[table.split]} split, {weights}, percent; {counted(len(table.records), 'run')}"


def remarks(table: Comparison) -> list[str]:
    """Return notes on the table, on how to read its differences, and on missing intervals."""
    notes = list(table.notes)
    found = [row.difference for row in table.rows if row.difference is not None]
    if found:
        text = f"Difference to the baseline {found[0].baseline.label}"
        if len({id(d.baseline) for d in found}) > 1:
            text = "Difference to the baseline with the same other settings"
        if any(d.low is not None for d in found):
            text += f"; in brackets 95 % of paired resamples of the images ({table.repeats} are not resampled)"
        notes.append(text + ".")
        if len(found) > 5 and any(d.low is not None for d in found):
            notes.append(f"Of {len(found)} such intervals some miss their difference by chance: about one in twenty.")
    for why, count in Counter(d.why for d in found if d.why).items():
        notes.append(f"No interval in {counted(count, 'row')}: {why}.")
    return notes


def unfinished_lines(table: Comparison) -> list[str]:
    """Return one line per run without a result."""
    return [f"{run.status}: {run.folder} ({run.note or f'no {RESULT}'})" for run in table.unfinished]


# -- layouts ---------------------------------------------------------------------------------------------------------


def terminal(table: Comparison, columns: Sequence[str], *, bold: bool, published: Sequence[Published] = ()) -> str:
    """Lay out plain text; the best figures are bold, or marked `*` if the terminal has no bold text."""
    lay = functools.partial(_aligned, bold=bold)
    return _laid_out(table, columns, published, lay, head=heading(table), mark="  ", gap=[])


def markdown(table: Comparison, columns: Sequence[str], published: Sequence[Published] = ()) -> str:
    """Lay out a Markdown section; the best figures are bold."""
    return _laid_out(table, columns, published, _pipes, head=f"### {heading(table)}", mark="- ", gap=[""])


def _laid_out(
    table: Comparison,
    columns: Sequence[str],
    published: Sequence[Published],
    lay: Callable[[Cells], list[str]],
    *,
    head: str,
    mark: str,
    gap: list[str],
) -> str:
    """Lay out table, published figures, notes, unfinished runs; items of a list have `mark`, after the lines `gap`."""
    lines = [head, ""]
    if table.rows:
        lines += [*lay(table_cells(table, columns)), ""]
    if published:
        lines += ["Published, and how it differs:", "", *lay(published_cells(table, published)), *gap]
        lines += [*(mark + name for name in _sources(published)), ""]
    if notes := remarks(table):
        lines += [*(f"- {note}" for note in notes), ""]
    if table.unfinished:
        lines += ["Without a result:", *gap, *(mark + line for line in unfinished_lines(table)), ""]
    return "\n".join(lines)


def _aligned(table: Cells, *, bold: bool) -> list[str]:
    marks = [not bold and any(row[k].best for row in table.rows) for k in range(len(table.header))]
    lines = [[Cell(text + " " * mark) for text, mark in zip(table.header, marks, strict=True)]]
    lines += [[Cell(c.text + ("*" if c.best else " ") * marks[k], c.best) for k, c in enumerate(r)] for r in table.rows]
    widths = [max(len(line[k].text) for line in lines) for k in range(len(marks))]

    def laid_out(line: Sequence[Cell]) -> str:
        parts = []
        for k, (cell, width) in enumerate(zip(line, widths, strict=True)):
            padded = cell.text.ljust(width) if k in table.left else cell.text.rjust(width)
            padded = padded.rstrip() if k == len(widths) - 1 else padded
            parts.append(f"\033[1m{padded}\033[0m" if cell.best and bold else padded)
        return "  ".join(parts).rstrip()

    first, *rest = map(laid_out, lines)
    return [first, "-" * min(len(first), 160), *rest]


def _pipes(table: Cells) -> list[str]:
    rows = ([f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in table.rows)
    return [markdown_table(table.header, rows, left=table.left)]


def published_cells(table: Comparison, published: Sequence[Published]) -> Cells:
    """Fill the cells of published figures, in the columns of the main figures of the task."""
    keys = [key for key in (*table.headline, "map_unseen") if any(key in item.figures for item in published)]
    header = ["method", *map(short_title, keys), "source", "differs from these runs in"]
    rows = []
    for item in published:
        digits = 1 if all(round(value, 1) == value for value in item.figures.values()) else 2  # as they are printed
        figures = [Cell(f"{item.figures[key]:.{digits}f}" if key in item.figures else "-") for key in keys]
        rows.append(
            [Cell(item.label), *figures, Cell(f"[{item.mark}]"), Cell("; ".join(item.differences) or "nothing known")]
        )
    return Cells(header, rows, frozenset({0, len(header) - 2, len(header) - 1}))


def _sources(published: Sequence[Published]) -> list[str]:
    lines = []
    for item in published:
        metric = f"; metric: {', '.join(item.metric_differences)}" if item.metric_differences else ""
        lines.append(f"[{item.mark}] {item.source}{metric}")
    return list(dict.fromkeys(lines))


def to_csv(tables: Sequence[Comparison], asked: Sequence[str], published: Sequence[Sequence[Published]] = ()) -> str:
    """Write all comparisons as one CSV text: a line per row, unfinished run and published figure; plain numbers."""
    settings = list(dict.fromkeys(key for table in tables for key in (*table.columns, *(i.key for i in table.implied))))
    known = [name for name in asked if any(has_column(table, name) for table in tables)]
    names = []
    for table in tables:
        own = [name for name in asked if name not in known or has_column(table, name)]
        names += [name for name in chosen_columns(table, own) if name not in names]
    figures = [n for n in names if n != "runs" and any(table.has(n) for table in tables)]
    settings += [n for n in names if n not in figures and n != "runs" and n not in settings]
    spreads = [f"{name}_std" for name in figures]
    ends = ["difference", "difference_low", "difference_high", "difference_of", "baseline", "note"]
    fields = ["status", "dataset", "task", "split", "weights", *settings, "seeds", *figures, *spreads, *ends]
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, restval="", lineterminator="\n")
    writer.writeheader()

    def write(line: dict[str, Any]) -> None:
        writer.writerow({key: csv_cell(value) for key, value in line.items()})

    for k, table in enumerate(tables):
        where = {"dataset": table.dataset, "task": table.task, "split": table.split, "weights": table.weights}
        for row in table.rows:
            line: dict[str, Any] = {"status": "finished", **where, "seeds": len(row.runs)}
            for key in settings:
                found, value = lookup(row.runs[0], key)
                line[key] = spelled(value) if found else ""
            for name in figures:
                if name in row.figures:
                    score = row.figures[name]
                    line |= {name: _csv_number(score.mean), f"{name}_std": _csv_number(score.std)}
            if row.difference is not None:
                d = row.difference
                bounds = [_csv_number(value) for value in (d.value, d.low, d.high)]
                line |= dict(zip(ends, [*bounds, d.figure, d.baseline.label, d.why], strict=True))
            write(line)
        for run in table.unfinished:
            line = {"status": run.status, **where, "note": f"{run.folder}: {run.note}"}
            line |= {key: spelled(value) for key in settings for found, value in [lookup(run, key)] if found}
            write(line)
        for item in published[k] if published else ():
            note = "; ".join(
                [item.label, *item.differences, *(f"metric: {m}" for m in item.metric_differences), item.source]
            )
            line = {"status": "published", "dataset": table.dataset, "task": table.task, "note": note}
            write(line | {key: value for key, value in item.figures.items() if key in figures})
    return out.getvalue()


def _csv_number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.6g}"
