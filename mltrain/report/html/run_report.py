"""The page of a run, report.html: all that is known of it; sections without data are named at the end."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mltrain.engine.run_folder import ENVIRONMENT, METRICS, PER_CLASS, REPORT, SPLITS, WEIGHTS, RunFolder, flatten
from mltrain.engine.saved_tables import ClassTable
from mltrain.report.html import run_figures as figures
from mltrain.report.html.page import Column, Page, Table, duration, figure_number, tile, write_page
from mltrain.report.html.prediction_sections import add_predictions
from mltrain.report.tables import PAGE_HEADLINES, title
from mltrain.text import counted, spell
from mltrain.transcript import repeating

logger = logging.getLogger(__name__)


def write_run_report(
    folder: str | Path, *, images: Mapping[str, str | Path] | None = None, out: str | Path | None = None
) -> Path:
    """Write the report of a run and return its path.

    Args:
        folder: run folder; an unfinished run gets the sections that it has data for.
        images: split -> folder that the image files of its predictions are relative to; without it the page has no
            pictures.
        out: file to write; None: report.html in the run folder.

    Raises:
        DataError: `folder` is no run folder, or a file in it cannot be read.
        ConfigError: Plotly or Jinja2 is not installed.
    """
    run = RunFolder(folder)
    path = Path(out) if out is not None else run.folder / REPORT
    write_page(path, run_page(run, {split: Path(root) for split, root in (images or {}).items()}))
    return path


def report_at_end(folder: Path, images: Mapping[str, str | Path]) -> None:
    """Write the report at the end of a training; log one line, or a warning with the command that tries again."""
    started = time.perf_counter()
    try:
        path = write_run_report(folder, images=images)
    except Exception as error:  # noqa: BLE001  the training is done; its report must not make it fail
        command = f"mltrain report {shlex.quote(str(folder))}"
        logger.warning("no report was written (%s: %s); try again: %s", type(error).__name__, error, command)
        return
    logger.info("report: %s (%.1f s)", path, time.perf_counter() - started)


def run_page(run: RunFolder, images: Mapping[str, Path]) -> Page:
    """Make the page of a run, without writing it."""
    page = Page(title=f"{run.dataset} · {run.name}", subtitle=str(run.result.get("config_id") or run.folder.name))
    _add_summary(page, run)
    _add_training(page, run)
    _add_groups(page, run)
    _add_classes(page, run)
    add_predictions(page, run, images)
    _add_throughput(page, run)
    _add_setup(page, run)
    return page


def _add_summary(page: Page, run: RunFolder) -> None:
    if not run.finished:
        done = run.epochs[-1]["epoch"] if run.epochs else 0
        of = run.config.get("runner", {}).get("epochs", "?")
        page.leave_out("Results", f"the run has not finished: it stands at epoch {done} of {of}")
        return
    scores, best = run.scalars(run.split), run.result["best"]
    headline = [key for key in PAGE_HEADLINES[run.task] if key in scores]
    tiles = [tile(title(key), figure_number(scores[key]), figure=key) for key in headline]
    rate = run.result.get("images_per_second")
    note = counted(run.result.get("epochs", 0), "epoch") + (f", {rate:.0f} images/s" if rate else "")
    tiles.append(tile("training", duration(run.result.get("seconds")), note))
    rows = []
    for split in SPLITS:
        for w in WEIGHTS:
            found = run.scalars(split, w)
            if found:
                name = f"{SPLITS[split]}, {WEIGHTS[w]} weights"
                cells = [figure_number(found.get(key)) for key in headline]
                rows.append({"name": name, "cells": cells, "best": split == run.split and w == run.best_weights})
    lead = (
        f"The figures of the {WEIGHTS[run.best_weights]} weights on the {SPLITS[run.split]} split, in percent. "
        f"Epoch {best['epoch']} of {run.result['epochs']} is the best by validation {title(run.best_by)}."
    )
    heads = [title(key) for key in headline]
    page.add("summary", "Results", "run_summary.html", lead=lead, tiles=tiles, heads=heads, rows=rows)


def _add_training(page: Page, run: RunFolder) -> None:
    found = {
        "quality": (figures.quality_figure(run), "figures of the validation split by epoch"),
        "training": (figures.training_figure(run), "training loss, learning rate and gradient norm"),
    }
    shown = {name: (figure, label) for name, (figure, label) in found.items() if figure is not None}
    if not shown:
        page.leave_out("Learning curves", f"{METRICS} has no records of this run")
        return
    both = len(run.evaluated) > 1
    lead = "Quality on the validation split" + (", raw weights and their moving average (EMA)," if both else "")
    lead += " beside the loss on the training images."
    page.add_plots("curves", "Learning curves", shown, short="Curves", lead=lead)


def _add_groups(page: Page, run: RunFolder) -> None:
    figure = figures.group_figure(run)
    if figure is None:
        unfinished, none = "the run has not finished", "its result has no figures of head, medium and tail"
        page.leave_out("Groups", none if run.finished else unfinished)
        return
    bounds = run.config.get("metrics", {})
    lead = (
        f"Head: classes with at least {bounds.get('head_min', 100)} training images; medium: at least "
        f"{bounds.get('medium_min', 20)}; tail: fewer. {SPLITS[run.split].capitalize()} split."
    )
    texts: dict[str, Any] = {"lead": lead, "short": "Groups"}
    sizes = _group_sizes(run)
    page.add("groups", "Head, medium, tail", "run_groups.html", sizes=sizes, figures={"groups": figure}, **texts)


def _group_sizes(run: RunFolder) -> list[dict[str, str]]:
    if run.stats is None:
        return []
    positives = run.stats.positives
    sizes = []
    for name, index in run.stats.group_indices().items():
        if len(index):
            share = positives[index].sum() / max(positives.sum(), 1)
            note = f"{share:.0%} of the training labels"
            sizes.append(tile(f"{name} classes", f"{len(index):,}", note, figure=name))
    return sizes


def _add_classes(page: Page, run: RunFolder) -> None:
    table = run.classes.get(run.split) or run.classes.get("val")
    if table is None:
        page.leave_out("Classes", f"the run folder has no {PER_CLASS['val']}, which the end of a run writes")
        return
    figure = figures.class_figure(run, table)
    drawn = {} if figure is None else {"classes": figure}
    lead = "Recall" if run.single_label else "Average precision"
    lead += " of each class against its number of training images."
    known = next((c for name, c in table.columns.items() if name.endswith(("_ap", "_recall"))), np.empty(0))
    if int((~np.isnan(known)).sum()) > figures.SCATTERED:
        lead += (
            f" Of the {len(table.names):,} classes {figures.SCATTERED:,} are drawn; median and quartiles are of all."
        )
    shown = class_table(run, table)
    page.add("classes", "Classes", "run_classes.html", lead=lead, figures=drawn, drawn=bool(drawn), table=shown)


def class_table(run: RunFolder, table: ClassTable) -> Table:
    """Make the table of all classes: counts, AP per weights, precision, recall and F1 of the best weights."""
    columns = [
        Column("class", table.names, "text"),
        Column("group", table.groups, "group"),
        Column("train", table.train_positives.tolist(), digits=0, hint="positive training images"),
    ]
    own = {
        key: table.figure(run.best_weights, key)
        for key in ("positives", "ap", "precision", "recall", "f1", "predicted")
    }
    if own["positives"] is not None:
        columns.append(
            Column(SPLITS[run.split], _whole(own["positives"]), digits=0, hint="positive images of the evaluated split")
        )
    for w in run.evaluated:
        ap = table.figure(w, "ap")
        if ap is not None:
            several = f" {WEIGHTS[w]}" if len(run.evaluated) > 1 else ""
            columns.append(Column(f"AP{several}", ap, hint="average precision, %"))
    for key in ("precision", "recall", "f1"):
        values = own[key]
        if values is not None:
            columns.append(Column("F1" if key == "f1" else key, values, hint="%"))
    if own["predicted"] is not None:
        columns.append(Column("predicted", _whole(own["predicted"]), digits=0, hint="images that it was predicted for"))
    return Table(columns, sort=2, search="search a class")


def _whole(values: np.ndarray) -> list[int | None]:
    return [None if np.isnan(v) else int(v) for v in values]


def _add_throughput(page: Page, run: RunFolder) -> None:
    figure = figures.throughput_figure(run)
    if figure is None:
        page.leave_out("Throughput", f"{METRICS} has no rates of this run")
        return
    waits = [record["train/data_wait"] for record in run.steps if record.get("train/data_wait") is not None]
    lead = "Images per second of the training alone, without evaluations."
    if waits:
        share = float(np.mean(waits))
        hint = "; more data.num_workers, or data.cache=true, would help" if share > 0.2 else ""
        lead += f" Of that time {share:.0%} was spent waiting for data{hint}."
    label = "images per second and share of time waiting for data"
    page.add_plots("throughput", "Throughput", {"throughput": (figure, label)}, lead=lead)


def _add_setup(page: Page, run: RunFolder) -> None:
    env = run.environment
    cpu = env.get("cpu") or {}
    git = env.get("git") or {}
    rows: list[tuple[str, str]] = []
    if env:
        gpus = list(env.get("gpus") or [])
        kinds = ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus))
        commit = str(git.get("commit", ""))[:12] + (", with changes" if git.get("changed") else "")
        rows = [
            ("started", str(env.get("time", ""))),
            ("processes", str(env.get("world_size", 1))),
            ("GPUs", kinds or "none"),
            ("CPU", f"{cpu.get('model', '?')}, {counted(cpu.get('cores', 0), 'core')}"),
            ("Python", f"{env.get('python', '?')} on {env.get('platform', '?')}"),
            ("packages", ", ".join(f"{k} {v}" for k, v in (env.get("packages") or {}).items() if v)),
            ("source", commit or "an installed copy"),
        ]
        rows = [(name, value) for name, value in rows if value]
    else:
        page.leave_out("Environment", f"the run folder has no {ENVIRONMENT}")
    corrupt = run.result.get("corrupt_images") or []
    if corrupt:
        rows.append(("corrupt images", f"{len(corrupt)} skipped: " + "; ".join(map(str, corrupt[:5]))))
    rows.append(("folder", str(run.folder)))
    command = shlex.join(repeating(env))
    sections = {key: flatten(value) for key, value in run.config.items() if isinstance(value, Mapping)}
    config = [(key, [(k, spell(v)) for k, v in section.items()]) for key, section in sections.items() if section]
    scalars = [(key, spell(value)) for key, value in run.config.items() if not isinstance(value, Mapping)]
    page.add(
        "setup",
        "Config and environment",
        "run_setup.html",
        short="Config",
        rows=rows,
        command=command,
        config=config,
        scalars=scalars,
    )
