"""The embedded default: a long-tailed multi-label set of 20 drawn shapes, generated on first use.

Real JPEG files and annotation files in COCO's format are written below `root`, then read like any COCO set. Classes are
outlines (disc, square, ... drop). An object usually has the colour and texture of its class; the background shows one
of four scenes, and classes of one scene tend to occur together. Training positives fall geometrically over the classes,
so that head, medium and tail all exist; validation is flatter, so that every class has enough positives for its AP.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from mltrain.datasets import shapes_draw
from mltrain.datasets.coco import read_coco
from mltrain.datasets.once import make_folder
from mltrain.datasets.splits import Splits
from mltrain.labels import LabelSet

log = logging.getLogger(__name__)

VERSION = 2
"""version of the drawings; raise it when they change: sets of other versions stay, and a new folder is made"""

VAL_LARGEST, VAL_IMBALANCE = 0.3, 6.0
MANIFEST = "manifest.json"


def shapes(
    *,
    name: str = "shapes",
    root: str,
    num_train: int = 2000,
    num_val: int = 500,
    image_size: int = 96,
    largest: float = 0.4,
    imbalance: float = 70.0,
    seed: int = 0,
) -> Splits:
    """Train and val, generated below `root` unless a complete set with the same options exists.

    The same options and seed give the same labels and the same pixels before JPEG encoding.

    Args:
        name: name of the LabelSets and the run folder.
        root: parent folder; each combination of options has its own folder in it.
        num_train: training images.
        num_val: validation images.
        image_size: width in pixels; heights are 0.75 to 1 of it.
        largest: share of the training images that show the most frequent class.
        imbalance: training positives of the most frequent class divided by those of the rarest.
        seed: seed of the data, independent of the run's seed.

    Raises:
        DataError: `root` cannot be written.
    """
    options = {
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "largest": float(largest),
        "imbalance": float(imbalance),
        "seed": seed,
    }
    if min(num_train, num_val) < 1 or image_size < 16 or seed < 0 or not 0 < largest <= 1 or imbalance < 1:
        raise ValueError(
            "shapes needs num_train, num_val >= 1, image_size >= 16, seed >= 0, 0 < largest <= 1, imbalance >= 1; got "
            + ", ".join(f"{key}={value}" for key, value in options.items())
        )
    key = hashlib.sha256(json.dumps([VERSION, options], sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(root, f"v{VERSION}_{num_train}_{num_val}_{key}")
    make_folder(
        folder,
        complete=lambda: _is_complete(folder, options),
        write=lambda place: _write(place, options, folder),
        what="shapes",
    )
    return Splits(
        read_shapes(folder=folder, split="train", name=name), read_shapes(folder=folder, split="val", name=name)
    )


def read_shapes(
    *, folder: str | os.PathLike[str], split: Literal["train", "val"] = "val", name: str = "shapes"
) -> LabelSet:
    """Return one split of a generated folder."""
    return read_coco(
        root=folder,
        annotation_file=f"annotations/{split}.json",
        image_dir=split,
        keep_unlabelled=True,
        name=f"{name}/{split}",
    )


def _is_complete(folder: Path, options: dict[str, Any]) -> bool:
    """Return whether the folder has these options and exactly the files of its manifest, which is written last."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["version"] != VERSION or manifest["options"] != options:
            return False
        for file, digest in manifest["annotations"].items():
            if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
                return False
        for split in ("train", "val"):
            with os.scandir(folder / split) as entries:
                sizes = [entry.stat().st_size for entry in entries]
            if len(sizes) != options[f"num_{split}"] or sum(sizes) != manifest["bytes"][split]:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _write(folder: Path, options: dict[str, Any], place: Path) -> None:
    """Draw all images into `folder`, which will be moved to `place`, and write their annotations."""
    start = time.perf_counter()
    size, seed = options["image_size"], options["seed"]
    (folder / "annotations").mkdir()
    manifest: dict[str, Any] = {"version": VERSION, "options": options, "annotations": {}, "bytes": {}}
    for split, largest, imbalance in (
        ("train", options["largest"], options["imbalance"]),
        ("val", VAL_LARGEST, VAL_IMBALANCE),
    ):
        (folder / split).mkdir()
        n = options[f"num_{split}"]
        counts = shapes_draw.class_counts(n, largest, imbalance)
        present, scenes = shapes_draw.place_classes(seed, split, n, counts)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        total = 0
        for i in range(n):
            pixels, objects = shapes_draw.draw(seed, split, i, np.flatnonzero(present[i]), int(scenes[i]), size)
            path = folder / split / f"{i:06d}.jpg"
            Image.fromarray(pixels).save(path, quality=90)
            total += path.stat().st_size
            images.append({"id": i, "file_name": path.name, "width": pixels.shape[1], "height": pixels.shape[0]})
            for k, box, area in objects:
                key = {"id": len(annotations), "image_id": i, "category_id": k + 1}
                annotations.append({**key, "bbox": list(box), "area": area, "iscrowd": 0})
        categories = [{"id": k + 1, "name": label} for k, label in enumerate(shapes_draw.CLASS_NAMES)]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        file = f"annotations/{split}.json"
        (folder / file).write_text(text, encoding="utf-8")
        manifest["annotations"][file] = hashlib.sha256(text.encode()).hexdigest()
        manifest["bytes"][split] = total
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    log.info("shapes: drew %s in %.1f s", place, time.perf_counter() - start)
