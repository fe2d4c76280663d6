"""Find labels that are likely to be missing or wrong, in images that a run was not trained on.

    mltrain train -m dataset=csv dataset.file=my.csv dataset.folds=5 dataset.fold=0,1,2,3,4
    mltrain find_label_errors runs/multirun/2026-01-31_12-00-00     every training image: the folds of this sweep
    mltrain find_label_errors RUN                                   the images of the validation split
    mltrain find_label_errors RUN RUN RUN out=found.csv only=missing
    mltrain train dataset=csv dataset.file=my.csv dataset.corrections=corrections.csv

It writes a csv file of candidates, the likeliest errors first, and an HTML page of the same name, on which you tick the
corrections that are right and save them as corrections.csv. docs/label_errors.md describes both.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mltrain import console
from mltrain.cli import Command
from mltrain.config.rules import MULTI_LABEL
from mltrain.config.schema import number
from mltrain.engine.latest import followed
from mltrain.engine.run_folder import CONFIG, RunFolder, is_run_folder, read_jobs, weights_key
from mltrain.errors import ConfigError, DataError
from mltrain.files import write_text
from mltrain.report.runs import read_runs
from mltrain.runs.outputs import check_suffix, writing
from mltrain.runs.selection import without_imports
from mltrain.runs.settings import load_settings
from mltrain.text import counted, did_you_mean, first_few, part_of
from mltrain.transcript import typed

if TYPE_CHECKING:
    from mltrain.report.label_errors import Candidates, HeldOut, Kind

logger = logging.getLogger(__name__)

NAME = "label_errors.csv"
WEAK = 0.1
"""share of the way from a random to a perfect mAP below which predictions say nothing about labels"""


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    out: str | None = None
    """csv file to write; the page beside it ends in .html; null: label_errors.csv in the (common) folder of the runs"""
    only: Literal["missing", "wrong"] | None = None
    """missing: negatives that are likely positive; wrong: positives that are likely negative; null: both"""
    unknown: bool = False
    """also list unknown labels that are likely positive"""
    classes: list[str] = field(default_factory=list)
    """list candidates of these classes only; []: of all"""
    count: int | None = number(None, least=1)
    """list so many, however likely they are; null: those that confident learning counts as errors"""
    pictures: int = number(300, least=0)
    """number of candidates on the page, each with a picture of about 6 kB"""
    split: Literal["val", "test"] = "val"
    """split whose predictions are used; corrections of a test split are for your own files, training takes none"""
    weights: Literal["best", "raw", "ema"] = "best"
    """weights whose predictions are used; best: those that validation chose in each run"""
    images: str | None = None
    """folder of the images, if the data have moved"""

    def __post_init__(self) -> None:
        if self.out is not None:
            check_suffix(self.out, ".csv")


def find_label_errors(arguments: Sequence[str], options: Options | None = None) -> tuple[Path, Path]:
    """Write candidates as a csv file and as a page, and return the paths of both.

    Args:
        arguments: run folders, folders of sweeps, or folders of runs.

    Raises:
        ConfigError: an option or a run does not fit, cleanlab is not installed, or the files cannot be written.
        DataError: a folder is no run, a run has kept no predictions, or the runs do not fit each other.
    """
    from mltrain.report.html.label_errors import About, csv_rows, write_label_errors
    from mltrain.report.label_errors import find_candidates, join, judged, skill
    from mltrain.runs.image_roots import image_roots

    options = options or Options()
    imports, arguments = without_imports(arguments)
    runs = [RunFolder(folder) for folder in _run_folders(arguments)]
    for run in runs:
        if run.task != MULTI_LABEL:
            raise ConfigError(f"{run.folder}: a run with task={run.task}; the command is for task={MULTI_LABEL}")
    weights = None if options.weights == "best" else weights_key(options.weights)
    held_out = join([(str(run.folder), run.predictions(options.split, weights)) for run in runs])
    columns = [_index(name, held_out.class_names) for name in options.classes]
    kinds: list[Kind] = ["missing", "wrong"] if options.only is None else [options.only]
    kinds += ["unknown"] if options.unknown else []
    candidates = find_candidates(held_out, kinds, count=options.count, columns=columns)
    candidates = _with_text_names(candidates, held_out)
    skipped = [name for name, fits in zip(held_out.class_names, judged(held_out), strict=True) if not fits]
    if skipped:
        logger.info(
            "%s no known positive or no known negative, so nothing is judged there: %s",
            *(part_of(len(skipped), len(held_out.class_names), "class", "have"), first_few(skipped)),
        )
    _warn_if_weak(*skill(held_out))
    note = _which_images(runs, options.split)
    about = About(name=" + ".join(sorted({run.dataset for run in runs})), images=note, command=typed())
    table = Path(options.out) if options.out else _common(runs) / NAME
    page = table.with_suffix(".html")
    with writing(table):
        write_text(table, "".join(csv_rows(candidates, held_out)))
        root = Path(options.images) if options.images else image_roots(runs[0].folder, imports).get(options.split)
        readable = write_label_errors(page, candidates, held_out, root, count=options.pictures, about=about)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in candidates.counts().items() if count)
    logger.info("%s (%s): %s", counted(len(held_out.files), "image"), note, counts or "no likely error")
    if len(candidates) and options.pictures and not readable:
        logger.warning("%s: no image can be read, so the page has no pictures; images=FOLDER names their folder", page)
    return table, page


def _warn_if_weak(reached: float, chance: float) -> None:
    """Say that predictions which rank hardly better than chance find no errors."""
    if reached - chance < WEAK * (1 - chance):
        logger.warning(
            "the model is too weak to find label errors: its mAP on these images is %.1f, and %.1f by chance. Do not "
            "correct labels by this list; train longer or from pretrained weights first, or correct the data",
            *(100 * reached, 100 * chance),
        )


def _run_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the run folders among the arguments, and the finished runs of sweeps and folders that they name."""
    found: list[Path] = []
    for text in arguments:
        folder = followed(Path(text))
        if not folder.is_dir():
            raise DataError(f"{text}: no such folder; name run folders, the folder of a sweep, or a folder of runs")
        if is_run_folder(folder):
            found.append(folder)
            continue
        jobs = [Path(str(job.get("folder"))) for job in read_jobs(folder)]
        records = read_runs([job for job in jobs if job.is_dir()] if jobs else [folder], load_settings)
        finished = [record.folder for record in records if record.finished]
        if not finished:
            raise DataError(f"{folder}: no run folder (with a {CONFIG}), and holds no finished run")
        if (others := max(len(records), len(jobs)) - len(finished)) > 0:
            logger.warning("%s: %s not finished, and left out", folder, counted(others, "run"))
        found += finished
    if not found:
        raise ConfigError("name run folders, the folder of a sweep, or a folder of runs (--help)")
    return list({folder.resolve(): folder for folder in found}.values())


