"""Write a page for a browser about one run, or one that compares several. It is one HTML file and needs no network.

    mltrain report RUN                                  report.html in the run folder (training writes it too)
    mltrain report runs                                 comparison.html there: every run below the folder
    mltrain report runs/multirun/2026-01-31_12-00-00    the runs of one sweep, and the jobs that failed
    mltrain report RUN RUN RUN out=three.html           some runs
    mltrain report runs 'loss=asl|bce' 'epochs>=20' baseline=loss=bce

A filter is KEY=VALUE, with != >= <= > <, alternatives a|b and patterns resnet*, as in `mltrain results`; quote it.
docs/reports.md describes the pages.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mltrain import console
from mltrain.cli import Command
from mltrain.config.schema import number
from mltrain.engine.run_folder import JOB, SPLITS, is_run_folder, read_jobs, weights_key
from mltrain.errors import ConfigError, DataError
from mltrain.runs.outputs import writing
from mltrain.runs.selection import select, split_arguments, without_imports
from mltrain.runs.settings import load_settings
from mltrain.text import spell

logger = logging.getLogger(__name__)

COMPARISON = "comparison.html"


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    out: str | None = None
    """HTML file to write; null: report.html in the run folder, or comparison.html in the common folder"""
    images: str | None = None
    """for one run: folder of its images, if the data have moved"""
    baseline: str | None = None
    """for several runs: filters of the run to compare with, separated by spaces; null: the best setting"""
    figure: str | None = None
    """for several runs: figure to compare: map, map_head, map_medium, map_tail ...; null: map, or accuracy"""
    resamples: int = number(1000, least=0)
    """number of resamples of the images for the intervals of figures and of differences; 0: no intervals"""
    split: Literal["auto", "val", "test"] = "auto"
    """for several runs: split to compare; auto: test if all runs have one, else val"""
    weights: Literal["best", "raw", "ema"] = "best"
    """for several runs: weights to compare; best: those that validation chose in each run"""
    each: bool = False
    """for several runs: also write the page of every finished run"""


def report(arguments: Sequence[str], options: Options | None = None) -> Path:
    """Write the page about one run or several, and return its path.

    Args:
        arguments: folders and filters.

    Raises:
        ConfigError: no folder is named, an option is wrong, or the page cannot be written.
        DataError: a folder does not exist or has no run.
    """
    options = options or Options()
    imports, arguments = without_imports(arguments)
    folders, filters = split_arguments(arguments)
    if not folders:
        raise ConfigError("name a run folder, or a folder of runs (--help)")
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name a run folder, or a folder of runs")
    with nullcontext() if options.out is None else writing(Path(options.out)):
        if len(folders) == 1 and is_run_folder(folders[0]):
            return _report_run(folders[0], filters, options, imports)
        return _report_several(folders, filters, options, imports)


def _report_run(folder: Path, filters: Sequence[str], options: Options, imports: Sequence[str]) -> Path:
    for key in ("baseline", "figure", "each"):
        if getattr(options, key):
            value = spell(getattr(options, key))
            raise ConfigError(f"{key}={value} is for the comparison of several runs; {folder} is one run")
    if filters:
        raise ConfigError(f"{filters[0]}: filters are for several runs; {folder} is one run")
    return _page_of(folder, imports, options.images, options.out, resamples=options.resamples)


def _page_of(
    folder: Path, imports: Sequence[str], images: str | None = None, out: str | None = None, *, resamples: int
) -> Path:
    from mltrain.report.html.run_report import write_run_report
    from mltrain.runs.image_roots import image_roots

    roots = image_roots(folder, imports) if images is None else dict.fromkeys(SPLITS, Path(images))
    return write_run_report(folder, images=roots, out=None if out is None else Path(out), resamples=resamples)


def _report_several(folders: Sequence[Path], filters: Sequence[str], options: Options, imports: Sequence[str]) -> Path:
    from mltrain.report.compare import compare
    from mltrain.report.html.sweep_report import write_sweep_report
    from mltrain.report.runs import read_runs

    baseline = (options.baseline or "").split()
    jobs = [job for folder in folders for job in job_records(folder)]
    below = [folder for folder in folders if not is_sweep(folder)]
    below += [Path(job["folder"]) for job in jobs if job.get("folder") and Path(job["folder"]).is_dir()]
    try:
        records = read_runs(below, load_settings)
        if not records and not jobs:
            raise DataError(f"{', '.join(map(str, folders))}: holds no run folder (one with a config.yaml)")
        if records:
            records = select(records, filters, baseline)
        for record in records:
            if options.each and record.finished:
                logger.info("%s", _page_of(record.folder, imports, resamples=options.resamples))
        common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
        return write_sweep_report(
            compare(records, split=options.split, weights=weights_key(options.weights)),
            Path(options.out) if options.out else common / COMPARISON,
            title=" + ".join(folder.resolve().name for folder in folders),
            jobs=jobs,
            baseline=baseline,
            figure=options.figure,
            resamples=options.resamples,
        )
    except ValueError as error:  # the library refuses an option or filter
        raise ConfigError(str(error)) from error


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep, which holds records of its jobs and no runs."""
    return (folder / "multirun.yaml").is_file() or any(folder.glob(JOB))


def job_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a sweep's jobs (`mltrain.sweeps.record.Record`), by number; none for other folders."""
    records = list(read_jobs(folder))
    if not records and (folder / "multirun.yaml").is_file() and not any(folder.glob("*/*/config.yaml")):
        raise DataError(f"{folder}: holds no records of jobs; name the folder of the runs (paths.runs) instead")
    return records


def _run(arguments: Sequence[str], options: Options) -> None:
    console.write(f"{report(arguments, options)}\n")


COMMAND = Command(_run, about=__doc__, takes="arguments", options=Options, dashes=True, needs_arguments=True)
