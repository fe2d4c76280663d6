"""Show where in images a finished run finds its classes.

    mltrain explain RUN photo.jpg photos/ out=explained
    mltrain explain RUN photo.jpg topk=5                  the five best classes
    mltrain explain RUN photo.jpg 'classes=[dog,sky]'     these, whatever their scores

For photo.jpg the command writes explained/photo.png with all classes side by side, and explained/photo/01_dog.png ...
for each class. Without classes=, topk= or threshold= it explains the classes that `mltrain predict` names; images are
given in the same ways.

The head decides what the colours mean. gap, pfc and csra show evidence: how much each place adds to the class's logit
(class activation maps), where that is positive. ml_decoder, zero_shot and query2label show attention: where the class's
query looks; with fewer groups than classes (head.groups), the classes of a group share one map.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.schema import number
from mltrain.errors import ConfigError, DataError
from mltrain.runs.outputs import copies_folder
from mltrain.text import counted, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from mltrain.runs.folder import FinishedRun
    from mltrain.runs.predictor import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    out: str = "explained"
    """folder to write"""
    classes: list[str] = field(default_factory=list)
    """classes to explain, whatever their scores; []: the predicted ones"""
    threshold: float | None = number(None, least=0, most=1)
    """explain classes above this probability; null: above the run's thresholds, as mltrain predict does"""
    topk: int | None = number(None, least=1)
    """explain at most this many classes per image; without threshold exactly this many"""
    weights: Literal["best", "val", "ema"] = "best"
    """best: weights that validation chose; val: raw weights; ema: averaged weights"""


def explain(cfg: DictConfig, folder: Path, options: Options, images: Sequence[str]) -> list[Path]:
    """Write the class maps of images and return the paths of the contact sheets.

    For an image NAME.jpg: `out`/NAME.png, the sheet, and `out`/NAME/01_CLASS.png ..., an overlay of each class.

    Args:
        images: files, folders and patterns, see `image_files`.

    Raises:
        ConfigError: a class is unknown, options exclude each other, the head has no maps, or see `image_files`.
        DataError: images could not be read; raised at the end, after all others.
    """
    from mltrain.models.explain import why_no_maps
    from mltrain.pipeline.decode import read_image
    from mltrain.runs.folder import load_finished
    from mltrain.runs.predictor import Predictor, image_files

    files = image_files(images)
    run = load_finished(folder, weights=options.weights, config=cfg)
    asked = _classes(run, options)
    reason = why_no_maps(run.model)
    if reason is not None:
        raise ConfigError(f"{folder}: {reason}")
    places = _places(files, Path(options.out))
    predictor = Predictor.from_run(run, threshold=options.threshold, topk=options.topk)
    sheets: list[Path] = []
    bad = 0
    for file, place in zip(files, places, strict=True):
        try:
            image = read_image(file)
        except DataError as error:
            logger.warning("%s", error)
            bad += 1
            continue
        sheets.append(_explain(predictor, image, asked, place, file))
    if bad:
        raise DataError(f"{bad} of {counted(len(files), 'image')} could not be read; the reasons are above")
    return sheets


def _explain(predictor: Predictor, image: np.ndarray, asked: Sequence[str], place: Path, file: str) -> Path:
    """Write the overlays of an image, uint8 (H, W, 3), into the folder `place`, and the contact sheet beside it."""
    from PIL import Image

    from mltrain.report.overlays import overlay, sheet
    from mltrain.report.pictures import write_picture
    from mltrain.runs.one_image import look, visible_part
    from mltrain.runs.predictor import Label

    found = look(predictor, image)
    assert found.maps is not None  # `explain` has refused a head without maps
    maps, kind = found.maps.maps[0], found.maps.kind
    names = predictor.class_names
    labels = [Label(name, float(found.scores[names.index(name)])) for name in asked] or found.labels
    note = ""
    if not labels:
        labels = [found.best]
        note = " (no class is above its threshold: the best one)"
    seen = visible_part(predictor, image)
    overlays = []  # name, score, picture and map of each class
    place.mkdir(parents=True, exist_ok=True)
    for rank, label in enumerate(labels, 1):
        values = maps[names.index(label.name)].cpu().numpy()
        drawn = overlay(seen, values, kind)
        write_picture(place / f"{rank:02d}_{_plain(label.name)}.png", Image.fromarray(drawn))
        overlays.append((label.name, label.score, drawn, values))
    path = _sheet(place)
    write_picture(path, sheet(image, overlays, kind))
    shown = ", ".join(f"{name} {score:.2f}" for name, score in labels)
    places = " x ".join(str(side) for side in maps.shape[1:])
    logger.info("%s: %s%s; maps of %s places; %s", file, shown, note, places, path)
    return path


def _places(files: Sequence[str], out: Path) -> list[Path]:
    """Return the folder of each image's overlays, named after the image, with its suffix if two would share a name."""
    from mltrain.report.labelled import copies

    sources = dict.fromkeys(files)
    copied = zip(sources, copies(list(sources), out), strict=True)
    found = {file: copy.parent / _plain(Path(file).stem) for file, copy in copied}
    shared = Counter(found.values())
    for file, place in found.items():
        if shared[place] > 1:
            found[file] = place.with_name(_plain(Path(file).name))
    copies_folder(out, "out", map(_sheet, found.values()), sources)
    return [found[file] for file in files]


def _sheet(place: Path) -> Path:
    return place.with_name(place.name + ".png")


def _classes(run: FinishedRun, options: Options) -> list[str]:
    if options.classes and (options.threshold is not None or options.topk is not None):
        raise ConfigError("classes=...: explained whatever their scores; leave out threshold and topk")
    for name in options.classes:
        if name not in run.class_names:
            raise ConfigError(f"classes={name}: the run has no such class{did_you_mean(name, run.class_names)}")
    return list(options.classes)


def _plain(name: str) -> str:
    """Return a name that every file system accepts."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"


COMMAND = Command(explain, about=__doc__, takes="run", options=Options, files="images")
