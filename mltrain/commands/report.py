"""Write a page to look at in a browser: of a run, or one that compares several. One HTML file; it needs no network.

    mltrain report RUN                                report.html in the run folder (training writes it too)
    mltrain report runs                               comparison.html there: every run below the folder
    mltrain report runs/multirun/2026-01-31_12-00-00  the runs of one sweep, and the jobs that failed
    mltrain report RUN RUN RUN out=three.html       some runs
    mltrain report runs 'loss=asl|bce' 'epochs>=20' baseline=loss=bce

A filter is KEY=VALUE, with != >= <= > <, alternatives a|b and patterns resnet*, as in `mltrain results`; quote it.

    out=FILE              the HTML file
    images=DIR            of a run: folder of its images, where the data have moved
    baseline=FILTER       of several: what differences are to; default: the best setting
    figure=NAME           of several: what is compared: map (default), map_head, map_medium, map_tail ...
    resamples=1000        of the images, for the intervals of differences; 0: none
    split=auto            of several: val, test; auto: test where all have one
    weights=best          of several: raw, ema; best: those that validation chose in each run
    each=true             of several: write the page of every finished run too

docs/reports.md says what is on the pages.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mltrain.cli import Command
from mltrain.config.compose import load_run
from mltrain.config.schema import number
from mltrain.engine.run_folder import JOB, SPLITS, RunFolder, is_run_folder, read_jobs, weights_key
from mltrain.errors import ConfigError, DataError, MltrainError
from mltrain.report.runs import Filter, RunRecord, known_keys
from mltrain.runs.settings import load_settings
from mltrain.text import did_you_mean, spell

logger = logging.getLogger(__name__)

COMPARISON = "comparison.html"


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    out: str | None = None
    """the HTML file"""
    images: str | None = None
    """of a run: folder of its images, where the data have moved"""
    baseline: str | None = None
    """of several runs: filters of the run that differences refer to, separated by spaces"""
    figure: str | None = None
    """of several runs: what is compared"""
    resamples: int = number(1000, least=0)
    """of several runs: resamples of the images for the intervals; 0: no intervals"""
    split: Literal["auto", "val", "test"] = "auto"
    weights: Literal["best", "raw", "ema"] = "best"
    each: bool = False
    """of several runs: write the page of every finished run too"""


def report(arguments: Sequence[str], options: Options | None = None) -> Path:
    """Write the page of a run or of several, and return its path.

    Raises:
        ConfigError, DataError: a folder is none or holds no run, or an option is wrong.
    """
    options = options or Options()
    folders = [Path(word) for word in arguments if _is_folder(word)]
    filters = [word for word in arguments if not _is_folder(word)]
    if not folders:
        raise ConfigError("name a run folder, or a folder of runs (--help)")
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name a run folder, or a folder of runs")
    try:
        if options.out is not None:
            Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        if len(folders) == 1 and is_run_folder(folders[0]):
            return _report_run(folders[0], filters, options)
        return _report_several(folders, filters, options)
    except OSError as error:
        if options.out is None:
            raise
        raise ConfigError(f"out={options.out}: cannot be written: {error}") from error


def _report_run(folder: Path, filters: Sequence[str], options: Options) -> Path:
    for key in ("baseline", "figure", "each"):
        if getattr(options, key):
            raise ConfigError(
                f"{key}={spell(getattr(options, key))} is for the comparison of several runs; {folder} is one"
            )
    if filters:
        raise ConfigError(f"{filters[0]}: filters are for several runs; {folder} is one")
    return _page_of(folder, options.images, options.out)


def _page_of(folder: Path, images: str | None = None, out: str | None = None) -> Path:
    from mltrain.report.html.run_report import write_run_report

    roots = image_roots(folder) if images is None else dict.fromkeys(SPLITS, Path(images))
    return write_run_report(folder, images=roots, out=None if out is None else Path(out))


def _report_several(folders: Sequence[Path], filters: Sequence[str], options: Options) -> Path:
    from mltrain.report.compare import compare
    from mltrain.report.html.sweep_report import write_sweep_report
    from mltrain.report.runs import read_runs

    baseline = (options.baseline or "").split()
    jobs = [job for folder in folders for job in job_records(folder)]
    below = [folder for folder in folders if not is_sweep(folder)]
    below += [Path(job["folder"]) for job in jobs if job.get("folder") and Path(job["folder"]).is_dir()]
    try:
        records = _chosen(read_runs(below, load_settings), filters, baseline)
        if not records and not jobs:
            raise DataError(f"{', '.join(map(str, folders))}: holds no run folder (one with a config.yaml)")
        for record in records:
            if options.each and record.finished:
                logger.info("%s", _page_of(record.folder))
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
    except ValueError as error:  # of the library: what it says is about what was asked for
        raise ConfigError(str(error)) from error


def _chosen(records: Sequence[RunRecord], texts: Sequence[str], baseline: Sequence[str]) -> list[RunRecord]:
    """The runs that the filters mean. Raises ConfigError or DataError where they mean nothing."""
    filters, keys = [Filter.parse(word) for word in texts], known_keys(records)
    for item in [*filters, *map(Filter.parse, baseline)]:
        if records and item.key not in keys:
            raise ConfigError(f"{item.text}: no run has a {item.key}{did_you_mean(item.key, keys)}")
    chosen = [record for record in records if all(item.matches(record) for item in filters)]
    if records and not chosen:
        raise DataError(f"none of {len(records)} runs is {' and '.join(texts)}")
    return chosen


def _is_folder(word: str) -> bool:
    return Path(word).exists() or not re.search(r"[=<>]", word)


def is_sweep(folder: Path) -> bool:
    """Whether it is the folder of a multirun, which holds records of its jobs and no runs."""
    return (folder / "multirun.yaml").is_file() or any(folder.glob(JOB))


def job_records(folder: Path) -> list[dict[str, Any]]:
    """Records of a multirun's jobs (`mltrain.sweeps.record.Record`), by number; empty for other folders."""
    records = list(read_jobs(folder))
    if not records and (folder / "multirun.yaml").is_file() and not any(folder.glob("*/*/config.yaml")):
        raise DataError(f"{folder}: holds no records of jobs; name the folder of the runs (paths.runs) instead")
    return records


def image_roots(folder: Path) -> dict[str, Path]:
    """By split, the folder of a run's images: where its config says, else where its data set reads them from.

    Empty where the data set is not there: pages do without pictures then.
    """
    run, files = RunFolder(folder), dict[str, str]()
    for split in SPLITS:
        path = run.predictions_file(split)
        if path is not None:
            with np.load(path, allow_pickle=False) as arrays:
                files[split] = str(next(iter(arrays["files"]), ""))
    if not files:
        return {}
    section: Mapping[str, Any] = run.config.get("dataset") or {}
    named = [section.get("root"), section.get("file") and Path(str(section["file"])).parent]
    found = {
        split: Path(root) for split, file in files.items() for root in named if root and (Path(root) / file).is_file()
    }
    if len(found) == len(files):
        return found
    from mltrain.config.build import instantiate

    try:
        splits = instantiate(load_run(folder).dataset, "dataset")
    except (MltrainError, OSError) as error:
        logger.info("no pictures: the data set cannot be read: %s", str(error).splitlines()[0])
        return found
    labels = {"val": splits.val, "test": splits.test}
    return {split: Path(labels[split].root) for split in files if labels[split] is not None}


def _run(arguments: Sequence[str], options: Options) -> None:
    sys.stdout.write(f"{report(arguments, options)}\n")


COMMAND = Command(_run, about=__doc__, takes="arguments", options=Options, dashes=True, needs_arguments=True)