def _with_text_names(candidates: Candidates, held_out: HeldOut) -> Candidates:
    """Leave out images whose names are no text (bytes that are not UTF-8), because a csv file cannot name them."""
    foreign = np.array([not _is_text(held_out.files[i]) for i in candidates.rows], dtype=bool)
    if foreign.any():
        logger.warning(
            "%s left out, because the names of their image files are not UTF-8; rename the files",
            counted(int(foreign.sum()), "candidate"),
        )
    return candidates.take(~foreign)


def _is_text(name: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def _which_images(runs: Sequence[RunFolder], split: str) -> str:
    """Describe the images of which there are predictions; log how to have more of them."""
    if split == "test":
        return "the test split"
    sections = [run.config.get("dataset") or {} for run in runs]
    folds = {int(section.get("folds") or 0) for section in sections}
    count = max(folds)
    if len(folds) > 1 or count == 0:
        logger.info("to look at the training images too: mltrain train -m ... dataset.folds=5 dataset.fold=0,1,2,3,4")
        return "the validation split"
    held = sorted({int(section.get("fold") or 0) for section in sections})
    missing = sorted(set(range(count)) - set(held))
    if not missing:
        return f"all {count} folds of the training images"
    logger.info(
        "to look at the other training images too, name the runs of dataset.fold=%s", ",".join(map(str, missing))
    )
    return f"{'fold' if len(held) == 1 else 'folds'} {', '.join(map(str, held))} of {count}"


def _common(runs: Sequence[RunFolder]) -> Path:
    """Return the folder of the run, or the one that all runs are in."""
    return Path(os.path.commonpath([run.folder.resolve() for run in runs]))


def _index(name: str, names: Sequence[str]) -> int:
    if name in names:
        return list(names).index(name)
    raise ConfigError(f"classes: there is no class {name!r}{did_you_mean(name, names, '{!r}')}")


def _run(arguments: Sequence[str], options: Options) -> None:
    for path in find_label_errors(arguments, options):
        console.write(f"{path}\n")


COMMAND = Command(_run, about=__doc__, takes="arguments", options=Options, needs_arguments=True)
