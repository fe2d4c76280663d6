"""Plotly figures of a run that need no predictions: curves, groups, classes, throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mltrain.engine.run_folder import EMA, RAW, SPLITS, WEIGHTS, RunFolder
from mltrain.engine.saved_tables import ClassTable
from mltrain.labels import GROUP_NAMES
from mltrain.report.bootstrap import Interval
from mltrain.report.html.page import Figure, numbers, plot_text
from mltrain.report.html.traces import axis, by_epoch, epoch_axis, error_bars, line, points, star
from mltrain.report.tables import PAGE_HEADLINES, title

POINTS = 600
"""Points of a curve; longer ones are drawn as means of neighbours."""
NAMED = 25
"""Classes whose names stand beside their points."""
SCATTERED = 1200
"""Classes drawn as points; of more classes a sample is drawn, with median and quartiles of all."""
COLOR = {RAW: "--neutral", EMA: "--text"}
FEW = 10
"""Evaluated positive images below which the point of a class is hollow."""


def _time_axis(run: RunFolder) -> dict[str, Any]:
    """Make an axis of epochs, or of steps before the first epoch has ended."""
    return axis("step", rangemode="tozero") if run.steps_per_epoch is None else epoch_axis(run.epochs[-1]["epoch"])


def quality_figure(run: RunFolder) -> Figure | None:
    """Draw figures of the validation split by epoch: raw against EMA, and the groups of the best weights."""
    evaluated = [record for record in run.epochs if any(w in record for w in WEIGHTS)]
    if not evaluated:
        return None
    by, layout = run.best_by, {"xaxis": _time_axis(run), "hovermode": "x unified"}
    views: dict[str, Figure] = {}
    hover: dict[str, Any] = {"hovertemplate": "%{y:.2f}"}
    for key in dict.fromkeys([by, PAGE_HEADLINES[run.task][0], "macro_F1", "OF1"]):
        lines = [
            by_epoch(evaluated, w, key, WEIGHTS[w], COLOR[w] if len(run.evaluated) > 1 else "--text", **hover)
            for w in run.evaluated
        ]
        traces = [trace for trace in lines if trace is not None]
        best = run.result.get("best")
        if best and key == by and traces:
            traces.append(star(best["epoch"], best[by], "--text", size=12, name=f"best, epoch {best['epoch']}"))
        if traces:
            views[title(key)] = {"data": traces, "layout": layout | {"yaxis": axis(f"{title(key)}, %")}}
    prefix = "accuracy" if run.single_label else "map"
    lines = [
        by_epoch(evaluated, run.best_weights, f"{prefix}_{group}", group, f"--{group}", hovertemplate="%{y:.2f}")
        for group in GROUP_NAMES
    ]
    traces = [trace for trace in lines if trace is not None]
    if traces:
        y_axis = axis(f"{title(prefix)} of the {WEIGHTS[run.best_weights]} weights, %")
        views["head, medium, tail"] = {"data": traces, "layout": layout | {"yaxis": y_axis}}
    return {"views": views} if views else None


def training_figure(run: RunFolder) -> Figure | None:
    """Draw loss, learning rate and gradient norm against the epoch, or the step before the first epoch has ended."""
    scale = run.steps_per_epoch
    views: dict[str, Figure] = {}
    for key, name in (("train/loss", "loss"), ("train/lr", "learning rate"), ("train/grad_norm", "gradient norm")):
        found = _series(run.steps, key)
        traces = []
        if found is not None:
            x, y = thinned(found[0] / (scale or 1.0), found[1])
            soft = key == "train/loss" and len(run.epochs) > 1
            style: dict[str, Any] = {"opacity": 0.45} if soft else {}
            traces.append(
                line(x, y, "step" if soft else name, "--neutral" if soft else "--text", mode="lines", **style)
            )
        if key == "train/loss":
            epochs = _series(run.epochs, "train/epoch_loss", "epoch")
            if epochs is not None:
                traces.append(line(*epochs, "mean of the epoch", "--text"))
        if not traces:
            continue
        values = [v for trace in traces for v in trace["y"] if v is not None]
        log = bool(values) and min(values) > 0 and max(values) > 30 * min(values) and key != "train/lr"
        # On a logarithmic axis 1, 2 and 5 of each power of ten, or, over many powers, these alone.
        dtick = 1 if log and max(values) > 1e3 * min(values) else "D2"
        y_axis = axis(name, type="log", dtick=dtick) if log else axis(name, rangemode="tozero")
        layout = {"xaxis": _time_axis(run), "yaxis": y_axis | {"exponentformat": "e" if key == "train/lr" else "none"}}
        views[name] = {"data": traces, "layout": layout | {"showlegend": len(traces) > 1}}
    return {"views": views} if views else None


def throughput_figure(run: RunFolder) -> Figure | None:
    """Draw images per second and the share of time that training waited for data."""
    speed, wait = (_series(run.steps, f"train/{key}") for key in ("images_per_second", "data_wait"))
    if speed is None:
        return None
    scale = run.steps_per_epoch
    x, y = thinned(speed[0] / (scale or 1.0), speed[1])
    traces = [line(x, y, "images/s", "--text", mode="lines")]
    layout: dict[str, Any] = {
        "xaxis": _time_axis(run),
        "yaxis": axis("images/s", rangemode="tozero", domain=[0.42, 1] if wait is not None else [0, 1]),
        "showlegend": False,
        "hovermode": "x unified",
    }
    if wait is not None:
        x, y = thinned(wait[0] / (scale or 1.0), 100 * wait[1])
        traces.append(line(x, y, "waiting for data", "--neutral", mode="lines", yaxis="y2", fill="tozeroy"))
        layout["yaxis2"] = axis("waiting, %", range=[0, max(10.0, 1.1 * float(np.max(y)))], domain=[0, 0.3])
        layout["xaxis"]["anchor"] = "y2"
    return {"data": traces, "layout": layout}


def group_figure(run: RunFolder, intervals: Mapping[str, Interval], chance: Mapping[str, float]) -> Figure | None:
    """Draw mAP or accuracy of all classes and of each group with its 95 % interval, and the chance level.

    None without intervals: the table beside it has the figures.
    """
    main = "accuracy" if run.single_label else "map"
    scores = run.scalars(run.split)
    keys = {"all": main} | {name: f"{main}_{name}" for name in GROUP_NAMES if f"{main}_{name}" in scores}
    keys = {name: key for name, key in keys.items() if key in intervals}
    if len(keys) < 2:
        return None
    data = []
    for k, (name, key) in enumerate(keys.items()):
        value, low, high = intervals[key]
        color = "--text" if name == "all" else f"--{name}"
        bars = error_bars([high - value], color, thickness=2, width=5)
        bars |= {"arrayminus": numbers([value - low]), "symmetric": False}
        hover = f"{name}: %{{x:.2f}}, 95 % {low:.1f} to {high:.1f}<extra></extra>"
        data.append(points([value], [k], color, size=10, name=name, ids=[name], error_x=bars, hovertemplate=hover))
    marked = [(k, chance[key]) for k, key in enumerate(keys.values()) if key in chance]
    if marked:
        style = {"symbol": "line-ns-open", "line": {"width": 2}}
        places, levels = zip(*marked, strict=True)
        names = [list(keys)[k] for k in places]
        more = {"ids": names, "hovertemplate": "%{id}: chance %{x:.1f}<extra></extra>"}
        data.append(points(levels, places, "--neutral", size=12, marker=style, name="chance", **more))
    ticks = {"tickvals": list(range(len(keys))), "ticktext": list(keys), "range": [len(keys) - 0.5, -0.5]}
    x_axis = axis(f"{title(main)}, %", range=[0, 101])
    return {"data": data, "layout": {"xaxis": x_axis, "yaxis": ticks, "showlegend": False, "hovermode": "closest"}}


def class_figure(run: RunFolder, table: ClassTable, chance: np.ndarray | None = None) -> Figure | None:
    """Draw AP (recall with single labels) of each class against its training images, a view per kind of weights.

    A point is the larger the more evaluated images are positive, and hollow below `FEW` of them: an AP of few images
    says little. `chance`, (C,) percent, is drawn where it is given.
    """
    figure, name = ("recall", "recall") if run.single_label else ("ap", "average precision")
    views: dict[str, Figure] = {}
    for w in sorted(run.evaluated, key=lambda w: w != run.best_weights):
        values, support = table.figure(w, figure), table.figure(w, "positives")
        if values is None or np.isnan(values).all():
            continue
        known = np.flatnonzero(~np.isnan(values))
        shown = _sample(table.train_positives, known)
        x = np.maximum(table.train_positives, 0.7)
        named = len(known) <= NAMED
        traces = [] if named else _quartiles(x[known], values[known])
        if chance is not None:
            style = {"symbol": "line-ew-open", "line": {"width": 1.5}}
            more = {"hovertemplate": "%{id}<br>chance %{y:.1f} %<extra></extra>"}
            ids = [table.names[k] for k in shown]
            level = points(x[shown], chance[shown], "--neutral", size=7, marker=style, name="chance", ids=ids, **more)
            traces.append(level)
        places = {k: "top center" if n % 2 else "bottom center" for n, k in enumerate(shown[np.argsort(x[shown])])}
        for group in GROUP_NAMES:
            at = [k for k in shown if table.groups[k] == group]
            if not at:
                continue
            counts = np.zeros(len(at)) if support is None else np.nan_to_num(support[at])
            trace = points(x[at], values[at], f"--{group}", size=9, name=group, ids=[table.names[k] for k in at])
            crowded = len(shown) >= 150
            trace["marker"] |= {} if support is None else _support_marker(counts, f"--{group}", crowded=crowded)
            trace |= {"text": [plot_text(table.names[k]) for k in at], "cliponaxis": False}
            if named:
                trace |= {"mode": "markers+text", "textposition": [places[k] for k in at]}
            trace |= {"textfont": {"size": 10, "color": "--muted"}}
            trace["customdata"] = [[int(n), int(m)] for n, m in zip(table.train_positives[at], counts, strict=True)]
            trace["meta"] = {"columns": ["training images", f"positive {SPLITS[run.split]} images"]}
            trace["hovertemplate"] = (
                f"%{{text}}<br>%{{customdata[0]:,}} training, %{{customdata[1]:,}} {SPLITS[run.split]} images<br>"
                "%{y:.1f} %<extra></extra>"
            )
            traces.append(trace)
        low = float(values[known].min() if chance is None else min(values[known].min(), np.nanmin(chance[shown])))
        start = -3 if low < 35 else 10 * np.floor(low / 10) - 10  # room for the differences where all are high
        layout = {
            "xaxis": axis("training images of the class", type="log", **_decades(table.train_positives)),
            "yaxis": axis(f"{name}, %", range=[start, 106]),
            "hovermode": "closest",
        }
        views[f"{WEIGHTS[w]} weights"] = {"data": traces, "layout": layout, "opens": True}
    return {"views": views} if views else None


def _support_marker(counts: np.ndarray, color: str, *, crowded: bool) -> dict[str, Any]:
    """Return size and symbol of points by the number of positive images."""
    sizes = np.clip(5 + 3.2 * np.log10(np.maximum(counts, 1)), 5, 17) * (0.75 if crowded else 1)
    symbols = ["circle" if n >= FEW else "circle-open" for n in counts]
    return {"size": numbers(sizes, 3), "symbol": symbols, "opacity": 0.85, "line": {"width": 1.5, "color": color}}


def thinned(x: np.ndarray, y: np.ndarray, most: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a curve to at most `most` points, means of equally many neighbours."""
    if len(x) <= most:
        return x, y
    starts = np.linspace(0, len(x), most, endpoint=False).astype(np.int64)
    sizes = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def _series(records: Sequence[dict[str, Any]], key: str, x: str = "step") -> tuple[np.ndarray, np.ndarray] | None:
    pairs = [(record[x], record[key]) for record in records if record.get(key) is not None]
    if not pairs:
        return None
    array = np.array(pairs, dtype=np.float64)
    return array[:, 0], array[:, 1]


def _sample(counts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return every known class, or every n-th by frequency if there are very many."""
    if len(known) <= SCATTERED:
        return known
    order = known[np.argsort(-counts[known], kind="stable")]
    return order[np.linspace(0, len(order) - 1, SCATTERED).astype(np.int64)]


def _decades(counts: np.ndarray) -> dict[str, Any]:
    """Return ticks at powers of ten (over a short range also at 2 and 5), and one for 0, which is drawn below 1."""
    top = max(int(counts.max(initial=1)), 1)
    steps = (1,) if top > 50 * max(int(counts.min(initial=top)), 1) else (1, 2, 5)
    ticks = [step * 10**k for k in range(int(np.log10(top)) + 2) for step in steps]
    zero = [0.7] if (counts == 0).any() else []
    return {"tickvals": [*zero, *ticks], "ticktext": [*("0" for _ in zero), *(f"{tick:,}" for tick in ticks)]}


def _quartiles(x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Make traces of the median and quartiles of the classes in bins of frequency."""
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
