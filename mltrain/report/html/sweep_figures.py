"""Plotly figures that compare runs: ranking, groups, head against tail, learning curves, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mltrain.report.compare import Comparison, Row, fold_of
from mltrain.report.html.page import Figure, numbers, plot_text
from mltrain.report.html.traces import SERIES, axis, by_epoch, epoch_axis, error_bars, group_bars, points, vertical_line
from mltrain.report.runs import spelled
from mltrain.report.tables import title

RANKED = 40
"""Rows of a ranking."""
DRAWN = len(SERIES)
"""Rows in bars and curves: as many as there are colours that can be told apart."""


def label_of(row: Row) -> str:
    """Return the settings that tell a row from the others, short: `asl, class_aware, epochs 3`."""
    parts = []
    for key, value in row.settings.items():
        section, dot, option = key.partition(".")
        parts.append(f"{option.rpartition('.')[2] or section} {spelled(value)}" if dot else spelled(value))
    return ", ".join(parts) or row.label


def ranking_figure(table: Comparison, key: str) -> Figure:
    """Draw a figure of each row: mean, standard deviation over seeds, and each run; the best on top."""
    rows = [row for row in table.rows if key in row.figures][:RANKED]
    scores = [row.figures[key] for row in rows]
    hover: dict[str, Any] = {"hovertemplate": "%{customdata}: %{x:.2f}<extra></extra>"}
    names = [plot_text(label_of(row), 80) for row in rows]
    places = list(range(len(rows)))
    means = points([s.mean for s in scores], places, "--accent", size=9, name="mean", customdata=names, **hover)
    data = [means]
    if any(s.std is not None for s in scores):
        means["error_x"] = error_bars([s.std or 0.0 for s in scores], "--accent", thickness=2)
        runs = [
            (run, value, k) for k, row in enumerate(rows) for run, value in zip(row.runs, scores[k].values, strict=True)
        ]
        folds = [f", fold {fold_of(run)}" if run.settings.get("dataset.folds") else "" for run, _, _ in runs]
        seeds = [f"seed {run.seed}{fold}" for (run, _, _), fold in zip(runs, folds, strict=True)]
        marker = {"symbol": "line-ns-open", "line": {"width": 1.5}}
        hover = {"text": seeds, "hovertemplate": "%{text}: %{x:.2f}<extra></extra>"}
        x, y = [value for _, value, _ in runs], [place for _, _, place in runs]
        data.insert(0, points(x, y, "--neutral", size=10, marker=marker, name="runs", **hover))
    return {"data": data, "layout": {"xaxis": axis(f"{title(key)}, %"), "yaxis": _row_axis(rows), "showlegend": False}}


def group_figure(table: Comparison, *, single_label: bool) -> Figure | None:
    """Draw bars of head, medium and tail, a colour for each of the best rows, for several figures."""
    prefixes = ("accuracy", "macro_F1") if single_label else ("map", "macro_F1", "CF1", "OF1")
    rows = table.rows[:DRAWN]
    means = [{key: score.mean for key, score in row.figures.items()} for row in rows]
    names = [plot_text(label_of(row)) for row in rows]

    def style(number: int, keys: list[str]) -> dict[str, Any]:
        found = [rows[number].figures.get(key) for key in keys]
        spread = [None if score is None else score.std for score in found]
        bars = {"error_y": error_bars([std or 0.0 for std in spread], "--text", thickness=1, width=2)}
        hover = {"hovertemplate": f"%{{y:.2f}}<extra>{names[number]}</extra>"}
        return hover | (bars if any(std is not None for std in spread) else {})

    series = list(zip(names, SERIES, means, strict=False))
    return group_bars(prefixes, series, style, yaxis={"rangemode": "tozero"}, bargap=0.2)


def balance_figure(table: Comparison, *, single_label: bool) -> Figure | None:
    """Draw tail against head: what a method gains for rare classes, and its cost for frequent ones."""
    prefix = "accuracy" if single_label else "map"
    head, tail = f"{prefix}_head", f"{prefix}_tail"
    rows = [row for row in table.rows if head in row.figures and tail in row.figures][:RANKED]
    if len(rows) < 2:
        return None
    labels = [plot_text(label_of(row)) for row in rows]
    x, y = (np.array([row.figures[key].mean for row in rows]) for key in (head, tail))
    data = []
    for k, (row, label) in enumerate(zip(rows, labels, strict=True)):
        color = SERIES[k] if k < DRAWN else "--neutral"
        trace = points([x[k]], [y[k]], color, size=10, name=label)
        trace["hovertemplate"] = f"{label}<br>head %{{x:.1f}}, tail %{{y:.1f}}<extra></extra>"
        for bars, key in (("error_x", head), ("error_y", tail)):
            if row.figures[key].std is not None:
                trace[bars] = error_bars([row.figures[key].std], color, thickness=1)
        if not (((x >= x[k]) & (y > y[k])) | ((x > x[k]) & (y >= y[k]))).any():  # no other row is better at both
            side = "middle left" if x[k] > (x.min() + x.max()) / 2 else "middle right"
            trace |= {"mode": "markers+text", "text": [f"  {label}  "], "textposition": side}
            trace["textfont"] = {"size": 11, "color": "--text"}
            trace["marker"] |= {"size": 12, "line": {"color": "--text", "width": 1.5}}
        data.append(trace)
    axes = {f"{k}axis": axis(f"{title(prefix)} of {name} classes, %") for k, name in (("x", "head"), ("y", "tail"))}
    return {"data": data, "layout": axes | {"showlegend": False, "hovermode": "closest"}}


def curves_figure(rows: Sequence[Row], keys: Sequence[str]) -> Figure | None:
    """Draw figures of the validation split by epoch: a colour for each row, a line for each of its runs."""
    views: dict[str, Figure] = {}
    for key in keys:
        data = []
        for color, row in zip(SERIES, rows, strict=False):
            label = label_of(row)
            name = plot_text(label)
            drawn = {"legendgroup": label, "hovertemplate": f"epoch %{{x}}: %{{y:.2f}}<extra>{name}</extra>"}
            for k, run in enumerate(row.runs):
                trace = by_epoch(run.epochs, run.best_weights, key, name, color, showlegend=k == 0, **drawn)
                if trace is not None:
                    trace["line"]["width"] = 2 if len(row.runs) == 1 else 1.3
                    data.append(trace)
        if data:
            last = max(trace["x"][-1] for trace in data)
            layout = {"xaxis": epoch_axis(last), "yaxis": axis(f"{title(key)}, %"), "hovermode": "closest"}
            views[title(key)] = {"data": data, "layout": layout}
    return {"views": views} if views else None


def difference_figure(table: Comparison) -> Figure | None:
    """Draw differences to the baseline with their 95 % intervals, zero marked."""
    rows = [row for row in table.rows if row.difference is not None][:RANKED]
    data = []
    for k, row in enumerate(rows):
        found = row.difference
        assert found is not None
        color, bars = "--neutral", {}
        if found.low is not None and found.high is not None:
            if found.low > 0 or found.high < 0:
                color = "--good" if found.value > 0 else "--bad"
            below = numbers([found.value - found.low])
            above = error_bars([found.high - found.value], color, thickness=2)
            bars["error_x"] = above | {"arrayminus": below, "symmetric": False}
        hover = f"{plot_text(label_of(row), 80)}<br>%{{x:+.2f}}<extra></extra>"
        data.append(points([found.value], [k], color, size=9, hovertemplate=hover, **bars))
    if not rows or rows[0].difference is None:
        return None
    layout = {
        "xaxis": axis(f"Δ {title(rows[0].difference.figure)}, points"),
        "yaxis": _row_axis(rows),
        "shapes": [vertical_line(0, "--text")],
        "showlegend": False,
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def height_of(rows: int) -> int:
    """Return the height in pixels of a plot with so many rows."""
    return int(np.clip(70 + 24 * rows, 130, 1100))


def _row_axis(rows: Sequence[Row]) -> dict[str, Any]:
    text = [plot_text(label_of(row), 34) for row in rows]
    span = [len(rows) - 0.4, -0.6]  # the first on top
    return {"tickvals": list(range(len(rows))), "ticktext": text, "range": span}
