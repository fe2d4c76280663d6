"""Plotly figures that compare runs: ranking, groups, head against tail, learning curves, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mltrain.labels import GROUP_NAMES
from mltrain.report.compare import Figure as Score
from mltrain.report.compare import Row, Table
from mltrain.report.html.page import Figure, numbers, plot_text
from mltrain.report.html.prediction_figures import SERIES
from mltrain.report.html.run_data import TITLES, RunData
from mltrain.report.html.run_figures import axis, epoch_axis, line
from mltrain.report.runs import spelled

RANKED = 40
"""Rows of a ranking."""
DRAWN = len(SERIES)
"""Rows in bars and curves: there are so many colours to tell apart."""


def label_of(row: Row) -> str:
    """What tells a row from the others, short: `asl, class_aware, epochs 3`."""
    parts = []
    for key, value in row.settings.items():
        section, dot, option = key.partition(".")
        parts.append(f"{option.rpartition('.')[2] or section} {spelled(value)}" if dot else spelled(value))
    return ", ".join(parts) or row.label


def ranking_figure(table: Table, key: str) -> Figure:
    """The figure of each row: mean, standard deviation over seeds, and each run; the best on top."""
    rows = [row for row in table.rows if key in row.figures][:RANKED]
    places = list(range(len(rows)))
    scores = [row.figures[key] for row in rows]
    names = [plot_text(label_of(row), 80) for row in rows]
    mean = {"type": "scatter", "mode": "markers", "y": places, "x": numbers([s.mean for s in scores]), "name": "mean"}
    hover = {"hovertemplate": "%{customdata}: %{x:.2f}<extra></extra>", "customdata": names}
    data: list[dict[str, Any]] = [mean | hover | {"marker": {"color": "--accent", "size": 9}}]
    if any(s.std is not None for s in scores):
        spread = numbers([s.std or 0.0 for s in scores])
        data[0]["error_x"] = {"type": "data", "array": spread, "color": "--accent", "thickness": 2}
        x = [value for s in scores for value in s.values]
        y = [place for place, s in zip(places, scores, strict=True) for _ in s.values]
        seeds = [f"seed {run.seed}" for row in rows for run in row.runs]
        marker = {"color": "--neutral", "size": 10, "symbol": "line-ns-open", "line": {"width": 1.5}}
        runs = {"type": "scatter", "mode": "markers", "x": numbers(x), "y": y, "text": seeds, "name": "runs"}
        data.insert(0, runs | {"marker": marker, "hovertemplate": "%{text}: %{x:.2f}<extra></extra>"})
    x_axis = axis(f"{TITLES.get(key, key)}, %")
    return {"data": data, "layout": {"xaxis": x_axis, "yaxis": _row_axis(rows), "showlegend": False}}


def group_figure(table: Table, *, single_label: bool) -> Figure | None:
    """Bars of head, medium and tail, a colour for each of the best rows, for several figures."""
    views: dict[str, Figure] = {}
    for prefix in ("accuracy", "macro_F1") if single_label else ("map", "macro_F1", "CF1", "OF1"):
        rows = [row for row in table.rows if prefix in row.figures][:DRAWN]
        names = [g for g in GROUP_NAMES if any(f"{prefix}_{g}" in row.figures for row in rows)]
        if not names:
            continue
        keys = [*(f"{prefix}_{name}" for name in names), prefix]
        data = []
        for color, row in zip(SERIES, rows, strict=False):
            found: list[Score | None] = [row.figures.get(key) for key in keys]
            y = [None if s is None else s.mean for s in found]
            trace: dict[str, Any] = {
                "type": "bar",
                "x": [*names, "all"],
                "y": numbers(y),
                "name": plot_text(label_of(row)),
            }
            trace |= {
                "marker": {"color": color},
                "hovertemplate": "%{y:.2f}<extra>" + plot_text(label_of(row)) + "</extra>",
            }
            if any(s is not None and s.std is not None for s in found):
                spread = [0.0 if s is None or s.std is None else s.std for s in found]
                trace["error_y"] = {
                    "type": "data",
                    "array": numbers(spread),
                    "color": "--text",
                    "thickness": 1,
                    "width": 2,
                }
            data.append(trace)
        title = TITLES.get(prefix, prefix)
        layout = {"yaxis": axis(f"{title}, %", rangemode="tozero"), "barmode": "group", "bargap": 0.2}
        views[title] = {"data": data, "layout": layout}
    return {"views": views} if views else None


def balance_figure(table: Table, *, single_label: bool) -> Figure | None:
    """Tail against head: what a method gives the rare classes, and what that costs the frequent ones."""
    prefix = "accuracy" if single_label else "map"
    head, tail = f"{prefix}_head", f"{prefix}_tail"
    rows = [row for row in table.rows if head in row.figures and tail in row.figures][:RANKED]
    if len(rows) < 2:
        return None
    labels = [plot_text(label_of(row)) for row in rows]
    data = []
    for k, (row, label) in enumerate(zip(rows, labels, strict=True)):
        color = SERIES[k] if k < DRAWN else "--neutral"
        point = {"x": numbers([row.figures[head].mean]), "y": numbers([row.figures[tail].mean]), "name": label}
        trace: dict[str, Any] = {"type": "scatter", "mode": "markers", "marker": {"color": color, "size": 10}}
        trace["hovertemplate"] = f"{label}<br>head %{{x:.1f}}, tail %{{y:.1f}}<extra></extra>"
        for which, key in (("error_x", head), ("error_y", tail)):
            if row.figures[key].std is not None:
                trace[which] = {
                    "type": "data",
                    "array": numbers([row.figures[key].std]),
                    "color": color,
                    "thickness": 1,
                }
        data.append(trace | point)
    x, y = (np.array([row.figures[key].mean for row in rows]) for key in (head, tail))
    for k in range(len(rows)):
        if (((x >= x[k]) & (y > y[k])) | ((x > x[k]) & (y >= y[k]))).any():
            continue  # another one is better at both
        side = "middle left" if x[k] > (x.min() + x.max()) / 2 else "middle right"
        data[k] |= {"mode": "markers+text", "text": ["  " + labels[k] + "  "], "textposition": side}
        data[k]["textfont"] = {"size": 11, "color": "--text"}
        data[k]["marker"] |= {"size": 12, "line": {"color": "--text", "width": 1.5}}
    title = TITLES[prefix]
    layout = {
        "xaxis": axis(f"{title} of head classes, %"),
        "yaxis": axis(f"{title} of tail classes, %"),
        "showlegend": False,
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def curves_figure(rows: Sequence[tuple[str, Sequence[RunData]]], keys: Sequence[str]) -> Figure | None:
    """Figures of the validation split by epoch: a colour for each row, a line for each of its runs."""
    views: dict[str, Figure] = {}
    for key in keys:
        data = []
        for color, (label, runs) in zip(SERIES, rows, strict=False):
            for k, run in enumerate(runs):
                pairs = [(r["epoch"], r.get(run.weights, {}).get(key)) for r in run.epochs]
                pairs = [pair for pair in pairs if pair[1] is not None]
                if not pairs:
                    continue
                x, y = zip(*pairs, strict=True)
                name = plot_text(label)
                trace = line(x, y, name, color, legendgroup=label, showlegend=k == 0)
                trace["hovertemplate"] = "epoch %{x}: %{y:.2f}<extra>" + name + "</extra>"
                trace["line"]["width"] = 2 if len(runs) == 1 else 1.3
                data.append(trace)
        if data:
            title = TITLES.get(key, key)
            last = max(trace["x"][-1] for trace in data)
            layout = {"xaxis": epoch_axis(last), "yaxis": axis(f"{title}, %"), "hovermode": "closest"}
            views[title] = {"data": data, "layout": layout}
    return {"views": views} if views else None


def difference_figure(table: Table) -> Figure | None:
    """Differences to the baseline with their 95 % intervals, zero marked."""
    rows = [row for row in table.rows if row.difference is not None][:RANKED]
    if not rows:
        return None
    x, low, high, color = [], [], [], []
    for row in rows:
        assert row.difference is not None
        d = row.difference
        x.append(d.value)
        known = d.low is not None and d.high is not None
        low.append(d.value - d.low if known and d.low is not None else 0.0)
        high.append(d.high - d.value if known and d.high is not None else 0.0)
        sure = known and d.low is not None and d.high is not None and (d.low > 0 or d.high < 0)
        color.append(("--good" if d.value > 0 else "--bad") if sure else "--neutral")
    data = []
    for k, row in enumerate(rows):
        assert row.difference is not None
        trace: dict[str, Any] = {"type": "scatter", "mode": "markers", "x": numbers([x[k]]), "y": [k]}
        trace["marker"] = {"color": color[k], "size": 9}
        bounds = {"arrayminus": numbers([low[k]]), "array": numbers([high[k]]), "symmetric": False}
        if row.difference.low is not None:
            trace["error_x"] = {"type": "data", "color": color[k], "thickness": 2, **bounds}
        trace["hovertemplate"] = f"{plot_text(label_of(row), 80)}<br>%{{x:+.2f}}<extra></extra>"
        data.append(trace)
    zero = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "--text", "width": 1},
    }
    first = rows[0].difference
    assert first is not None
    layout = {
        "xaxis": axis(f"Δ {TITLES.get(first.figure, first.figure)}, points"),
        "yaxis": _row_axis(rows),
        "shapes": [zero],
        "showlegend": False,
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def height_of(rows: int) -> int:
    """Pixels of a plot with so many rows."""
    return int(np.clip(70 + 24 * rows, 130, 1100))


def _row_axis(rows: Sequence[Row]) -> dict[str, Any]:
    text = [plot_text(label_of(row), 34) for row in rows]
    span = [len(rows) - 0.4, -0.6]  # the first on top
    return {"tickvals": list(range(len(rows))), "ticktext": text, "range": span}
