"""The handwritten digits that come with scikit-learn: a small real single-label set that needs no download.

1,797 grey images of 8 x 8 pixels, 174 to 183 of each digit: the test part of UCI's "Optical Recognition of Handwritten
Digits" (Alpaydin and Kaynak, 1998, CC BY 4.0). On first use each image is written to a PNG in the folder of its class,
``train/3/0042.png``; `dataset=folder` reads these folders too.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from mltrain.datasets.csv import read_csv
from mltrain.datasets.folder import read_folder
from mltrain.datasets.once import make_versioned
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits, check_fraction, make_splits
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.text import counted

log = logging.getLogger(__name__)

VERSION = 1
"""version of the written files; raise it when they change"""
DONE = "written.json"
CLASSES = tuple(str(k) for k in range(10))
LONG_TAIL = (
    "mltrain create_longtail_dataset dataset=digits curve=exponential max=100 min=4 val_per_class=20 makes a "
    "long-tailed one; dataset.split=null trains on all of them"
)


def digits(
    *,
    name: str = "digits",
    root: str,
    test_per_class: int = 50,
    split: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
) -> Splits:
    """Train, val and a balanced test set of scikit-learn's digits.

    The test set is the last `test_per_class` images of each class in the order of scikit-learn's file. That order seems
    to follow the 13 people who wrote them (not documented), so the test set is harder than a random part.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder for the PNGs.
        test_per_class: test images of each class, which has at least 174.
        split: folder of a split that `mltrain create_longtail_dataset dataset=digits` has written with the same
            `test_per_class`; train and val come from it. None: train is everything but the test set.
        val_fraction: without `split`: above 0, val is this share of train; at 0 the test set stands in for val.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.

    Raises:
        DataError: `root` cannot be written, or the split is missing or of another set.
    """
    if not 1 <= test_per_class <= 150:
        raise ValueError(f"test_per_class={test_per_class}: must be from 1 to 150, a class has 174 images and more")
    check_fraction(val_fraction)
    if split is not None and val_fraction:
        raise ValueError("val_fraction is for split=null: a split has its own validation part")
    if split is not None:
        require_paths(name, [Path(split, "labels.csv"), Path(split, "classes.txt")], LONG_TAIL)
    folder = Path(root, f"v{VERSION}_{test_per_class}")
    make_versioned(folder, DONE, VERSION, lambda place: _write(place, test_per_class), name)
    parts = {"test": read_folder(folder / "test", classes=list(CLASSES), name=f"{name}/test")}
    if split is None:
        parts["train"] = read_folder(folder / "train", classes=list(CLASSES), name=f"{name}/train")
    else:
        for part in ("train", "val"):
            parts[part] = _read_split(Path(split), part, folder, f"{name}/{part}")
    return make_splits(name, parts, val_fraction=val_fraction, split_seed=split_seed)


def _read_split(split: Path, part: str, folder: Path, name: str) -> LabelSet:
    """Return a part of a long-tailed split, with the files of `folder`."""
    labels = read_csv(split / "labels.csv", classes=split / "classes.txt", split=part, root=folder / "train", name=name)
    if labels.class_names != CLASSES or not all(Path(labels.path(i)).is_file() for i in range(len(labels))):
        raise DataError(f"{split / 'labels.csv'}: is no split of {folder / 'train'}; {LONG_TAIL}")
    return labels


def _write(out: Path, test_per_class: int) -> int:
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)
    for k, label in enumerate(CLASSES):
        members = np.flatnonzero(data.target == k).tolist()
        for place, i in enumerate(members):
            part = "test" if place >= len(members) - test_per_class else "train"
            file = out / part / label / f"{i:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(file)
    log.info("digits: wrote %s", counted(len(pixels), "image"))
    return len(pixels)
