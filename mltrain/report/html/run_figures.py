"""Plotly figures of a run that need no predictions: curves, groups, classes, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mltrain.labels import GROUP_NAMES
from mltrain.report.html.page import Figure, numbers, plot_text
from mltrain.report.html.run_data import TITLES, WEIGHTS, ClassTable, RunData

POINTS = 600
"""Points of a curve; of more, means of neighbours."""
NAMED = 25
"""Classes whose names stand beside their points."""
SCATTERED = 1200
"""Classes drawn as points; of more, a sample, with the median and quartiles of all."""
COLOR = {"val": "--raw", "ema": "--ema"}


def line(x: Any, y: Any, name: str, color: str, **more: Any) -> dict[str, Any]:
    """A trace: points joined by straight lines; a single point is drawn as one."""
    y = numbers(y)
    mode = "lines+markers" if len(y) <= 60 else "lines"
    trace = {"type": "scatter", "mode": mode, "x": numbers(x, 5), "y": y, "name": name}
    return trace | {"line": {"color": color, "width": 2}, "marker": {"color": color, "size": 5}} | more


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title}, **more}


def epoch_axis(last: int) -> dict[str, Any]:
    """Whole epochs from 0 to the last."""
    tick = next(k * 10**e for e in range(9) for k in (1, 2, 5) if last <= 10 * k * 10**e)
    return axis("epoch", range=[0, 1.02 * last], dtick=tick)


def _time_axis(run: RunData) -> dict[str, Any]:
    """Epochs; steps before the first has ended."""
    return axis("step", rangemode="tozero") if run.steps_per_epoch is None else epoch_axis(run.epochs[-1]["epoch"])


def quality_figure(run: RunData) -> Figure | None:
    """Figures of the validation split by epoch: raw against EMA, and the groups of the best weights."""
    evaluated = [record for record in run.epochs if any(w in record for w in WEIGHTS)]
    if not evaluated:
        return None
    by = run.best_by
    keys = list(dict.fromkeys([by, run.headline[0], "macro_F1", "OF1"]))
    views: dict[str, Figure] = {}
    for key in keys:
        traces = [_by_epoch(evaluated, w, key, name=WEIGHTS[w], color=COLOR[w]) for w in run.evaluated]
        traces = [trace for trace in traces if trace]
        best = run.result.get("best")
        if best and key == by and traces:
            marker: dict[str, Any] = {
                "color": "--text",
                "size": 12,
                "symbol": "star",
                "line": {"color": "--card", "width": 1},
            }
            star: dict[str, Any] = {
                "x": [best["epoch"]],
                "y": numbers([best[by]]),
                "name": f"best, epoch {best['epoch']}",
            }
            traces.append({"type": "scatter", "mode": "markers", "marker": marker, **star})
        if traces:
            title = TITLES.get(key, key)
            axes = {"xaxis": _time_axis(run), "yaxis": axis(f"{title}, %")}
            views[title] = {"data": traces, "layout": {**axes, "hovermode": "x unified"}}
    prefix = "accuracy" if run.single_label else "map"
    groups = [
        _by_epoch(evaluated, run.weights, f"{prefix}_{group}", name=group, color=f"--{group}") for group in GROUP_NAMES
    ]
    groups = [trace for trace in groups if trace]
    if groups:
        title = f"{TITLES[prefix]} of the {WEIGHTS[run.weights]} weights, %"
        layout: dict[str, Any] = {"xaxis": _time_axis(run), "yaxis": axis(title), "hovermode": "x unified"}
        views["head, medium, tail"] = {"data": groups, "layout": layout}
    return {"views": views} if views else None


def training_figure(run: RunData) -> Figure | None:
    """Loss, learning rate and gradient norm against the epoch, or the step before an epoch has ended."""
    scale = run.steps_per_epoch
    views: dict[str, Figure] = {}
    for key, title in (("train/loss", "loss"), ("train/lr", "learning rate"), ("train/grad_norm", "gradient norm")):
        found = _series(run.steps, key)
        traces = []
        if found is not None:
            x, y = thinned(found[0] / (scale or 1.0), found[1])
            soft = key == "train/loss" and len(run.epochs) > 1
            style: dict[str, Any] = {"opacity": 0.45} if soft else {}
            traces.append(line(x, y, "step" if soft else title, "--neutral" if soft else "--accent", **style))
            traces[-1]["mode"] = "lines"
        if key == "train/loss":
            epochs = _series(run.epochs, "train/epoch_loss", "epoch")
            if epochs is not None:
                traces.append(line(*epochs, "mean of the epoch", "--accent"))
        if not traces:
            continue
        values = [v for trace in traces for v in trace["y"] if v is not None]
        log = bool(values) and min(values) > 0 and max(values) > 30 * min(values) and key != "train/lr"
        # On a logarithmic axis 1, 2 and 5 of each power of ten, or, over many powers, these alone.
        dtick = 1 if log and max(values) > 1e3 * min(values) else "D2"
        y_axis = axis(title, type="log", dtick=dtick) if log else axis(title, rangemode="tozero")
        layout = {"xaxis": _time_axis(run), "yaxis": y_axis | {"exponentformat": "e" if key == "train/lr" else "none"}}
        views[title] = {"data": traces, "layout": layout | {"showlegend": len(traces) > 1}}
    return {"views": views} if views else None


def throughput_figure(run: RunData) -> Figure | None:
    """Images per second and the share of time that training waited for data."""
    speed, wait = (_series(run.steps, f"train/{key}") for key in ("images_per_second", "data_wait"))
    if speed is None:
        return None
    scale = run.steps_per_epoch
    x, y = thinned(speed[0] / (scale or 1.0), speed[1])
    traces = [line(x, y, "images/s", "--accent", mode="lines")]
    layout: dict[str, Any] = {
        "xaxis": _time_axis(run),
        "yaxis": axis("images/s", rangemode="tozero", domain=[0.42, 1] if wait is not None else [0, 1]),
        "showlegend": False,
        "hovermode": "x unified",
    }
    if wait is not None:
        x, y = thinned(wait[0] / (scale or 1.0), 100 * wait[1])
        traces.append(line(x, y, "waiting for data", "--ema", mode="lines", yaxis="y2", fill="tozeroy"))
        layout["yaxis2"] = axis("waiting, %", range=[0, max(10.0, 1.1 * float(np.max(y)))], domain=[0, 0.3])
        layout["xaxis"]["anchor"] = "y2"
    return {"data": traces, "layout": layout}


def group_figure(run: RunData) -> Figure | None:
    """Bars of head, medium and tail, raw against EMA, for several figures."""
    views: dict[str, Figure] = {}
    prefixes = ("accuracy", "balanced_accuracy", "macro_F1") if run.single_label else ("map", "macro_F1", "CF1", "OF1")
    for prefix in prefixes:
        found = {w: run.scores(weights=w) for w in run.evaluated}
        names = [g for g in GROUP_NAMES if any(f"{prefix}_{g}" in scores for scores in found.values())]
        if not names:
            continue
        traces = []
        for w, scores in found.items():
            keys = [*(f"{prefix}_{name}" for name in names), prefix]
            y = [scores.get(key) for key in keys]
            text = ["" if v is None else f"{v:.1f}" for v in y]
            bar = {"type": "bar", "x": [*names, "all"], "y": numbers(y), "name": WEIGHTS[w], "text": text}
            traces.append(
                bar | {"marker": {"color": COLOR[w]}, "textposition": "outside", "cliponaxis": False, "textangle": 0}
            )
        title = TITLES.get(prefix, prefix)
        layout = {"yaxis": axis(f"{title}, %", range=[0, 105]), "barmode": "group", "bargap": 0.25}
        views[title] = {"data": traces, "layout": layout | {"showlegend": len(traces) > 1}}
    return {"views": views} if views else None


def class_figure(run: RunData, table: ClassTable) -> Figure | None:
    """AP (recall of single labels) of each class against its training images, a view for each kind of weights."""
    figure, title = ("recall", "recall") if run.single_label else ("ap", "average precision")
    views: dict[str, Figure] = {}
    weights = sorted(run.evaluated, key=lambda w: w != run.weights)
    for w in weights:
        values = table.figure(w, figure)
        if values is None or np.isnan(values).all():
            continue
        known = np.flatnonzero(~np.isnan(values))
        shown = _sample(table.train_positives, known)
        x = np.maximum(table.train_positives, 0.7)
        named = len(known) <= NAMED
        traces = [] if named else _quartiles(x[known], values[known])
        for group in GROUP_NAMES:
            at = [k for k in shown if table.groups[k] == group]
            if not at:
                continue
            text = [plot_text(table.names[k]) for k in at]
            marker = {"color": f"--{group}", "size": 8 if len(shown) < 150 else 5, "opacity": 0.8}
            mode = {"mode": "markers+text", "textposition": "top center"} if named else {"mode": "markers"}
            font = {"textfont": {"size": 10, "color": "--muted"}, "cliponaxis": False}
            trace = {"type": "scatter", "name": group, "text": text, "marker": marker, **mode, **font}
            counts = {"customdata": table.train_positives[at].tolist()}
            hover = {"hovertemplate": "%{text}<br>%{customdata} training images<br>%{y:.1f} %<extra></extra>"}
            traces.append(trace | counts | hover | {"x": numbers(x[at]), "y": numbers(values[at])})
        low = float(values[known].min())
        start = -3 if low < 35 else 10 * np.floor(low / 10) - 10  # room for the differences where all are high
        layout = {
            "xaxis": axis("training images of the class", type="log", **_decades(table.train_positives)),
            "yaxis": axis(f"{title}, %", range=[start, 105]),
            "hovermode": "closest",
        }
        views[f"{WEIGHTS[w]} weights"] = {"data": traces, "layout": layout}
    return {"views": views} if views else None


def thinned(x: np.ndarray, y: np.ndarray, most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: means of equal runs of neighbours."""
    if len(x) <= most:
        return x, y
    starts = np.linspace(0, len(x), most, endpoint=False).astype(np.int64)
    sizes = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _by_epoch(records: Sequence[dict[str, Any]], weights: str, key: str, *, name: str, color: str) -> dict[str, Any]:
    pairs = [(r["epoch"], r[weights][key]) for r in records if r.get(weights, {}).get(key) is not None]
    if not pairs:
        return {}
    x, y = zip(*pairs, strict=True)
    return line(x, y, name, color, hovertemplate="%{y:.2f}")


