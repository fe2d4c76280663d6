"""Parts of Plotly figures that the pages of runs and of sweeps share: traces, axes, bars of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mltrain.labels import GROUP_NAMES
from mltrain.report.html.page import Figure, numbers
from mltrain.report.tables import title


def line(x: Any, y: Any, name: str, color: str, **more: Any) -> dict[str, Any]:
    """Make a trace of points joined by straight lines; up to 60 points have markers."""
    y = numbers(y)
    mode = "lines+markers" if len(y) <= 60 else "lines"
    trace = {"type": "scatter", "mode": mode, "x": numbers(x, 5), "y": y, "name": name}
    return trace | {"line": {"color": color, "width": 2}, "marker": {"color": color, "size": 5}} | more


def points(x: Any, y: Any, color: str, *, size: int, marker: Mapping[str, Any] | None = None, **more: Any) -> dict:
    """Make a trace of markers."""
    style = {"color": color, "size": size, **(marker or {})}
    return {"type": "scatter", "mode": "markers", "x": numbers(x), "y": numbers(y), "marker": style, **more}


def star(x: Any, y: Any, color: str, *, size: int, **more: Any) -> dict[str, Any]:
    """Make a trace of one star, which marks a best value."""
    return points(
        [x], [y], color, size=size, marker={"symbol": "star", "line": {"color": "--card", "width": 1}}, **more
    )


def error_bars(values: Any, color: str, **more: Any) -> dict[str, Any]:
    """Make the error bars of a trace, one value for each of its points."""
    return {"type": "data", "array": numbers(values), "color": color, **more}


def vertical_line(x: float, color: str, **style: Any) -> dict[str, Any]:
    """Make a line over the whole height of a figure, an item of `layout.shapes`."""
    line = {"color": color, "width": 1, **style}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def axis(text: str, **more: Any) -> dict[str, Any]:
    """Make an axis with a title."""
    return {"title": {"text": text}, **more}


def epoch_axis(last: int) -> dict[str, Any]:
    """Make an axis of whole epochs from 0 to the last."""
    tick = next(k * 10**e for e in range(9) for k in (1, 2, 5) if last <= 10 * k * 10**e)
    return axis("epoch", range=[0, 1.02 * last], dtick=tick)


def by_epoch(
    epochs: Sequence[Mapping[str, Any]], weights: str, key: str, name: str, color: str, **more: Any
) -> dict[str, Any] | None:
    """Make a line of a figure of some weights by epoch, or None where there is no value.

    Args:
        epochs: `RunFolder.epochs`.
        weights: "val" or "ema".
        key: the figure.
        name: name in the legend.
        color: CSS variable.
        more: other keys of the trace.
    """
    pairs = [(record["epoch"], record.get(weights, {}).get(key)) for record in epochs]
    pairs = [(x, y) for x, y in pairs if y is not None]
    if not pairs:
        return None
    x, y = zip(*pairs, strict=True)
    return line(x, y, name, color, **more)


def group_bars(
    prefixes: Sequence[str],
    series: Sequence[tuple[str, str, Mapping[str, float]]],
    style: Callable[[int, list[str]], dict[str, Any]],
    **layout: Any,
) -> Figure | None:
    """Make bars of head, medium, tail and all classes, a view for each kind of figure; None where there are no groups.

    Args:
        prefixes: kinds of figures, as "map" of `map_head`.
        series: name, colour and figures by key of the bars that stand beside each other.
        style: (number of the series, keys of its bars) -> other keys of their trace.
        layout: other keys of the layout.
    """
    views: dict[str, Figure] = {}
    for prefix in prefixes:
        groups = [name for name in GROUP_NAMES if any(f"{prefix}_{name}" in figures for *_, figures in series)]
        if not groups:
            continue
        keys = [*(f"{prefix}_{name}" for name in groups), prefix]
        data = []
        for k, (name, color, figures) in enumerate(series):
            if prefix in figures:
                bar = {"type": "bar", "x": [*groups, "all"], "y": numbers([figures.get(key) for key in keys])}
                data.append(bar | {"name": name, "marker": {"color": color}} | style(k, keys))
        axes = {"yaxis": axis(f"{title(prefix)}, %", **layout.get("yaxis", {})), "barmode": "group"}
        views[title(prefix)] = {"data": data, "layout": {**layout, **axes}}
    return {"views": views} if views else None
