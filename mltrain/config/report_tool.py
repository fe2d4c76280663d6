"""The work of tools/report.py: the page of a run, or one that compares several."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from mltrain.config.check import check_options
from mltrain.config.cli import leaving
from mltrain.config.compose import load_run, tool_options
from mltrain.config.results import load_settings
from mltrain.errors import ConfigError, DataError, MltrainError
from mltrain.report.html.run_data import read_run
from mltrain.report.predictions import FILES

logger = logging.getLogger(__name__)

COMPARISON = "comparison.html"
_TEXTS = ("out", "images", "baseline")


@dataclass(frozen=True)
class Report:
    """Options of tools/report.py."""

    out: str | None = None
    """HTML file; None: report.html in the run folder, comparison.html in the folder of several runs"""
    images: str | None = None
    """of one run: folder that its image files are relative to; None: that of the run's data set"""
    baseline: str | None = None
    """of several: what differences are to, e.g. loss=bce; None: the best setting"""
    resamples: int = 1000
    """of the images, for the intervals of differences; 0: no intervals"""
    split: Literal["auto", "val", "test"] = "auto"
    """of several: whose figures; auto: test where every run has it"""
    each: bool = False
    """of several: write the page of every finished run too"""

    def __post_init__(self) -> None:
        if self.resamples < 0:
            raise ConfigError(f"resamples={self.resamples}: must be 0 or more")


def main(about: str) -> NoReturn:
    """The tool; leaves the process."""
    with leaving():
        words = sys.argv[1:]
        if not words or any(word in ("-h", "--help") for word in words):
            sys.stdout.write(about.strip() + "\n")
        else:
            sys.stdout.write(f"{report(words)}\n")
    sys.exit(0)


def report(words: Sequence[str]) -> Path:
    """The file written for the words of a command line: folders, options, and filters of the runs below the folders.

    Raises:
        ConfigError, DataError: a folder is none or holds no run, or an option is wrong.
    """
    folders = [Path(word) for word in words if "=" not in word or Path(word).is_dir()]
    options, filters = _options([word for word in words if Path(word) not in folders])
    if not folders:
        raise ConfigError("name a run folder, or the folder of several (see --help)")
    if len(folders) == 1 and (folders[0] / "config.yaml").is_file():
        wrong = [*filters, *(f"{key}=" for key in ("baseline",) if getattr(options, key) is not None)]
        if wrong:
            raise ConfigError(f"{wrong[0]}: is for the comparison of several runs; {folders[0]} is one")
        return _report_run(folders[0], options)
    return _report_several(folders, options, filters)


def _options(words: Sequence[str]) -> tuple[Report, list[str]]:
    """Options as they are declared; what is none of them is a filter."""
    texts, others = {}, []
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key in _TEXTS:
            texts[key] = value  # loss=bce is a value here, and no grammar of Hydra's
        else:
            others.append(word)
    found, filters = tool_options(Report, others)
    given = {key: getattr(found, key) for key in ("resamples", "split", "each")}
    checked: Report = check_options(Report, {**given, **texts})
    return checked, filters


def _report_run(folder: Path, options: Report) -> Path:
    from mltrain.report.html.run_report import write_run_report

    roots = image_roots(folder) if options.images is None else dict.fromkeys(FILES, Path(options.images))
    return write_run_report(folder, images=roots, out=options.out)


def _report_several(folders: Sequence[Path], options: Report, filters: Sequence[str]) -> Path:
    from mltrain.report.compare import compare
    from mltrain.report.html.sweep_report import write_sweep_report
    from mltrain.report.runs import Filter, read_runs

    jobs = [job for folder in folders for job in job_records(folder)]
    below = [folder for folder in folders if not is_sweep(folder)]
    below += [Path(job["folder"]) for job in jobs if job.get("folder") and Path(job["folder"]).is_dir()]
    try:
        chosen = [Filter.parse(text) for text in filters]
        records = [r for r in read_runs(below, load_settings) if all(item.matches(r) for item in chosen)]
        if not records and not jobs:
            what = f" that are {' '.join(filters)}" if filters else ""
            raise DataError(f"{', '.join(map(str, folders))}: no runs{what}; a run folder has a config.yaml")
        if options.each:
            for record in records:
                if record.finished:
                    logger.info("%s", _report_run(record.folder, Report()))
        common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
        return write_sweep_report(
            compare(records, split=options.split),
            options.out or common / COMPARISON,
            title=" + ".join(folder.name or str(folder) for folder in folders),
            jobs=jobs,
            baseline=options.baseline,
            resamples=options.resamples,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def is_sweep(folder: Path) -> bool:
    """Whether it is the folder of a multirun, which holds records of its jobs and no runs."""
    return (folder / "multirun.yaml").is_file() or any(folder.glob("job-*.json"))


def job_records(folder: Path) -> list[dict[str, Any]]:
    """Records of a multirun's jobs (`config.sweep_job.Record`), by number; empty for other folders."""
    records = []
    for path in sorted(folder.glob("job-*.json")):
        try:
            records.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
    if not records and (folder / "multirun.yaml").is_file() and not any(folder.glob("*/*/config.yaml")):
        raise DataError(f"{folder}: holds no records of jobs; name the folder of the runs (paths.runs) instead")
    return records


def image_roots(folder: Path) -> dict[str, Path]:
    """By split, the folder of a run's images: where its config says, else where its data set reads them from.

    Empty where the data set is not there: pages do without pictures then.
    """
    files: dict[str, str] = {}
    for split, names in FILES.items():
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is not None:
            with np.load(path, allow_pickle=False) as arrays:
                files[split] = str(next(iter(arrays["files"]), ""))
    if not files:
        return {}
    section: Mapping[str, Any] = read_run(folder).config.get("dataset") or {}
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
