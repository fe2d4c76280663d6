"""The work of tools/report.py: the page of a run, or one that compares several."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mltrain.config.compose import load_run
from mltrain.config.results import load_settings
from mltrain.console import exit_on_error
from mltrain.engine.run_folder import SPLITS, RunFolder, is_run_folder, read_jobs, weights_key
from mltrain.errors import ConfigError, DataError, MltrainError
from mltrain.report.runs import Filter, RunRecord, known_keys
from mltrain.text import nearest

logger = logging.getLogger(__name__)

COMPARISON = "comparison.html"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help)")


def main(about: str) -> NoReturn:
    """Run the tool for the command line, and leave the process."""
    with exit_on_error():
        if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
            sys.stdout.write(about.strip() + "\n")
        else:
            sys.stdout.write(f"{report(sys.argv[1:])}\n")
    sys.exit(0)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; `words` are folders and filters. Raises ConfigError."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--baseline", action="append", default=[])
    parser.add_argument("--figure")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--split", choices=("auto", "val", "test"), default="auto")
    parser.add_argument("--weights", choices=("best", "raw", "ema"), default="best")
    parser.add_argument("--each", action="store_true")
    given = parser.parse_intermixed_args(list(argv))
    given.baseline = [word for text in given.baseline for word in text.split()]
    given.folders = [Path(word) for word in given.words if _is_folder(word)]
    given.filters = [word for word in given.words if not _is_folder(word)]
    if given.resamples < 0:
        raise ConfigError(f"--resamples {given.resamples}: must be at least 0 (0: no intervals)")
    if not given.folders:
        raise ConfigError("name a run folder, or a folder of runs (--help)")
    for folder in given.folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; name a run folder, or a folder of runs")
    return given


def report(argv: Sequence[str]) -> Path:
    """The file written for a command line.

    Raises:
        ConfigError, DataError: a folder is none or holds no run, or an option is wrong.
    """
    given = parse(argv)
    try:
        if given.out is not None:
            given.out.parent.mkdir(parents=True, exist_ok=True)
        if len(given.folders) == 1 and is_run_folder(given.folders[0]):
            return _report_run(given)
        return _report_several(given)
    except OSError as error:
        if given.out is None:
            raise
        raise ConfigError(f"--out {given.out}: cannot be written: {error}") from error


def _report_run(given: argparse.Namespace) -> Path:
    folder = given.folders[0]
    for option, value in (("--baseline", given.baseline), ("--figure", given.figure), ("--each", given.each)):
        if value:
            raise ConfigError(f"{option} is for the comparison of several runs; {folder} is one")
    if given.filters:
        raise ConfigError(f"{given.filters[0]}: filters are for several runs; {folder} is one")
    return _page_of(folder, given.images, given.out)


def _page_of(folder: Path, images: Path | None = None, out: Path | None = None) -> Path:
    from mltrain.report.html.run_report import write_run_report

    roots = image_roots(folder) if images is None else dict.fromkeys(SPLITS, images)
    return write_run_report(folder, images=roots, out=out)


def _report_several(given: argparse.Namespace) -> Path:
    from mltrain.report.compare import compare
    from mltrain.report.html.sweep_report import write_sweep_report
    from mltrain.report.runs import read_runs

    jobs = [job for folder in given.folders for job in job_records(folder)]
    below = [folder for folder in given.folders if not is_sweep(folder)]
    below += [Path(job["folder"]) for job in jobs if job.get("folder") and Path(job["folder"]).is_dir()]
    try:
        records = _chosen(read_runs(below, load_settings), given)
        if not records and not jobs:
            raise DataError(f"{', '.join(map(str, given.folders))}: holds no run folder (one with a config.yaml)")
        for record in records:
            if given.each and record.finished:
                logger.info("%s", _page_of(record.folder))
        common = Path(os.path.commonpath([folder.resolve() for folder in given.folders]))
        return write_sweep_report(
            compare(records, split=given.split, weights=weights_key(given.weights)),
            given.out or common / COMPARISON,
            title=" + ".join(folder.resolve().name for folder in given.folders),
            jobs=jobs,
            baseline=given.baseline,
            figure=given.figure,
            resamples=given.resamples,
        )
    except ValueError as error:  # of the library: what it says is about what was asked for
        raise ConfigError(str(error)) from error


def _chosen(records: Sequence[RunRecord], given: argparse.Namespace) -> list[RunRecord]:
    """The runs that the filters mean. Raises ConfigError or DataError where they mean nothing."""
    filters, keys = [Filter.parse(word) for word in given.filters], known_keys(records)
    for item in [*filters, *map(Filter.parse, given.baseline)]:
        if records and item.key not in keys:
            near = nearest(item.key, keys)
            hint = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"{item.text}: no run has a {item.key}{hint}")
    chosen = [record for record in records if all(item.matches(record) for item in filters)]
    if records and not chosen:
        raise DataError(f"none of {len(records)} runs is {' and '.join(given.filters)}")
    return chosen


def _is_folder(word: str) -> bool:
    return Path(word).exists() or not re.search(r"[=<>]", word)


def is_sweep(folder: Path) -> bool:
    """Whether it is the folder of a multirun, which holds records of its jobs and no runs."""
    return (folder / "multirun.yaml").is_file() or any(folder.glob("job-*.json"))


def job_records(folder: Path) -> list[dict[str, Any]]:
    """Records of a multirun's jobs (`config.sweep_job.Record`), by number; empty for other folders."""
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
