"""Name the labels of images with a finished run.

    mltrain predict RUN photo.jpg photos/ 'more/*.png'         files, folders (with all below them), patterns
    find . -name '*.jpg' | mltrain predict RUN -               a list of files on standard input, one a line
    mltrain predict RUN photos/ format=csv out=labels.csv      table (default), csv or jsonl
    mltrain predict RUN photos/ annotated=seen                 copies of the images with their labels, in seen/

Which labels an image gets:
    (default)             classes above the thresholds that `mltrain tune_thresholds` left in the run folder, else
                          above metrics.threshold; of a run with one label an image the most probable one
    threshold=0.7         above this, all classes alike
    thresholds=FILE       above those of another file
    topk=3                the three best whatever their scores; with threshold=0.2 those of them above it
    weights=best          best: those that validation chose; val: raw; ema

KEY=VALUE also changes the config that the run folder holds: runner.device=cpu, runner.eval_batch_size=16,
data.num_workers=4, runner.amp=off, model.image_size=640. Images that cannot be read are reported and left out; the exit
code is then 2.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.schema import number
from mltrain.errors import ConfigError, DataError
from mltrain.progress import Meter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    format: Literal["table", "csv", "jsonl"] = "table"
    out: str | None = None  # file for the labels; null: standard output
    annotated: str | None = None  # folder for copies of the images with their labels drawn in
    threshold: float | None = number(None, least=0, most=1)  # of all classes; null: the run's thresholds.json, or
    # metrics.threshold where it has none
    thresholds: str | None = None  # file of thresholds in place of the run's
    topk: int | None = number(None, least=1)  # so many labels at most; without threshold: exactly so many
    weights: Literal["best", "val", "ema"] = "best"


def predict(cfg: DictConfig, folder: Path, options: Options, words: Sequence[str]) -> None:
    """Write the labels of all images that `words` name: files, folders, patterns, "-" for a list on standard input.

    Raises:
        ConfigError: a folder or pattern without an image, an output that cannot be written, or see `Predictor`.
        DataError: at the end, where images could not be read; the labels of all others are written.
    """
    from mltrain.pipeline.decode import read_image
    from mltrain.report.labelled import LabelWriter, annotate
    from mltrain.runs.folder import load_finished
    from mltrain.runs.predictor import Predictor, image_files

    files = image_files(words)
    places = _places(files, options.annotated)
    predictor = Predictor.from_run(
        load_finished(folder, weights=options.weights, config=cfg),
        threshold=options.threshold,
        thresholds=options.thresholds,
        topk=options.topk,
    )
    bad = 0
    begin = time.perf_counter()
    try:
        seen = options.out is None and sys.stdout.isatty()  # lines on the terminal show how far it is
        meter = Meter("predicting", len(files), unit="images", mode="off" if seen else "auto")
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
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    taken = time.perf_counter() - begin
    many = "s"[: len(files) > 1]
    logger.info("%d image%s, %.0f a second on %s", len(files), many, len(files) / taken, predictor.device)
    if bad:
        raise DataError(f"{bad} of {len(files)} images could not be read; the reasons are above")


def _places(files: Sequence[str], folder: str | None) -> list[Path | None]:
    if folder is None:
        return [None] * len(files)
    from mltrain.report.labelled import copies

    places: list[Path | None] = list(copies(files, Path(folder)))
    for file, place in zip(files, places, strict=True):
        if place is not None and place.exists() and Path(file).exists() and place.samefile(file):
            raise ConfigError(f"annotated={folder}: {place} is the image itself; name another folder for the copies")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"annotated={folder}: {error}") from error
    return places


@contextmanager
def _output(out: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that gets its name when it is complete."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(out)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = temporary.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"out={out}: {error}") from error
    with stream:
        yield stream
    temporary.replace(path)


COMMAND = Command(predict, about=__doc__, takes="run", options=Options, files="images")
