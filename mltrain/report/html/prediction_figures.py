"""Plotly figures of predictions: precision-recall, thresholds, calibration, co-occurrence, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mltrain.report.html.analysis import Bins, Curve, Reliability
from mltrain.report.html.page import Figure, numbers, plot_text
from mltrain.report.html.traces import axis, line, star, vertical_line

FEW = 20
"""Fewest entries of a calibration bin that is drawn; with fewer it is noise."""


def pr_figure(bins: Bins, groups: Mapping[str, np.ndarray], *, single_label: bool) -> Figure:
    """Draw precision against recall, pooled over all classes and over each group."""
    what = "images" if single_label else "entries"
    traces = [_pr_trace(bins.pooled(), "all classes", "--text")]
    for name, index in groups.items():
        if bins.positives[index].sum():
            traces.append(_pr_trace(bins.pooled(index), name, f"--{name}"))
    for trace in traces:
        trace["mode"] = "lines"
    return {"data": traces, "layout": _pr_layout(f"precision of the {what}, %")}


def threshold_figure(bins: Bins, threshold: float) -> Figure:
    """Draw precision, recall, OF1 and macro F1 against the threshold of the sigmoid."""
    pooled = bins.pooled()
    x, macro = pooled.thresholds, bins.macro_f1()
    traces = [
        line(x, 100 * pooled.f1, "OF1", "--text", mode="lines"),
        line(x, 100 * macro, "macro F1", "--text", mode="lines"),
        line(x, 100 * pooled.precision, "precision", "--neutral", mode="lines"),
        line(x, 100 * pooled.recall, "recall", "--neutral", mode="lines"),
    ]
    for trace, dash in zip(traces, ("solid", "dash", "dot", "dashdot"), strict=True):
        trace["line"] |= {"dash": dash, "width": 2 if trace["line"]["color"] == "--text" else 1.5}
        trace["hovertemplate"] = "%{y:.1f}"
    for values in (pooled.f1, macro):
        k = int(np.argmax(values))
        traces.append(star(x[k], 100 * values[k], "--text", size=10, showlegend=False, name="best", hoverinfo="skip"))
    shapes = [vertical_line(threshold, "--muted", dash="dash")]
    layout = {"xaxis": axis("threshold", range=[0, 1]), "yaxis": axis("%", range=[0, 102]), "shapes": shapes}
    return {"data": traces, "layout": layout | {"hovermode": "x unified"}}


def coverage_figure(confidence: np.ndarray, correct: np.ndarray) -> Figure:
    """Draw the accuracy of the images with the highest confidence against their share; both arguments are (N,)."""
    order = np.argsort(-confidence, kind="stable")
    accuracy = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    start = min(len(order) - 1, max(9, len(order) // 100))  # over fewer images it is noise
    shown = np.unique(np.linspace(start, len(order) - 1, 200).astype(np.int64))
    share = 100 * (shown + 1) / len(order)
    surest = numbers(confidence[order][shown], 3)
    trace = line(share, 100 * accuracy[shown], "accuracy", "--text", mode="lines", text=surest)
    trace["hovertemplate"] = "the surest %{x:.0f} % (above %{text}): %{y:.1f} % right<extra></extra>"
    low = 100 * float(accuracy[shown].min())
    layout = {
        "xaxis": axis("share of the images, the surest first, %", range=[0, 101]),
        "yaxis": axis("accuracy, %", range=[max(0.0, low - 8), 101]),
        "showlegend": False,
    }
    return {"data": [trace], "layout": layout}


def calibration_figure(parts: Mapping[str, Reliability], *, single_label: bool) -> Figure:
    """Draw observed frequency against predicted probability, and the number of entries in each bin."""
    everything = next(iter(parts.values()))
    ideal = {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "hoverinfo": "skip", "showlegend": False}
    traces: list[dict[str, Any]] = [ideal | {"line": {"color": "--neutral", "width": 1, "dash": "dash"}}]
    for name, part in parts.items():
        shown = part.counts >= FEW
        color = f"--{name}" if part is not everything else "--text"
        trace = line(part.predicted[shown], part.observed[shown], name, color, customdata=part.counts[shown].tolist())
        trace["hovertemplate"] = "predicted %{x:.2f}, observed %{y:.2f}, %{customdata:,}<extra>" + name + "</extra>"
        traces.append(trace)
    counts = {"x": numbers(everything.predicted), "y": everything.counts.tolist(), "yaxis": "y2", "name": "entries"}
    bars = {"type": "bar", "marker": {"color": "--neutral"}, "width": 0.035, "showlegend": False}
    traces.append(counts | bars | {"hovertemplate": "%{y:,}<extra></extra>"})
    what = "confidence" if single_label else "predicted probability"
    layout = {
        "xaxis": axis(what, range=[-0.02, 1.02], anchor="y2"),
        "yaxis": axis("share that is right" if single_label else "share that is positive", domain=[0.3, 1]),
        "yaxis2": axis("images" if single_label else "entries", domain=[0, 0.2], type="log", **_few_powers(everything)),
    }
    return {"data": traces, "layout": layout}


def heat_figure(
    views: Mapping[str, np.ndarray], names: Sequence[str], *, hover: str, rows: str, columns: str
) -> Figure:
    """Draw heat maps (c, c) in percent with names at both sides; all views share a scale."""
    labels, whole = ([plot_text(name, most) for name in names] for most in (16, 200))
    places = list(range(len(names)))
    top = max(5.0, *(float(np.nanmax(values, initial=0.0)) for values in views.values()))
    ticks = {"tickvals": places, "ticktext": labels, "showgrid": False, "tickfont": {"size": 10}}
    result = {}
    for title, values in views.items():
        trace = {
            "type": "heatmap",
            "z": [numbers(row, 3) for row in values],
            "customdata": [[[whole[i], whole[j]] for j in places] for i in places],
            "hovertemplate": hover + "<extra></extra>",
            "colorscale": [[0, "--low"], [0.5, "--mid"], [1, "--high"]],
            "zmin": 0,
            "zmax": top,
            "xgap": 1,
            "ygap": 1,
            "colorbar": {"thickness": 10, "outlinewidth": 0, "ticksuffix": " %", "tickfont": {"size": 10}},
        }
        layout = {
            "xaxis": {**ticks, "tickangle": -55, "title": {"text": columns}},
            "yaxis": {**ticks, "autorange": "reversed", "title": {"text": rows}},
        }
        result[title] = {"data": [trace], "layout": layout | {"margin": {"t": 8, "r": 6}}}
    return {"views": result} if len(result) > 1 else next(iter(result.values()))


def _few_powers(part: Reliability) -> dict[str, Any]:
    """Return at most three ticks of a logarithmic axis of counts from 1."""
    top = float(np.log10(max(int(part.counts.max(initial=1)), 2)))
    step = max(1, round(top / 2))
    powers = range(0, int(top) + 1, step)
    text = [("1", "10", "100", "1k", "10k", "100k", "1M", "10M", "100M", "1G")[min(p, 9)] for p in powers]
    return {"tickvals": [10**p for p in powers], "ticktext": text, "range": [-0.15, 1.04 * top]}


def _pr_trace(curve: Curve, name: str, color: str) -> dict[str, Any]:
    there = ~np.isnan(curve.precision)
    order = np.argsort(curve.recall[there], kind="stable")
    recall, precision = 100 * curve.recall[there][order], 100 * curve.precision[there][order]
    trace = line(recall, precision, name, color, customdata=numbers(curve.thresholds[there][order], 3))
    hover = "recall %{x:.1f}, precision %{y:.1f}<br>threshold %{customdata}<extra>" + name + "</extra>"
    return trace | {"hovertemplate": hover}


def _pr_layout(title: str) -> dict[str, Any]:
    return {"xaxis": axis("recall, %", range=[0, 101]), "yaxis": axis(title, range=[0, 102]), "hovermode": "closest"}
