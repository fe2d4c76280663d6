"""report.html of a run: what is known of it, section by section; what is not known is named at its end."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mltrain.labels import GROUP_NAMES
from mltrain.report.html import run_figures as figures
from mltrain.report.html.page import Column, Page, Table, duration, figure_number, write_page
from mltrain.report.html.prediction_sections import add_predictions
from mltrain.report.html.run_data import SPLITS, TITLES, WEIGHTS, ClassTable, RunData, read_run

logger = logging.getLogger(__name__)

FILE = "report.html"


def write_run_report(
    folder: str | Path, *, images: Mapping[str, str | Path] | None = None, out: str | Path | None = None
) -> Path:
    """Write the report of a run and return its path.

    Args:
        folder: of the run; an unfinished one gets the sections that it has data for.
        images: by split, the folder that the image files of its predictions are relative to; where there is none, the
            page has no pictures.
        out: file; None: report.html in the run folder.

    Raises:
        DataError: no run folder, or a file in it cannot be read.
        ConfigError: Plotly or Jinja2 is not installed.
    """
    run = read_run(folder)
    path = Path(out) if out is not None else run.folder / FILE
    write_page(path, run_page(run, {split: Path(root) for split, root in (images or {}).items()}))
    return path


def report_at_end(folder: Path, images: Mapping[str, str | Path]) -> None:
    """`write_run_report` for the end of a training: one log line, and a failure is a warning with what to do."""
    started = time.perf_counter()
    try:
        path = write_run_report(folder, images=images)
    except Exception as error:  # noqa: BLE001  the training is done, and must not fail by its report
        command = f"python tools/report.py {shlex.quote(str(folder))}"
        logger.warning("no report was written (%s: %s); try again: %s", type(error).__name__, error, command)
        return
    logger.info("report: %s (%.1f s)", path, time.perf_counter() - started)


def run_page(run: RunData, images: Mapping[str, Path]) -> Page:
    """The page of a run, not yet written."""
    page = Page(title=f"{run.dataset} · {run.name}", subtitle=str(run.result.get("config_id") or run.folder.name))
    _add_summary(page, run)
    _add_training(page, run)
    _add_groups(page, run)
    _add_classes(page, run)
    add_predictions(page, run, images)
    _add_throughput(page, run)
    _add_setup(page, run)
    return page


def _add_summary(page: Page, run: RunData) -> None:
    if not run.finished:
        done = run.epochs[-1]["epoch"] if run.epochs else 0
        of = run.config.get("runner", {}).get("epochs", "?")
        page.leave_out("Results", f"the run has not finished: it stands at epoch {done} of {of}")
        return
    scores, best = run.scores(), run.result["best"]
    tiles = []
    for key in run.headline:
        if key in scores:
            group = key.rpartition("_")[2]
            tile = {"title": TITLES.get(key, key), "value": figure_number(scores[key]), "note": ""}
            tiles.append(tile | {"group": group if group in GROUP_NAMES else ""})
    rate = run.result.get("images_per_second")
    tiles.append(
        {
            "title": "training",
            "value": duration(run.result.get("seconds")),
            "note": f"{run.result.get('epochs')} epochs" + (f", {rate:.0f} images/s" if rate else ""),
            "group": "",
        }
    )
    rows = []
    for split in SPLITS:
        for w in WEIGHTS:
            found = run.scores(split, w)
            if found:
                name = f"{SPLITS[split]}, {WEIGHTS[w]} weights"
                cells = [figure_number(found.get(key)) for key in run.headline if key in scores]
                rows.append({"name": name, "cells": cells, "best": split == run.split and w == run.weights})
    by = TITLES.get(run.best_by, run.best_by)
    lead = (
        f"The figures of the {WEIGHTS[run.weights]} weights on the {SPLITS[run.split]} split, in percent. "
        f"Epoch {best['epoch']} of {run.result['epochs']} is the best by validation {by}."
    )
    heads = [TITLES.get(key, key) for key in run.headline if key in scores]
    page.add("summary", "Results", "run_summary.html", lead=lead, tiles=tiles, heads=heads, rows=rows)


def _add_training(page: Page, run: RunData) -> None:
    found = {"quality": figures.quality_figure(run), "training": figures.training_figure(run)}
    shown = {name: figure for name, figure in found.items() if figure is not None}
    if not shown:
        page.leave_out("Learning curves", "metrics.jsonl has no records of this run")
        return
    page.figures |= shown
    labels = {
        "quality": "figures of the validation split by epoch",
        "training": "training loss, learning rate and gradient norm",
    }
    both = len(run.evaluated) > 1
    lead = "Quality on the validation split" + (", raw weights and their moving average (EMA)," if both else "")
    lead += " beside the loss on the training images."
    page.add(
        "curves",
        "Learning curves",
        "plots.html",
        short="Curves",
        lead=lead,
        plots={name: labels[name] for name in shown},
    )


def _add_groups(page: Page, run: RunData) -> None:
    figure = figures.group_figure(run)
    sizes = _group_sizes(run)
    if figure is None:
        reason = (
            "the run has not finished" if not run.finished else "its result has no figures of head, medium and tail"
        )
        page.leave_out("Groups", reason)
        return
    page.figures["groups"] = figure
    bounds = run.config.get("metrics", {})
    lead = (
        f"Head: classes with at least {bounds.get('head_min', 100)} training images; medium: at least "
        f"{bounds.get('medium_min', 20)}; tail: fewer. {SPLITS[run.split].capitalize()} split."
    )
    page.add("groups", "Head, medium, tail", "run_groups.html", lead=lead, sizes=sizes, short="Groups")


def _group_sizes(run: RunData) -> list[dict[str, Any]]:
    if run.stats is None:
        return []
    positives = run.stats.positives
    sizes = []
    for name, index in run.stats.group_indices().items():
        if len(index):
            share = positives[index].sum() / max(positives.sum(), 1)
            note = f"{share:.0%} of the training labels"
            sizes.append({"title": f"{name} classes", "value": f"{len(index):,}", "note": note, "group": name})
    return sizes


def _add_classes(page: Page, run: RunData) -> None:
    table = run.classes.get(run.split) or run.classes.get("val")
    if table is None:
        page.leave_out("Classes", "the run folder has no per_class.csv, which the end of a run writes")
        return
    figure = figures.class_figure(run, table)
    if figure is not None:
        page.figures["classes"] = figure
    page.tables["classes"] = class_table(run, table)
    what = "Recall" if run.single_label else "Average precision"
    known = next((c for name, c in table.columns.items() if name.endswith(("_ap", "_recall"))), np.empty(0))
    many = int((~np.isnan(known)).sum()) > figures.SCATTERED
    lead = f"{what} of each class against its number of training images."
    if many:
        lead += (
            f" Of the {len(table.names):,} classes {figures.SCATTERED:,} are drawn; median and quartiles are of all."
        )
    page.add(
        "classes", "Classes", "run_classes.html", lead=lead, drawn=figure is not None, table=page.tables["classes"]
    )


def class_table(run: RunData, table: ClassTable) -> Table:
    """All classes: counts, AP of each kind of weights, precision, recall and F1 of the best weights."""
    columns = [
        Column("class", table.names, "text"),
        Column("group", table.groups, "group"),
        Column("train", table.train_positives.tolist(), digits=0, hint="positive training images"),
    ]
    own = {key: table.figure(run.weights, key) for key in ("positives", "ap", "precision", "recall", "f1", "predicted")}
    if own["positives"] is not None:
        columns.append(
            Column(SPLITS[run.split], _whole(own["positives"]), digits=0, hint="positive images of the evaluated split")
        )
    for w in run.evaluated:
        ap = table.figure(w, "ap")
        if ap is not None:
            several = f" {WEIGHTS[w]}" if len(run.evaluated) > 1 else ""
            columns.append(Column(f"AP{several}", ap, hint="average precision, %"))
    hints = {"precision": "%", "recall": "%", "f1": "%"}
    for key, hint in hints.items():
        values = own[key]
        if values is not None:
            columns.append(Column("F1" if key == "f1" else key, values, hint=hint))
    if own["predicted"] is not None:
        columns.append(Column("predicted", _whole(own["predicted"]), digits=0, hint="images it was predicted for"))
    return Table(columns, sort=2, search="search a class")


def _whole(values: np.ndarray) -> list[int | None]:
    return [None if np.isnan(v) else int(v) for v in values]


def _add_throughput(page: Page, run: RunData) -> None:
    figure = figures.throughput_figure(run)
    if figure is None:
        page.leave_out("Throughput", "metrics.jsonl has no rates of this run")
        return
    page.figures["throughput"] = figure
    waits = [record["train/data_wait"] for record in run.steps if record.get("train/data_wait") is not None]
    lead = "Images per second of the training alone, without evaluations."
    if waits:
        share = float(np.mean(waits))
        hint = "; more data.num_workers, or data.cache=true, would help" if share > 0.2 else ""
        lead += f" Of that time {share:.0%} was spent waiting for data{hint}."
    label = "images per second and share of time waiting for data"
    page.add("throughput", "Throughput", "plots.html", lead=lead, plots={"throughput": label})


def _add_setup(page: Page, run: RunData) -> None:
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
            ("CPU", f"{cpu.get('model', '?')}, {cpu.get('cores', '?')} cores"),
            ("Python", f"{env.get('python', '?')} on {env.get('platform', '?')}"),
            ("packages", ", ".join(f"{k} {v}" for k, v in (env.get("packages") or {}).items() if v)),
            ("source", commit or "an installed copy"),
        ]
        rows = [(name, value) for name, value in rows if value]
    else:
        page.leave_out("Environment", "the run folder has no environment.json")
    corrupt = run.result.get("corrupt_images") or []
    if corrupt:
        rows.append(("corrupt images", f"{len(corrupt)} skipped: " + "; ".join(map(str, corrupt[:5]))))
    rows.append(("folder", str(run.folder)))
    words = [str(word) for word in env.get("command") or []]
    command = shlex.join(["python", *words] if words and words[0].endswith(".py") else words)
    config = [
        (str(key), _flat(value)) for key, value in run.config.items() if isinstance(value, Mapping) and _flat(value)
    ]
    scalars = [(str(k), _shown(v)) for k, v in run.config.items() if not isinstance(v, Mapping)]
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


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(_shown(v) for v in value) + "]" if isinstance(value, list) else str(value)
