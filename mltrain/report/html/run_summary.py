"""The first section of a run's report: its figures with intervals and chance levels, its groups, and what all mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mltrain.engine.run_folder import SPLITS, THRESHOLDS, WEIGHTS, RunFolder
from mltrain.errors import DataError
from mltrain.labels import GROUP_NAMES
from mltrain.report.bootstrap import Interval
from mltrain.report.html import run_figures as figures
from mltrain.report.html.page import Column, Page, Table, duration, figure_number, tile
from mltrain.report.html.predicted import Predicted
from mltrain.report.intervals import affordable, chance_levels, intervals_of
from mltrain.report.tables import PAGE_HEADLINES, group_of, meaning, title


@dataclass(frozen=True)
class Sureness:
    """Intervals and chance levels of the figures of a run."""

    intervals: dict[str, Interval] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    resamples: int = 0
    why: str = ""
    """reason if there are no intervals"""


def sureness_of(run: RunFolder, ready: Predicted | None, why: str, resamples: int) -> Sureness:
    """Compute intervals and chance levels, as far as the predictions allow; `why` there are no predictions."""
    if ready is None:
        return Sureness(why=why)
    try:
        chance = chance_levels(run, ready.saved)
        count = affordable(ready.saved, resamples)
        if not count:
            images, classes = ready.saved.targets.shape
            asked = "resamples=0" if not resamples else f"{images:,} images of {classes:,} classes take too long"
            return Sureness(chance=chance, why=asked)
        return Sureness(intervals_of(run, ready.saved, count), chance, count)
    except DataError as error:
        return Sureness(why=str(error))


def add_summary(page: Page, run: RunFolder, ready: Predicted | None, sure: Sureness) -> None:
    """Append the section; a run that has not finished has none."""
    if not run.finished:
        done = run.epochs[-1]["epoch"] if run.epochs else 0
        of = run.config.get("runner", {}).get("epochs", "?")
        page.leave_out("Results", f"the run has not finished: it stands at epoch {done} of {of}")
        return
    if sure.why:
        page.leave_out("Intervals", sure.why)
    scores, best = run.scalars(run.split), run.result["best"]
    headline = [key for key in PAGE_HEADLINES[run.task] if key in scores]
    tiles = [
        tile(title(key), figure_number(scores[key]), _note(key, sure), hint=meaning(key))
        for key in headline
        if not group_of(key)
    ]
    rate = run.result.get("images_per_second")
    note = f"{run.result.get('epochs')} epochs" + (f", {rate:.0f} images/s" if rate else "")
    tiles.append(tile("training", duration(run.result.get("seconds")), note))
    groups = group_table(run, sure)
    figure = figures.group_figure(run, sure.intervals, sure.chance)
    if groups is None:
        page.leave_out("Groups", "result.json has no figures of groups of classes")
    lead = (
        f"The figures of the {WEIGHTS[run.best_weights]} weights on the {SPLITS[run.split]} split, in percent. "
        f"Epoch {best['epoch']} of {run.result['epochs']} is the best by validation {title(run.best_by)}."
    )
    lead += f" {early[0].upper()}{early[1:]}." if (early := str(run.result.get("ended_early", ""))) else ""
    page.add(
        "summary",
        "Results",
        "run_summary.html",
        lead=lead,
        tiles=tiles,
        figures={} if figure is None or groups is None else {"groups": figure},
        drawn=figure is not None,
        groups=groups,
        notes=_notes(run, ready, sure, groups is not None),
        all=figure_table(run),
    )
    if groups is not None:
        page.tables["groups"] = groups
    page.tables["figures"] = page.sections[-1].context["all"]


def _note(key: str, sure: Sureness) -> str:
    parts = []
    if key in sure.intervals:
        found = sure.intervals[key]
        parts.append(f"95 %: {found.low:.1f} to {found.high:.1f}")
    if key in sure.chance:
        parts.append(f"chance: {sure.chance[key]:.1f}")
    return ", ".join(parts)


def _notes(run: RunFolder, ready: Predicted | None, sure: Sureness, groups: bool) -> list[str]:
    notes = []
    bounds = run.config.get("metrics", {})
    if groups:
        notes.append(
            f"Head: classes with at least {bounds.get('head_min', 100)} training images; medium: at least "
            f"{bounds.get('medium_min', 20)}; tail: fewer."
        )
    if sure.intervals:
        notes.append(
            f"Intervals (95 %) say how the figure varies with the choice of the {SPLITS[run.split]} images (bootstrap, "
            f"{sure.resamples:,} resamples), not with the seed of training."
        )
    if "map" in sure.chance:
        notes.append("Chance is the mean prevalence, the mAP of a random order of the images.")
    elif sure.chance:
        notes.append("Chance is the accuracy of always answering the most frequent class.")
    if ready is not None and ready.tuned is not None:
        notes.append(tuned_note(ready.tuned))
    return notes


def tuned_note(tuned: Mapping[str, Any]) -> str:
    """Return a sentence on the run's own thresholds: how they were chosen, and honest figures with them."""
    reported, before = tuned.get("figures") or {}, tuned.get("figures_before") or {}
    keys = [key for key in ("OF1", "CF1", "macro_F1") if key in reported and key in before]
    figures = ", ".join(f"{title(key)} {before[key]:.2f} → {reported[key]:.2f}" for key in keys)
    folds = tuned.get("folds")
    where = f"{folds} folds of the validation split" if folds else "the test split"
    text = (
        f"The run has thresholds of its own ({THRESHOLDS}, chosen by {tuned['chosen_by']}). Classes, co-occurrence and "
        "images on this page use them; the figures above have the one of metrics.threshold."
    )
    return f"{text} With them, on {where}: {figures}." if figures else text


