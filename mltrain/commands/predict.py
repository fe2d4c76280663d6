"""Name the labels of images with a finished run.

    mltrain predict RUN photo.jpg photos/ 'more/*.png'         files, folders (with all below them), patterns
    find . -name '*.jpg' | mltrain predict RUN -               a list of files on standard input, one per line
    mltrain predict RUN photos/ format=csv out=labels.csv      table (default), csv or jsonl
    mltrain predict RUN photos/ annotated=seen                 copies of the images with their labels, in seen/
    mltrain predict RUN photos/ tta=flip                       the mean over each image and its mirror image
    mltrain predict RUN1 RUN2 RUN3 photos/                     the mean of several runs

An image gets the classes above the thresholds that `mltrain tune_thresholds` wrote to the run folder, or above
metrics.threshold if there are none; a single-label run gives the most probable class. Images that cannot be read are
reported and left out; the exit code is then 2. Several runs average their probabilities, class by class name; tuned
thresholds of one run do not fit the mean, so a class then counts above metrics.threshold, or threshold=.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.schema import number
from mltrain.console import SafeOutput, output_is_closed
from mltrain.errors import ConfigError, DataError
from mltrain.files import atomic_write
from mltrain.progress import Meter
from mltrain.runs.outputs import copies_folder, refuse_input, writing
from mltrain.text import counted, part_of

if TYPE_CHECKING:
    from mltrain.report.labelled import Output

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    format: Literal["table", "csv", "jsonl"] = "table"
    """form of the output; csv has a row per label, jsonl an object per image"""
    out: str | None = None
    """file for the labels; null: standard output"""
    annotated: str | None = None
    """folder for copies of the images with their labels"""
    threshold: float | None = number(None, least=0, most=1)
    """name classes above this probability; null: above the run's thresholds"""
    thresholds: str | None = None
    """file of thresholds to use instead of the run's"""
    topk: int | None = number(None, least=1)
    """name at most this many classes per image; without threshold exactly this many, whatever their scores"""
    weights: Literal["best", "val", "ema"] = "best"
    """best: weights that validation chose; val: raw weights; ema: averaged weights"""
    tta: Literal["flip", "five_crop", "sizes"] | None = None
    """test-time augmentation: the mean probability over flip: the image and its mirror image (2 passes); five_crop:
    corners and centre (5 passes); sizes: three sizes (3 passes)"""


def predict(
    cfg: DictConfig,
    folder: Path,
    options: Options,
    images: Sequence[str],
    *,
    others: Sequence[tuple[DictConfig, Path]] = (),
) -> None:
    """Write the labels of images.

    Args:
        others: config and folder of further runs, whose probabilities are averaged with those of this one.
        images: files, folders, patterns, and "-" for a list on standard input.

    Raises:
        ConfigError: a folder or pattern has no image, the output cannot be written, or see `Predictor`.
        DataError: images could not be read; raised at the end, after the labels of all others are written.
    """
    from mltrain.pipeline.decode import read_image
    from mltrain.report.labelled import LabelWriter, annotate
    from mltrain.runs.folder import load_finished
    from mltrain.runs.predictor import Predictor, image_files

    files = image_files(images)
    if options.out is None and output_is_closed():
        raise ConfigError("standard output is closed: name a file for the labels, out=FILE")
    if options.out is not None:
        refuse_input(Path(options.out), "out", files)
    places = _places(files, options.annotated)
    runs = [load_finished(place, weights=options.weights, config=own) for own, place in [(cfg, folder), *others]]
    if others and options.thresholds is not None:
        raise ConfigError(f"thresholds={options.thresholds}: is for one run; use threshold=0.5 for several")
    given: dict[str, Any] = {"threshold": options.threshold, "topk": options.topk, "tta": options.tta}
    if others:
        predictor = Predictor.from_runs(runs, **given)
    else:
        predictor = Predictor.from_run(runs[0], thresholds=options.thresholds, **given)
    if predictor.averager is not None:
        logger.info("%s", predictor.averager)
    bad = 0
    begin = time.perf_counter()
    on_terminal = options.out is None and sys.stdout.isatty()  # then the labels themselves show the progress
    meter = Meter("predicting", len(files), unit="images", mode="off" if on_terminal else "auto")
    with _output(options.out) as stream, meter:
        writer = LabelWriter(stream, options.format, width=max(map(len, files)))
        for place, found in zip(places, predictor.predict(files), strict=True):
            meter.add(1)
            if found.error is not None:
                logger.warning("%s", found.error)
                writer.write_error(found.image, found.error)
                bad += 1
                continue
            writer.write(found.image, found.labels)
            if place is not None:
                annotate(read_image(found.image), found.labels, place)
    taken = time.perf_counter() - begin
    rate = len(files) / taken
    logger.info("%s, %.0f per second on %s", counted(len(files), "image"), rate, predictor.device)
    if bad:
        raise DataError(f"{part_of(bad, len(files), 'image')} could not be read; the reasons are above")


def _places(files: Sequence[str], folder: str | None) -> Sequence[Path | None]:
    """Return the annotated copy of each image, or None for each."""
    if folder is None:
        return [None] * len(files)
    from mltrain.report.labelled import copies

    places = copies(files, Path(folder))
    copies_folder(Path(folder), "annotated", places, files)
    return places


@contextmanager
def _output(out: str | None) -> Iterator[Output]:
    """Yield standard output, or a file that gets its name when it is complete."""
    if out is None:
        yield SafeOutput(sys.stdout)
        sys.stdout.flush()
        return
    with ExitStack() as opened:
        with writing(Path(out)) as path:
            temporary = opened.enter_context(atomic_write(path))
            stream = opened.enter_context(temporary.open("w", encoding="utf-8", newline="", errors="backslashreplace"))
        yield stream


COMMAND = Command(predict, about=__doc__, takes="run", options=Options, files="images", several=True)