def _series(records: Sequence[dict[str, Any]], key: str, x: str = "step") -> tuple[np.ndarray, np.ndarray] | None:
    pairs = [(record[x], record[key]) for record in records if record.get(key) is not None]
    if not pairs:
        return None
    array = np.array(pairs, dtype=np.float64)
    return array[:, 0], array[:, 1]


def _sample(counts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Every known class, or, of very many, every n-th by frequency."""
    if len(known) <= SCATTERED:
        return known
    order = known[np.argsort(-counts[known], kind="stable")]
    return order[np.linspace(0, len(order) - 1, SCATTERED).astype(np.int64)]


def _decades(counts: np.ndarray) -> dict[str, Any]:
    """Ticks at powers of ten (of less than two also at 2 and 5), and one for 0, which has its place below 1."""
    top = max(int(counts.max(initial=1)), 1)
    steps = (1,) if top > 50 * max(int(counts.min(initial=top)), 1) else (1, 2, 5)
    ticks = [step * 10**k for k in range(int(np.log10(top)) + 2) for step in steps]
    zero = [0.7] if (counts == 0).any() else []
    return {"tickvals": [*zero, *ticks], "ticktext": [*("0" for _ in zero), *(f"{tick:,}" for tick in ticks)]}


def _quartiles(x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Median and quartiles of the classes in bins of frequency, as a band."""
    bins = int(np.clip(len(x) // 25, 4, 24))
    cuts = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)[1:-1], method="nearest"))
    bin_of = np.searchsorted(cuts, x, side="left")  # classes of the same frequency are in the same bin
    parts = [np.flatnonzero(bin_of == k) for k in np.unique(bin_of)]
    middle = [float(np.exp(np.log(x[part]).mean())) for part in parts]
    low, mid, high = (np.array([np.percentile(y[part], q) for part in parts]) for q in (25, 50, 75))
    band = {"x": numbers(middle), "mode": "lines", "type": "scatter", "hoverinfo": "skip"}
    none = {"color": "--neutral", "width": 0}
    return [
        {**band, "y": numbers(low), "line": none, "showlegend": False},
        {**band, "y": numbers(high), "line": none, "fill": "tonexty", "fillcolor": "--band", "name": "middle half"},
        {**band, "y": numbers(mid), "line": {"color": "--text", "width": 1.5, "dash": "dot"}, "name": "median"},
    ]
