"""A page that shows a data set: images before and after the transform, labels, classes to filter by."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from mltrain.errors import DataError
from mltrain.labels import GROUP_NAMES, LabelSet, LabelStats
from mltrain.pipeline.decode import read_image
from mltrain.report.html.page import embed, write_html
from mltrain.report.pictures import jpeg
from mltrain.seeding import ORDER, integer_generator

_NAMED = 20
"""Unknown classes of an image that are named; if there are more, they are counted."""

Pick = Literal["classes", "random", "first"]
Versions = Callable[[int, np.ndarray], Sequence[np.ndarray]]
"""(index, image) -> results of the transform, one or more; uint8 (H, W, 3) each"""


@dataclass(frozen=True)
class About:
    """Texts of the page."""

    name: str
    """data set and split"""
    transform: str
    """transform of the second picture and those after it"""
    command: str
    """command line that wrote the page"""


def choose(labels: LabelSet, count: int, *, pick: Pick, seed: int, among: Sequence[int] = ()) -> np.ndarray:
    """Choose images to show; returns int64 indices in ascending order.

    Args:
        labels: the data set.
        count: how many, at most.
        pick: "classes" goes round the classes, rarest first, and takes a random image of each that is not taken yet, so
            that rare classes are shown; "random" takes any images, "first" the first ones.
        seed: seed of the choice.
        among: indices of classes; only images with one of these labels are chosen. Empty: all images.

    Raises:
        DataError: no image has one of the classes.
    """
    rows, columns = labels.positive_pairs()
    if len(among):
        kept = np.isin(columns, np.asarray(among))
        rows, columns = rows[kept], columns[kept]
    pool = np.unique(rows) if len(among) else np.arange(len(labels))
    if not len(pool):
        raise DataError(f"{labels.name}: no image has one of these labels; there is nothing to show")
    import torch

    shuffled = pool[torch.randperm(len(pool), generator=integer_generator(ORDER, seed)).numpy()]
    if pick == "first":
        return pool[:count]
    if pick == "random":
        return np.sort(shuffled[:count])
    place = np.empty(len(labels), dtype=np.int64)
    place[shuffled] = np.arange(len(shuffled))
    order = np.lexsort((place[rows], columns))
    counts = np.bincount(columns, minlength=labels.num_classes)
    queues = [iter(part) for part in np.split(rows[order], np.cumsum(counts)[:-1])]
    waiting = [int(c) for c in np.argsort(counts, kind="stable") if counts[c]]
    taken: dict[int, None] = {}
    while waiting and len(taken) < count:
        for c in list(waiting):
            image = next((int(i) for i in queues[c] if int(i) not in taken), None)
            if image is None:
                waiting.remove(c)
                continue
            taken[image] = None
            if len(taken) == count:
                break
    rest = (int(i) for i in shuffled if int(i) not in taken)  # images without a label
    for image in rest:
        if len(taken) == count:
            break
        taken[image] = None
    return np.sort(np.fromiter(taken, dtype=np.int64, count=len(taken)))


def write_browse(
    path: Path,
    labels: LabelSet,
    stats: LabelStats,
    indices: Iterable[int],
    versions: Versions,
    *,
    about: About,
    side: int = 192,
) -> list[str]:
    """Write the page and return the files of the images that cannot be decoded, which are shown with their error.

    Args:
        path: HTML file.
        labels: the split to look at.
        stats: statistics of the training split, which define head, medium and tail.
        indices: images to show.
        versions: transform, see `Versions`.
        about: texts of the page.
        side: longer side of a picture, pixels.

    Raises:
        ConfigError: Jinja2 is not installed.
        OSError: the file cannot be written.
    """
    images = [_image(labels, int(index), versions, side) for index in indices]
    own = LabelStats.from_labels(labels, stats.head_min, stats.medium_min)
    total = len(labels) * labels.num_classes
    unknown = int(own.unknowns.sum())
    per_image = int(own.positives.sum()) / max(len(labels), 1)
    groups = ", ".join(f"{len(index):,} {name}" for name, index in stats.group_indices().items() if len(index))
    empty = len(labels) - len(np.unique(labels.positive_pairs()[0]))
    tiles = [
        ("images", f"{len(labels):,}", f"{len(images):,} on this page"),
        ("classes", f"{labels.num_classes:,}", groups),
        ("labels per image", f"{per_image:.2f}", f"{int(own.positives.sum()):,} in all"),
        ("without a label", f"{empty:,}", f"{empty / max(len(labels), 1):.1%} of the images"),
        ("unknown targets", f"{unknown / max(total, 1):.1%}" if unknown else "none", f"{unknown:,}" if unknown else ""),
    ]
    data: dict[str, Any] = {
        "names": list(labels.class_names),
        "groups": stats.groups.tolist(),
        "groupNames": list(GROUP_NAMES),
        "counts": own.positives.tolist(),
        "images": images,
        "side": side,
    }
    write_html(path, "browse.html", about=about, tiles=tiles, data=embed(data))
    return [image["file"] for image in images if "error" in image]


def _image(labels: LabelSet, index: int, versions: Versions, side: int) -> dict[str, Any]:
    targets = labels.targets(index)
    unknown = np.flatnonzero(targets < 0)
    mostly_unknown = len(unknown) > len(targets) / 2
    entry: dict[str, Any] = {
        "file": labels.file(index),
        "index": index,
        "positive": np.flatnonzero(targets == 1).tolist(),
        "negative": np.flatnonzero(targets == 0).tolist() if mostly_unknown else [],
        "unknown": unknown.tolist() if len(unknown) <= _NAMED else [],
        "unknowns": len(unknown),
    }
    try:
        pixels = read_image(labels.path(index))
    except DataError as error:
        return entry | {"error": str(error), "pictures": []}
    shown = (Image.fromarray(np.ascontiguousarray(picture)) for picture in (pixels, *versions(index, pixels)))
    pictures = [base64.b64encode(jpeg(picture, side=side, quality=80)).decode() for picture in shown]
    return entry | {"size": [pixels.shape[1], pixels.shape[0]], "pictures": pictures}
