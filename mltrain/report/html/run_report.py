"""The page of a run, report.html: all that is known of it; sections without data are named at the end."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mltrain.engine.run_folder import (
    ENVIRONMENT,
    METRICS,
    PER_CLASS,
    REPORT,
    SPLITS,
    THRESHOLDS,
    WEIGHTS,
    RunFolder,
    flatten,
)
from mltrain.engine.saved_tables import ClassTable
from mltrain.errors import DataError
from mltrain.report.html import run_figures as figures
from mltrain.report.html.page import Column, Page, Table, write_page
from mltrain.report.html.picture_sections import add_pictures
from mltrain.report.html.predicted import Predicted, prepare
from mltrain.report.html.prediction_sections import add_predictions
from mltrain.report.html.run_summary import add_summary, sureness_of
from mltrain.report.intervals import prevalence
from mltrain.report.repeat import command_of
from mltrain.text import spell

logger = logging.getLogger(__name__)


def write_run_report(
    folder: str | Path,
    *,
    images: Mapping[str, str | Path] | None = None,
    out: str | Path | None = None,
    resamples: int = 1000,
) -> Path:
    """Write the report of a run and return its path.

    Args:
        folder: run folder; an unfinished run gets the sections that it has data for.
        images: split -> folder that the image files of its predictions are relative to; without it the page has no
            pictures.
        out: file to write; None: report.html in the run folder.
        resamples: number of resamples of the images for intervals; fewer are taken of very large predictions. 0: none.

    Raises:
        DataError: `folder` is no run folder, or a file in it cannot be read.
        ConfigError: Plotly or Jinja2 is not installed.
    """
    run = RunFolder(folder)
    path = Path(out) if out is not None else run.folder / REPORT
    write_page(path, run_page(run, {split: Path(root) for split, root in (images or {}).items()}, resamples))
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


def run_page(run: RunFolder, images: Mapping[str, Path], resamples: int = 1000) -> Page:
    """Make the page of a run, without writing it."""
    page = Page(title=f"{run.dataset} · {run.name}", subtitle=str(run.result.get("config_id") or run.folder.name))
    ready, why = None, ""
    try:
        ready, unused = prepare(run, run.predictions())
        if unused:
            page.leave_out("Tuned thresholds", unused)
    except DataError as error:
        why = str(error)
    add_summary(page, run, ready, sureness_of(run, ready, why, resamples))
    _add_training(page, run)
    _add_classes(page, run, ready)
    if ready is not None:
        add_pictures(page, ready, images.get(ready.saved.split))
    add_predictions(page, run, ready, why)
    _add_throughput(page, run)
    _add_setup(page, run)
    return page


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


def _add_classes(page: Page, run: RunFolder, ready: Predicted | None) -> None:
    table = run.classes.get(run.split) or run.classes.get("val")
    if table is None:
        page.leave_out("Classes", f"the run folder has no {PER_CLASS['val']}, which the end of a run writes")
        return
    fits = ready is not None and list(ready.saved.class_names) == table.names and ready.saved.split == run.split
    chance = prevalence(ready.saved.targets) if ready is not None and fits and not run.single_label else None
    figure = figures.class_figure(run, table, chance)
    drawn = {} if figure is None else {"classes": figure}
    lead = "Recall" if run.single_label else "Average precision (AP)"
    lead += f" of each class. Large points have many positive {SPLITS[run.split]} images, hollow ones fewer than "
    lead += f"{figures.FEW}, which say little."
    if fits:
        lead += " A click on a class opens its precision-recall curve and its images."
    known = next((c for name, c in table.columns.items() if name.endswith(("_ap", "_recall"))), np.empty(0))
    if int((~np.isnan(known)).sum()) > figures.SCATTERED:
        lead += (
            f" Of the {len(table.names):,} classes {figures.SCATTERED:,} are drawn; median and quartiles are of all."
        )
    shown = class_table(run, table, ready if fits else None)
    page.add("classes", "Classes", "run_classes.html", lead=lead, figures=drawn, drawn=bool(drawn), table=shown)


def class_table(run: RunFolder, table: ClassTable, ready: Predicted | None = None) -> Table:
    """Make the table of all classes: counts, AP per weights and its chance level, precision, recall and F1.

    Args:
        run: the run.
        table: content of per_class.csv.
        ready: predictions of these classes; with thresholds of its own they give precision, recall and F1.
    """
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
    if ready is not None and not ready.single:
        hint = "share of positive images, %: the AP of a random order"
        columns.append(Column("chance", prevalence(ready.saved.targets), hint=hint))
    at = "%"
    if ready is not None and ready.tuned is not None:
        own |= ready.counts()
        at = f"%, at the threshold of {THRESHOLDS}"
        columns.append(Column("threshold", ready.thresholds, digits=3, hint=f"probability, {THRESHOLDS}"))
    for key in ("precision", "recall", "f1"):
        values = own[key]
        if values is not None:
            columns.append(Column("F1" if key == "f1" else key, values, hint=at))
    if own["predicted"] is not None:
        columns.append(Column("predicted", _whole(own["predicted"]), digits=0, hint="images that it was predicted for"))
    return Table(columns, sort=2, search="search a class", opens=ready is not None)


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
    page.add_plots("throughput", "Throughput", {"throughput": (figure, label)}, lead=lead, open=False)


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
            ("CPU", f"{cpu.get('model', '?')}, {cpu.get('cores', '?')} cores"),
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
    command = command_of(run)
    sections = {key: flatten(value) for key, value in run.config.items() if isinstance(value, Mapping)}
    config = [(key, [(k, spell(v)) for k, v in section.items()]) for key, section in sections.items() if section]
    scalars = [(key, spell(value)) for key, value in run.config.items() if not isinstance(value, Mapping)]
    page.add(
        "setup",
        "Config and environment",
        "run_setup.html",
        short="Config",
        open=False,
        rows=rows,
        command=command,
        config=config,
        scalars=scalars,
    )
