"""Small data sets in the layout of the published VOC-MLT files, for tests."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mltrain.datasets.voc import CLASSES


def targets(n: int = 24, *, seed: int = 0) -> np.ndarray:
    """int64 (N, 20): person in most images, every class in at least one."""
    rng = np.random.default_rng(seed)
    made = (rng.random((n, 20)) < 0.05).astype(np.int64)
    made[:, CLASSES.index("person")] = rng.random(n) < 0.7
    made[np.arange(n), np.arange(n) % 20] = 1
    return made


def ids(n: int = 24) -> list[str]:
    return [f"2008_{k:06d}" for k in range(n)]


def contents(labels: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of class_freq.pkl and class_split.pkl for these labels."""
    counts = labels.sum(0)
    together = labels.T @ labels
    frequencies = {
        "gt_labels": list(labels),
        "class_freq": counts,
        "neg_class_freq": len(labels) - counts,
        "condition_prob": together / counts[:, None],
    }
    head, tail = counts >= 100, counts < 20
    groups = {
        name: set(np.flatnonzero(mask)) for name, mask in (("head", head), ("middle", ~head & ~tail), ("tail", tail))
    }
    return frequencies, groups


def write_official(
    folder: Path,
    labels: np.ndarray,
    image_ids: list[str],
    *,
    protocol: int = 2,
    frequencies: dict[str, Any] | None = None,
    groups: dict[str, Any] | None = None,
    id_file: str = "img_id.txt",
) -> Path:
    """The three files; `frequencies` and `groups` replace entries, to contradict the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    made = contents(labels)
    for name, content, changes in zip(("class_freq", "class_split"), made, (frequencies, groups), strict=True):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content | (changes or {}), protocol=protocol))
    (folder / id_file).write_text("\n".join(image_ids) + "\n")
    return folder


def write_voc(root: Path, train_ids: list[str], *, test: int = 8, size: int = 32) -> Path:
    """A VOC tree: JPEGImages of 2012 for `train_ids`, and 2007 test with its annotations, one object difficult."""
    rng = np.random.default_rng(1)
    devkit = root / "VOCdevkit"
    old, new = devkit / "VOC2007", devkit / "VOC2012" / "JPEGImages"
    for folder in (new, old / "JPEGImages", old / "Annotations", old / "ImageSets" / "Main"):
        folder.mkdir(parents=True)
    for image_id in train_ids:
        _image(new / f"{image_id}.jpg", rng, size)
    test_ids = [f"{k:06d}" for k in range(1, test + 1)]
    (old / "ImageSets" / "Main" / "test.txt").write_text("\n".join(test_ids) + "\n")
    for k, image_id in enumerate(test_ids):
        _image(old / "JPEGImages" / f"{image_id}.jpg", rng, size)
        names = [CLASSES[(3 * k + j) % 20] for j in range(3)]
        objects = "".join(
            f"<object><name>{name}</name><difficult>{int(j == 2)}</difficult></object>" for j, name in enumerate(names)
        )
        (old / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


def _image(path: Path, rng: np.random.Generator, size: int) -> None:
    Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
