"""tools/predict.py: the labels of many images, written as they are found."""

from __future__ import annotations

import glob
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from omegaconf import DictConfig

from mltrain.config.finished import load_finished
from mltrain.config.predict import Predictor
from mltrain.config.schema import Predict
from mltrain.datasets.folder import SUFFIXES
from mltrain.errors import ConfigError, DataError
from mltrain.pipeline.decode import read_image
from mltrain.progress import Meter
from mltrain.report.labelled import LabelWriter, annotate, copies

logger = logging.getLogger(__name__)


def predict(cfg: DictConfig, folder: Path, options: Predict, words: Sequence[str]) -> None:
    """Write the labels of all images that `words` name: files, folders, patterns, "-" for a list on standard input.

    Raises:
        ConfigError: a folder or pattern without an image, an output that cannot be written, or see `Predictor`.
        DataError: at the end, where images could not be read; the labels of all others are written.
    """
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


def image_files(words: Sequence[str]) -> list[str]:
    """Files, all images below folders (by suffix, sorted), what patterns match, and for "-" the lines of stdin.

    Raises:
        ConfigError: a folder without an image, or a pattern that matches nothing.
    """
    files: list[str] = []
    for word in words:
        if word == "-":
            files += [line for line in sys.stdin.read().splitlines() if line.strip()]
        elif Path(word).is_dir():
            files += _below(word)
        elif glob.has_magic(word) and not Path(word).exists():
            matched = sorted(glob.glob(word, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            if not matched:
                raise ConfigError(f"{word}: no file matches this pattern")
            files += [file for file in matched if not Path(file).is_dir()]
        else:
            files.append(word)
    if not files:
        raise ConfigError(f"{' '.join(words)}: no image")
    return files


def _below(folder: str) -> list[str]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        found += [str(Path(parent) / name) for name in images]
    if not found:
        raise ConfigError(f"{folder}: no image in this folder; suffixes of images: {' '.join(SUFFIXES)}")
    return sorted(found)


def _places(files: Sequence[str], folder: str | None) -> list[Path | None]:
    if folder is None:
        return [None] * len(files)
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
