"""Plotly figures that compare runs: ranking, groups, head against tail, learning curves, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mltrain.report.compare import Comparison, Row, fold_of
from mltrain.report.html.factors import Looks
from mltrain.report.html.page import Figure, numbers, plot_text
from mltrain.report.html.traces import axis, by_epoch, epoch_axis, error_bars, group_bars, points, vertical_line
from mltrain.report.runs import spelled
from mltrain.report.tables import title

RANKED = 40
"""Rows of a ranking."""


def label_of(row: Row) -> str:
    """Return the settings that tell a row from the others, with their keys: `loss=asl sampler=class_aware epochs=3`.

    Of an option the last part of its key is shown: the text is as short as `mltrain results` would take it.
    """
    parts = [f"{key.rpartition('.')[2]}={spelled(value)}" for key, value in row.settings.items()]
    return " ".join(parts) or row.label


def ranking_figure(table: Comparison, key: str, looks: Looks) -> Figure:
    """Draw a figure of each row: mean, standard deviation over seeds, and each run; the best on top."""
    rows = [row for row in table.rows if key in row.figures][:RANKED]
    scores = [row.figures[key] for row in rows]
    data = []
    for k, (row, score) in enumerate(zip(rows, scores, strict=True)):
        look, name = looks.of(row), label_of(row)
        color = look.color if looks.shape is not None else "--text"
        hover = f"{plot_text(name, 80)}: %{{x:.2f}}<extra></extra>"
        marker = {"symbol": look.symbol}
        mean = points([score.mean], [k], color, size=10, marker=marker, name="mean", ids=[name], hovertemplate=hover)
        if score.std is not None:
            mean["error_x"] = error_bars([score.std], color, thickness=2)
        data.append(mean)
    if any(s.std is not None for s in scores):
        runs = [
            (row, run, value, k)
            for k, row in enumerate(rows)
            for run, value in zip(row.runs, scores[k].values, strict=True)
        ]
        folds = [f", fold {fold_of(run)}" if run.settings.get("dataset.folds") else "" for _, run, _, _ in runs]
        seeds = [f"seed {run.seed}{fold}" for (_, run, _, _), fold in zip(runs, folds, strict=True)]
        style = {"symbol": "line-ns-open", "line": {"width": 1.5}}
        more: dict[str, Any] = {"text": seeds, "hovertemplate": "%{text}: %{x:.2f}<extra></extra>"}
        more |= {"ids": [f"{label_of(row)} {seed}" for (row, *_), seed in zip(runs, seeds, strict=True)]}
        x, y = [value for _, _, value, _ in runs], [place for *_, place in runs]
        data.insert(0, points(x, y, "--neutral", size=10, marker=style, name="runs", **more))
    return {"data": data, "layout": {"xaxis": axis(f"{title(key)}, %"), "yaxis": _row_axis(rows), "showlegend": False}}


def group_figure(table: Comparison, looks: Looks, *, single_label: bool) -> Figure | None:
    """Draw bars of head, medium and tail, of the best rows, for several figures."""
    prefixes = ("accuracy", "macro_F1") if single_label else ("map", "macro_F1", "CF1", "OF1")
    rows = table.rows[: looks.most]
    means = [{key: score.mean for key, score in row.figures.items()} for row in rows]
    names = [plot_text(label_of(row), 60) for row in rows]

    def style(number: int, keys: list[str]) -> dict[str, Any]:
        look = looks.of(rows[number])
        found = [rows[number].figures.get(key) for key in keys]
        spread = [None if score is None else score.std for score in found]
        bars = {"error_y": error_bars([std or 0.0 for std in spread], "--text", thickness=1, width=2)}
        own = {"hovertemplate": f"%{{y:.2f}}<extra>{names[number]}</extra>", "showlegend": looks.shape is None}
        own |= {"marker": {"color": look.color, "pattern": look.pattern}, "offsetgroup": f"row {number}"}
        own |= {"legendgroup": look.value} if looks.shape is not None else {}
        return own | (bars if any(std is not None for std in spread) else {})

    series = [(name, looks.of(row).color, mean) for name, row, mean in zip(names, rows, means, strict=True)]
    figure = group_bars(prefixes, series, style, yaxis={"rangemode": "tozero"}, bargap=0.2)
    for view in (figure or {"views": {}})["views"].values():
        view["data"] = [*looks.legend("bar"), *view["data"]]
        view["layout"]["xaxis"] = {"type": "category"}  # the bars of the legend have no place on it
    return figure


def balance_figure(table: Comparison, looks: Looks, *, single_label: bool) -> Figure | None:
    """Draw tail against head: what a method gains for rare classes, and its cost for frequent ones."""
    prefix = "accuracy" if single_label else "map"
    head, tail = f"{prefix}_head", f"{prefix}_tail"
    rows = [row for row in table.rows if head in row.figures and tail in row.figures][:RANKED]
    if len(rows) < 2:
        return None
    labels = [plot_text(label_of(row), 60) for row in rows]
    x, y = (np.array([row.figures[key].mean for row in rows]) for key in (head, tail))
    data = looks.legend("marker")
    for k, (row, label) in enumerate(zip(rows, labels, strict=True)):
        look = looks.of(row)
        color, own = look.color, {"ids": [label_of(row)], "showlegend": False, "legendgroup": look.value}
        trace = points([x[k]], [y[k]], color, size=10, marker={"symbol": look.symbol}, name=label, **own)
        trace["hovertemplate"] = f"{label}<br>head %{{x:.1f}}, tail %{{y:.1f}}<extra></extra>"
        for bars, key in (("error_x", head), ("error_y", tail)):
            if row.figures[key].std is not None:
                trace[bars] = error_bars([row.figures[key].std], color, thickness=1)
        if not (((x >= x[k]) & (y > y[k])) | ((x > x[k]) & (y >= y[k]))).any():  # no other row is better at both
            side = "top left" if x[k] > (x.min() + x.max()) / 2 else "top right"
            trace |= {"mode": "markers+text", "text": [f"  {label}  "], "textposition": side}
            trace["textfont"] = {"size": 11, "color": "--text"}
            trace["marker"] |= {"size": 12, "line": {"color": "--text", "width": 1.5}}
        data.append(trace)
    axes = {f"{k}axis": axis(f"{title(prefix)} of {name} classes, %") for k, name in (("x", "head"), ("y", "tail"))}
    return {"data": data, "layout": axes | {"showlegend": looks.shape is not None, "hovermode": "closest"}}


def curves_figure(rows: Sequence[Row], keys: Sequence[str], looks: Looks) -> Figure | None:
    """Draw figures of the validation split by epoch: a colour for each row, a line for each of its runs."""
    views: dict[str, Figure] = {}
    for key in keys:
        data = []
        for row in rows:
            label, look = label_of(row), looks.of(row)
            name = plot_text(label, 60)
            own = looks.shape is None  # the name of the row is in the legend
            drawn: dict[str, Any] = {"legendgroup": label if own else look.value}
            drawn["hovertemplate"] = f"epoch %{{x}}: %{{y:.2f}}<extra>{name}</extra>"
            for k, run in enumerate(row.runs):
                drawn["meta"] = {"name": f"{label} seed={run.seed}"}
                trace = by_epoch(
                    run.epochs, run.best_weights, key, name, look.color, showlegend=own and k == 0, **drawn
                )
                if trace is not None:
                    trace["line"] |= {"width": 2 if len(row.runs) == 1 else 1.3, "dash": look.dash}
                    data.append(trace)
        if data:
            last = max(trace["x"][-1] for trace in data)
            data = [*looks.legend("line"), *data]
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
                color = "--text"  # the side of zero says which way
            below = numbers([found.value - found.low])
            above = error_bars([found.high - found.value], color, thickness=2)
            bars["error_x"] = above | {"arrayminus": below, "symmetric": False}
        hover = f"{plot_text(label_of(row), 80)}<br>%{{x:+.2f}}<extra></extra>"
        data.append(points([found.value], [k], color, size=9, hovertemplate=hover, ids=[label_of(row)], **bars))
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
    text = [plot_text(label_of(row), 44) for row in rows]
    span = [len(rows) - 0.4, -0.6]  # the first on top
    return {"tickvals": list(range(len(rows))), "ticktext": text, "range": span}
