"""Plots of label statistics and of per-class results, as PNG files, some as SVG files too.

Drawn through matplotlib's objects, without pyplot: no global state, no display, any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from mltrain.files import atomic_write
from mltrain.labels import GROUP_NAMES, LabelStats
from mltrain.optim.lr_range import Suggestion
from mltrain.report.palette import LIGHT

NAMED = 80  # most classes that have their names on an axis
COLORS = {name: LIGHT[name] for name in GROUP_NAMES}
INK, GREY = LIGHT["text"], LIGHT["neutral"]
SHARES = LinearSegmentedColormap.from_list("shares", [LIGHT[key] for key in ("low", "mid", "high")])


def class_counts_plot(
    path: Path,
    stats: LabelStats,
    *,
    title: str,
    targets: np.ndarray | None = None,
    source_counts: np.ndarray | None = None,
    group_of: np.ndarray | None = None,
    svg: bool = False,
) -> None:
    """Draw images per class on a logarithmic axis, most frequent first, coloured by group.

    Args:
        path: PNG file.
        stats: statistics of the images.
        title: text above the plot.
        targets: (C,) wanted images, drawn as a line; the classes are then sorted by them.
        source_counts: (C,) images in the source, drawn as points.
        group_of: (C,) 0 head, 1 medium, 2 tail, for the colours; None: by the drawn counts.
        svg: also write an SVG file beside it.
    """
    counts = stats.positives
    order = np.lexsort((-counts, -(counts if targets is None else targets)))
    c = len(order)
    figure, axes = _figure(float(np.clip(2.5 + 0.16 * c, 6.5, 16)), 4.6)
    x = np.arange(c)
    floor = 0.7
    groups = (stats.groups if group_of is None else group_of)[order]
    width = 0.82 if c <= 200 else 1.0
    for k, name in enumerate(GROUP_NAMES):
        at = x[groups == k]
        if not len(at):
            continue
        heights = np.maximum(counts[order][at], floor) - floor
        axes.bar(at, heights, bottom=floor, width=width, color=COLORS[name], label=f"{name}: {len(at)} classes")
    if source_counts is not None:
        heights = np.maximum(source_counts[order], floor)
        axes.scatter(x, heights, s=9 if c <= 200 else 2, linewidths=0, color=GREY, label="in the source", zorder=3)
    if targets is not None:
        axes.step(x, np.maximum(targets[order], floor), where="mid", color="black", linewidth=1.2, label="target")
    if group_of is None:
        for bound in {stats.head_min, stats.medium_min}:
            axes.axhline(bound, color="black", linewidth=0.6, linestyle=(0, (4, 3)), alpha=0.6)
    _log_axis(axes, "y")
    axes.set_xlim(-0.7, c - 0.3)
    axes.set_ylim(floor, 6 * max(axes.get_ylim()[1] / 2, 1))  # room for the legend
    axes.set_ylabel("images, logarithmic")
    _class_axis(axes, [stats.class_names[k] for k in order])
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    _save(figure, path, svg=svg)


def cooccurrence_plot(path: Path, stats: LabelStats, *, title: str, svg: bool = False) -> None:
    """Draw a heat map of P(column | row): the share of the images with the row's class that have the column's too.

    Classes are sorted by frequency; at most the 80 most frequent ones are drawn.
    """
    shown = np.argsort(-stats.positives, kind="stable")[:NAMED]
    counts = stats.cooccurrence[shown][:, shown].toarray().astype(np.float64)
    given = counts / np.maximum(stats.positives[shown], 1)[:, None]
    np.fill_diagonal(given, np.nan)
    n = len(shown)
    size = float(np.clip(2.6 + 0.22 * n, 4.5, 16))  # 80 names of 8 points stand clear of each other
    figure, axes = _figure(size + 0.9, size)
    figure.set_layout_engine("compressed")  # else the names at the left of a square are cut
    top = max(0.05, float(np.nanmax(given, initial=0.0)))
    colours = SHARES.with_extremes(bad="#ffffff")
    image = axes.imshow(given, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    names = [_short(stats.class_names[k]) for k in shown]
    axes.set_xticks(range(n), names, rotation=90, fontsize=8)
    axes.set_yticks(
        range(n), [f"{name} {stats.positives[k]}" for name, k in zip(names, shown, strict=True)], fontsize=8
    )
    axes.tick_params(length=0)
    if n <= 20:
        for i, j in zip(*np.nonzero(np.nan_to_num(given) >= 0.005), strict=True):
            color = "white" if given[i, j] > 0.55 * top else "black"
            axes.text(j, i, f"{100 * given[i, j]:.0f}", ha="center", va="center", fontsize=6.5, color=color)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    of = f", the {n} most frequent of {len(stats.class_names)} classes" if n < len(stats.class_names) else ""
    axes.set_title(f"{title}\nP(column | row){of}; beside a name its images", fontsize=10, loc="left")
    _save(figure, path, svg=svg)


def labels_per_image_plot(path: Path, sizes: np.ndarray, *, title: str, svg: bool = False) -> None:
    """Draw a histogram of positives per image; `sizes[k]` images have k."""
    figure, axes = _figure(6.5, 3.6)
    axes.bar(np.arange(len(sizes)), sizes, color=LIGHT["accent"], width=0.82)
    mean = float((np.arange(len(sizes)) * sizes).sum() / max(sizes.sum(), 1))
    axes.axvline(mean, color="black", linewidth=1, linestyle=(0, (4, 3)), label=f"mean {mean:.2f}")
    axes.set_xlabel("labels of an image")
    axes.set_ylabel("images")
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False)
    _save(figure, path, svg=svg)


def per_class_ap_plot(path: Path, ap: Mapping[str, np.ndarray], stats: LabelStats, *, figure: str = "ap") -> None:
    """Draw AP, or another figure, of each class against its training images, a panel for each kind of weights.

    Args:
        path: PNG file.
        ap: title of the panel -> (C,) percent, NaN where a class has no positive in the evaluated split.
        stats: statistics of the training set.
        figure: the figure that `ap` holds: "ap" or "recall".
    """
    name_of_figure, name_of_mean = {"ap": ("average precision", "mAP"), "recall": ("recall", "mean recall")}[figure]
    canvas = _canvas(Figure(figsize=(6.2 * len(ap), 4.6), layout="constrained"))
    panels = canvas.subplots(1, len(ap), sharey=True, squeeze=False)[0]
    x = np.maximum(stats.positives, 0.7)
    for axes, (name, values) in zip(panels, ap.items(), strict=True):
        known = ~np.isnan(values)
        few = known.sum() <= 25
        for group, index in stats.group_indices().items():
            at = index[known[index]]
            if not len(at):
                continue
            mean = values[at].mean()
            label = f"{group}: {name_of_mean} {mean:.1f} of {len(at)} classes"
            axes.scatter(x[at], values[at], s=22 if len(at) < 200 else 6, color=COLORS[group], alpha=0.85, label=label)
            axes.plot([x[at].min(), x[at].max()], [mean, mean], color=COLORS[group], linewidth=1.2, alpha=0.8)
        for k in np.flatnonzero(known) if few else _outliers(x, values, known):
            axes.annotate(
                _short(stats.class_names[k]), (x[k], values[k]), xytext=(4, 3), textcoords="offset points", fontsize=6.5
            )
        for bound in {stats.head_min, stats.medium_min}:
            if x.min() < bound < x.max():
                axes.axvline(bound, color="black", linewidth=0.6, linestyle=(0, (4, 3)), alpha=0.5)
        _style(axes)
        _log_axis(axes, "x")
        axes.set_xlabel("training images of the class")
        axes.set_ylim(-2, 102)
        total = values[known].mean() if known.any() else np.nan
        axes.set_title(f"{name}: {name_of_mean} {total:.2f}", fontsize=10, loc="left")
        axes.legend(fontsize=8, frameon=True, framealpha=0.7, edgecolor="none", loc="best")
    panels[0].set_ylabel(f"{name_of_figure}, %")
    _save(canvas, path)


def lr_range_plot(
    path: Path, lrs: Sequence[float], losses: Sequence[float], found: Suggestion | None, *, title: str
) -> None:
    """Draw loss against the learning rate of a range test, raw and smoothed, with the rates that were found."""
    figure, axes = _figure(7.2, 4.4)
    smooth = found is not None
    axes.plot(lrs, losses, color=GREY, linewidth=0.8 if smooth else 1.4, alpha=0.6, label="loss of a step")
    low, high = min(losses), max(losses[: max(1, len(losses) // 5)])
    if found is not None:
        axes.plot(lrs, found.smoothed, color=INK, linewidth=1.8, label="smoothed")
        low = min(low, float(found.smoothed.min()))
        styles: tuple[tuple[float, str, str, Any], ...] = (
            (found.steepest, "steepest descent", GREY, (0, (4, 3))),
            (found.lowest, "lowest loss", GREY, (0, (1, 2))),
            (found.lr, "suggested", INK, "-"),
        )
        for value, name, color, style in styles:
            axes.axvline(value, color=color, linewidth=1.4, linestyle=style, label=f"{name} {value:.1e}")
    axes.set_xscale("log")
    span = max(high - low, 1e-12)
    axes.set_ylim(low - 0.08 * span, high + 0.6 * span)  # diverging losses may leave the picture
    axes.set_xlabel("learning rate (optimizer.lr)")
    axes.set_ylabel("training loss")
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=True, framealpha=0.8, edgecolor="none", loc="best")
    _save(figure, path)


def _outliers(x: np.ndarray, values: np.ndarray, known: np.ndarray, count: int = 12) -> np.ndarray:
    """Return the classes that are farthest from a straight line over the logarithm of their frequency."""
    at = np.flatnonzero(known)
    slope, level = np.polyfit(np.log(x[at]), values[at], 1) if len(np.unique(x[at])) > 1 else (0.0, values[at].mean())
    off = np.abs(values[at] - level - slope * np.log(x[at]))
    return at[np.argsort(-off, kind="stable")[:count]]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _canvas(Figure(figsize=(width, height), layout="constrained"))
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _canvas(figure: Figure) -> Figure:
    FigureCanvasAgg(figure)
    return figure


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _log_axis(axes: Axes, which: str) -> None:
    axis: Any = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    axis.set_major_locator(LogLocator(10))
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(axis="y" if which == "y" else "x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def _class_axis(axes: Axes, names: Sequence[str]) -> None:
    if len(names) <= NAMED:
        size = 8 if len(names) <= 40 else 6.5
        axes.set_xticks(range(len(names)), [_short(name) for name in names], rotation=90, fontsize=size)
        axes.tick_params(axis="x", length=0)
    else:
        axes.set_xlabel(f"{len(names)} classes, by their rank")


def _short(name: str, most: int = 22) -> str:
    return name.replace("$", r"\$") if len(name) <= most else name[: most - 1].replace("$", r"\$") + "…"


def _save(figure: Figure, path: Path, *, svg: bool = False) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    if svg:  # text stays text, to be searched and edited
        with rc_context({"svg.fonttype": "none"}), atomic_write(path.with_suffix(".svg")) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