def group_table(run: RunFolder, sure: Sureness) -> Table | None:
    """Make the table of head, medium, tail and all classes; None where the results have no groups."""
    scores = run.scalars(run.split)
    main, *others = ("accuracy", "macro_F1") if run.single_label else ("map", "macro_F1", "CF1", "OF1")
    names = [name for name in GROUP_NAMES if f"{main}_{name}" in scores]
    if not names:
        return None
    keys = ["", *names]
    columns = [Column("classes", ["all", *names], "group")]
    if run.stats is not None:
        index = {"all": np.arange(len(run.stats.class_names)), **run.stats.group_indices()}
        positives = run.stats.positives
        columns.append(Column("number", [len(index[name]) for name in ("all", *names)], digits=0))
        shares = [100 * positives[index[name]].sum() / max(positives.sum(), 1) for name in ("all", *names)]
        columns.append(Column("labels, %", shares, digits=0, hint="share of the positive labels of the training set"))

    def values(prefix: str) -> list[str]:
        return [f"{prefix}_{name}" if name else prefix for name in keys]

    columns.append(Column(title(main), [scores.get(key) for key in values(main)], digits=2, hint=meaning(main)))
    if sure.intervals:
        found = [sure.intervals.get(key) for key in values(main)]
        hint = "bound of the 95 % interval over the images"
        columns.append(Column("from", [each and each.low for each in found], digits=1, hint=f"lower {hint}"))
        columns.append(Column("to", [each and each.high for each in found], digits=1, hint=f"upper {hint}"))
    if any(key in sure.chance for key in values(main)[1:]):
        chance = [sure.chance.get(key) for key in values(main)]
        columns.append(Column("chance", chance, digits=1, hint="mean prevalence: the mAP of a random order"))
    for prefix in others:
        cells = [scores.get(key) for key in values(prefix)]
        columns.append(Column(title(prefix), cells, digits=2, hint=meaning(prefix)))
    return Table(columns)


def figure_table(run: RunFolder) -> Table:
    """Make the table of all figures: what each means, and its value for raw and EMA weights of each split."""
    found = {(split, w): run.scalars(split, w) for split in SPLITS for w in WEIGHTS}
    found = {key: scalars for key, scalars in found.items() if scalars}
    keys = list(dict.fromkeys(key for scalars in found.values() for key in scalars))
    order = {key: k for k, key in enumerate(PAGE_HEADLINES[run.task])}
    keys.sort(key=lambda key: order.get(key, len(order)))
    columns = [Column("figure", [title(key) for key in keys], "text")]
    for (split, w), scalars in found.items():
        name = f"{SPLITS[split]}, {WEIGHTS[w]}"
        best = split == run.split and w == run.best_weights
        hint = "the weights and the split that are reported" if best else ""
        columns.append(Column(f"{name} *" if best else name, [scalars.get(key) for key in keys], digits=2, hint=hint))
    columns.append(Column("meaning", [meaning(key) for key in keys], "text"))
    return Table(columns, search="search a figure", page=12)
