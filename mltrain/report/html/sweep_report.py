"""The page that compares runs: settings that differ, ranking, groups, curves, paired differences, unfinished jobs."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mltrain.engine.run_folder import METRICS, REPORT, SPLITS, WEIGHTS
from mltrain.errors import DataError
from mltrain.report.compare import Comparison, Row, fold_of
from mltrain.report.differences import add_differences
from mltrain.report.html import sweep_figures as figures
from mltrain.report.html.factors import Looks, looks_of
from mltrain.report.html.page import Column, Page, Table, duration, tile, write_page
from mltrain.report.repeat import command_of
from mltrain.report.runs import RunRecord, spelled
from mltrain.report.tables import meaning
from mltrain.report.tables import title as title_of
from mltrain.text import counted

FAILED = ("failed", "interrupted")


def write_sweep_report(
    tables: Sequence[Comparison],
    out: str | Path,
    *,
    title: str,
    jobs: Sequence[Mapping[str, Any]] = (),
    baseline: Sequence[str] = (),
    figure: str | None = None,
    resamples: int = 1000,
) -> Path:
    """Write the page and return its path.

    Args:
        tables: comparisons of `mltrain.report.compare.compare`, one for each data set.
        out: file; links to reports of single runs are relative to its folder.
        title: name of the folder that is compared.
        jobs: records of a sweep's jobs; those that failed are listed with their reason.
        baseline: filters that choose the baseline of differences (`loss=bce`); none: the best row of each table.
        figure: figure of the differences, "map_tail" for example; None: the main figure of the task.
        resamples: number of resamples of the images, for the intervals; 0: no intervals.

    Raises:
        DataError: there is nothing to compare.
        ValueError: the filters of the baseline choose no row.
        ConfigError: Plotly or Jinja2 is not installed.
    """
    path = Path(out)
    if not any(table.rows or table.unfinished for table in tables) and not jobs:
        raise DataError(f"{title}: there are no runs to compare")
    page = Page(title=title, subtitle=counted(sum(len(table.records) for table in tables), "finished run"))
    several = len(tables) > 1
    refused: list[ValueError] = []
    for k, table in enumerate(tables):
        alike = [other for other in tables if other.dataset == table.dataset]
        task = f", {table.task.replace('_', ' ')}" if len(alike) > 1 else ""
        name, on = f"t{k}", f" · {table.dataset}{task}" if several else ""
        if not table.rows:
            page.leave_out(f"Results{on}", "no run has finished")
            continue
        _add_overview(page, table, f"{name}-results", f"Results{on}")
        looks = looks_of(table)
        _add_pivot(page, table, f"{name}-pivot", f"Two settings{on}")
        _add_ranking(page, table, name, on, looks)
        _add_curves(page, table, name, on, looks)
        try:
            _add_differences(page, table, name, on, baseline, figure, resamples)
        except ValueError as error:  # one table of several may lack the baseline
            refused.append(error)
            page.leave_out(f"Differences{on}", str(error))
        _add_runs(page, table, f"{name}-runs", f"Runs{on}", path.parent)
    if refused and len(refused) == sum(bool(table.rows) for table in tables):
        raise refused[0]
    _add_unfinished(page, tables, jobs)
    write_page(path, page)
    return path


def _add_overview(page: Page, table: Comparison, name: str, title: str) -> None:
    best, key = table.rows[0], table.headline[0]
    seeds = sorted({len(row.runs) for row in table.rows})
    each = f"{counted(seeds[0], table.repeats[:-1])} each"
    each = each if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} {table.repeats}"
    tiles = [
        tile("runs", str(len(table.records)), f"{len(table.unfinished)} unfinished"),
        tile("settings", str(len(table.rows)), each),
    ]
    for figure in table.headline[:4]:
        if figure in best.figures:
            found = max((row for row in table.rows if figure in row.figures), key=lambda r: r.figures[figure].mean)
            score, label = found.figures[figure], figures.label_of(found)
            spread = f"± {score.std:.2f}" if score.std is not None else ""
            hint, most = meaning(figure), "best " if len(table.rows) > 1 else ""
            tiles.append(tile(f"{most}{title_of(figure)}", f"{score.mean:.2f}", label, spread=spread, hint=hint))
    total = sum(run.result.get("seconds") or 0.0 for run in table.records)
    tiles.append(tile("training, all runs", duration(total)))
    differs = []
    for column in table.columns:
        values = dict.fromkeys(spelled(row.settings[column]) for row in table.rows if column in row.settings)
        shown = ", ".join(list(values)[:12]) + (f" … ({len(values)})" if len(values) > 12 else "")
        differs.append((column, shown))
    weights = WEIGHTS.get(table.weights, table.weights)
    lead = f"{table.dataset}: figures of the {weights} weights on the {SPLITS[table.split]} split, in percent"
    lead += f", mean ± standard deviation over {table.repeats}." if seeds[-1] > 1 else "; one seed each."
    lead += f" Sorted by {title_of(key)}; click a heading to sort by it."
    context: dict[str, Any] = {"tiles": tiles, "differs": differs, "notes": table.notes}
    page.add(name, title, "sweep_results.html", lead=lead, table=_results_table(table), **context)


def _results_table(table: Comparison) -> Table:
    columns = [
        Column(key, [spelled(row.settings[key]) if key in row.settings else "" for row in table.rows], "text")
        for key in table.columns
    ] or [Column("run", [row.label for row in table.rows], "text")]
    columns.append(Column(table.repeats, [len(row.runs) for row in table.rows], digits=0))
    for key in table.headline:
        if table.has(key):
            scores = [row.figures.get(key) for row in table.rows]
            means = [None if score is None else score.mean for score in scores]
            spread = [None if score is None else score.std for score in scores]
            columns.append(Column(title_of(key), means, digits=2, best=True, spread=spread))
    for key, title, scale, digits in (("seconds", "minutes", 60, 1), ("images_per_second", "images/s", 1, 0)):
        if table.has(key):
            means = [row.figures[key].mean / scale if key in row.figures else None for row in table.rows]
            columns.append(Column(title, means, digits=digits))
    return Table(columns, search="search settings", page=50)


def _add_pivot(page: Page, table: Comparison, name: str, title: str) -> None:
    """Append a table over any two of the settings; there is none where fewer than two differ."""
    if len(table.columns) < 2:
        return
    shown = [key for key in table.headline if table.has(key)]
    rows = [
        {
            "settings": {key: spelled(value) for key, value in row.settings.items()},
            "figures": {key: [row.figures[key].mean, row.figures[key].std] for key in shown if key in row.figures},
        }
        for row in table.rows
    ]
    page.pivots[name] = {"columns": table.columns, "figures": {key: title_of(key) for key in shown}, "rows": rows}
    lead = "Choose two settings and a figure. A cell is the mean of all settings that have both values; ± as above."
    page.add(name, title, "sweep_pivot.html", lead=lead)


def _add_ranking(page: Page, table: Comparison, name: str, on: str, looks: Looks) -> None:
    single = table.task != "multi_label"
    key = table.headline[0]
    found = {
        "ranking": figures.ranking_figure(table, key, looks),
        "balance": figures.balance_figure(table, looks, single_label=single),
        "groups": figures.group_figure(table, looks, single_label=single),
    }
    names = {part: f"{name}-{part}" for part, figure in found.items() if figure is not None}
    shown = {names[part]: figure for part, figure in found.items() if figure is not None}
    if "groups" not in names:
        page.leave_out(f"Groups{on}", "the results have no figures of head, medium and tail")
    ranked = min(len(table.rows), figures.RANKED)
    drawn = min(len(table.rows), looks.most)
    seeds = max(len(row.runs) for row in table.rows)
    lead = f"{title_of(key)} of" + (f" the best {ranked} of" if ranked < len(table.rows) else "")
    lead += f" {counted(len(table.rows), 'setting')}"
    lead += f", with the standard deviation over {table.repeats} and a mark for each run." if seeds > 1 else "."
    if drawn < len(table.rows) and "groups" in names:
        lead += f" Bars, and the colours of tail against head, are of the best {drawn}."
    if "balance" in names:
        lead += " Beside it tail against head: a ring marks settings that no other beats at both."
    lead += looks.text
    context: dict[str, Any] = {"names": names, "height": figures.height_of(ranked)}
    page.add(f"{name}-compare", f"Comparison{on}", "sweep_ranking.html", lead=lead, figures=shown, **context)


def _add_curves(page: Page, table: Comparison, name: str, on: str, looks: Looks) -> None:
    rows = table.rows[: looks.most]
    keys = [key for key in table.headline[:4] if not key.startswith("balanced")]
    figure = figures.curves_figure(rows, keys, looks)
    if figure is None:
        page.leave_out(f"Learning curves{on}", f"the runs have no records in {METRICS}")
        return
    lead = "Validation split, the weights by which each run is reported"
    lead += f"; the best {len(rows)} of {len(table.rows)} settings." if len(rows) < len(table.rows) else "."
    lead += f"{looks.text.replace('shape', 'dash')} Click a name to hide it, double-click to see it alone."
    plots = {f"{name}-curves": (figure, "learning curves of the runs")}
    page.add_plots(f"{name}-learning", f"Learning curves{on}", plots, lead=lead, short=f"Curves{on}")


def _add_differences(
    page: Page, table: Comparison, name: str, on: str, baseline: Sequence[str], figure: str | None, resamples: int
) -> None:
    if len(table.rows) < 2:
        page.leave_out(f"Differences{on}", "there is one setting only")
        return
    best = table.rows[0]
    # The folder of its first run chooses the best row: settings may hold signs that have a meaning in a filter.
    chosen = baseline or f"folder={glob.escape(str(best.runs[0].folder))}"
    add_differences(table, chosen, figure=figure, resamples=resamples)
    drawn = figures.difference_figure(table)
    if drawn is None:
        page.leave_out(f"Differences{on}", "no row has a baseline that agrees with it in everything else")
        return
    rows = [row for row in table.rows if row.difference is not None]
    bases = [figures.label_of(row) for row in table.rows if row.is_baseline]
    whys = sorted({row.difference.why for row in rows if row.difference is not None and row.difference.why})
    key = figure or table.headline[0]
    lead = f"{title_of(key)} minus that of {' or '.join(bases)}"
    lead += f", the {'baseline' if baseline else 'best'}. " if len(bases) == 1 else ". "
    if any(row.difference is not None and row.difference.low is not None for row in rows):
        lead += (
            f"Bars are 95 % intervals over the {SPLITS[table.split]} images (paired bootstrap), grey if they contain "
            "zero. They do not tell how a result varies with the seed of training."
        )
    page.add(
        f"{name}-differences",
        f"Differences{on}",
        "sweep_differences.html",
        lead=lead,
        figures={f"{name}-differences": drawn},
        table=_difference_table(rows),
        height=figures.height_of(min(len(rows), figures.RANKED)),
        whys=whys[:3] + ([f"and {len(whys) - 3} more"] if len(whys) > 3 else []),
    )


def _difference_table(rows: Sequence[Row]) -> Table:
    found = [row.difference for row in rows if row.difference is not None]
    columns = [
        Column("settings", [figures.label_of(row) for row in rows], "text"),
        Column("difference", [d.value for d in found], digits=2, sign=True),
        Column("from", [d.low for d in found], digits=2, sign=True, hint="lower bound of the 95 % interval"),
        Column("to", [d.high for d in found], digits=2, sign=True, hint="upper bound of the 95 % interval"),
    ]
    if len({id(d.baseline) for d in found}) > 1:
        columns.append(Column("to the baseline", [figures.label_of(d.baseline) for d in found], "text"))
    return Table(columns, page=20)


def _add_runs(page: Page, table: Comparison, name: str, title: str, folder: Path) -> None:
    pairs = [(row, run) for row in table.rows for run in row.runs]
    key = table.headline[0]
    links = [[run.folder.name, _link(run, folder)] for _, run in pairs]
    columns = [
        Column("run", links, "link", hint="opens the report of the run, where there is one"),
        Column("settings", [figures.label_of(row) for row, _ in pairs], "text"),
        Column("seed", [run.seed for _, run in pairs], digits=0),
    ]
    if table.repeats != "seeds":
        columns.append(Column("fold", [fold_of(run) for _, run in pairs], digits=0))
    for figure in table.headline[:4]:
        values = [run.scalars(table.split, table.weights).get(figure) for _, run in pairs]
        if any(value is not None for value in values):
            # Folds are validated on other images, so none of them is the best.
            best_run = figure == key and table.repeats == "seeds"
            columns.append(Column(title_of(figure), values, digits=2, best=best_run))
    best = [run.result["best"] for _, run in pairs]
    columns.append(Column("best epoch", [b.get("epoch") for b in best], digits=0))
    columns.append(Column("weights", [WEIGHTS.get(b["weights"], "") for b in best], "text"))
    columns.append(Column("minutes", [(run.result.get("seconds") or 0) / 60 for _, run in pairs], digits=1))
    commands = [command_of(run) for _, run in pairs]
    if any(commands):
        columns.append(Column("command", commands, "code", hint="trains the run again"))
    lead = "Each run by itself, and the command that repeats it."
    page.add(name, title, "sweep_runs.html", lead=lead, table=Table(columns, search="search runs"), open=False)


def _add_unfinished(page: Page, tables: Sequence[Comparison], jobs: Sequence[Mapping[str, Any]]) -> None:
    finished = {str(run.folder) for table in tables for run in table.records}  # perhaps later, by another command
    failed = [job for job in jobs if job.get("state") in FAILED and str(job.get("folder")) not in finished]
    known = {str(job.get("folder")) for job in failed if job.get("folder")}
    rows: list[tuple[str, str, str]] = [
        (str(job.get("overrides") or job.get("folder")), str(job["state"]), str(job.get("error") or ""))
        for job in failed
    ]
    for table in tables:
        for run in table.unfinished:
            if str(run.folder) not in known:
                rows.append((f"{run.name}, seed {run.seed}, {run.folder}", run.status, run.note))
    if not rows:
        return
    listed = Table(
        [
            Column("job", [row[0] for row in rows], "text"),
            Column("state", [row[1] for row in rows], "text"),
            Column("why, or how far", [row[2] for row in rows], "text"),
        ],
        search="search jobs" if len(rows) > 10 else None,
    )
    lead = "The same command runs them again: finished jobs are skipped, stopped ones go on."
    page.add("unfinished", f"Not finished ({len(rows)})", "sweep_runs.html", lead=lead, table=listed)


def _link(run: RunRecord, folder: Path) -> str:
    """Return the relative address of the run's report; empty if it has none."""
    path = run.folder / REPORT
    if not path.is_file():
        return ""
    from urllib.parse import quote

    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())
