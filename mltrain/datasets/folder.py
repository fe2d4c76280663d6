"""Your own single-label images in one folder per class: `root/train/<class>/*.jpg`, `root/val/<class>/*.jpg`.

Classes are the folders of train, sorted, as in torchvision's ImageFolder. Each image has one positive class; all others
are negative. A file that lies in several class folders, with the same name and content, is one image with all of their
classes. Folders of one name in several spellings (code points, white space) are one class.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np

from mltrain import storage
from mltrain.datasets.names import NO_DATA, SUFFIXES, one_spelling, warn_of_case
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits, make_splits, split_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet, compress
from mltrain.text import first_few

log = logging.getLogger(__name__)

HOW = (
    "Expected one folder per class: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg (names: dataset.train, "
    "dataset.val). For classes directly in ROOT: dataset.train=. dataset.val_fraction=0.1; for list files: dataset=list"
    ". To use another place: dataset.root=FOLDER"
)


def folder(
    *,
    name: str = "folder",
    root: str,
    train: str = "train",
    val: str = "val",
    test: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from folders of classes.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the three below are relative to.
        train: folder with one folder of images per class; "." is `root` itself.
        val: the same for val; it may lack classes of train, but has no others.
        test: the same for test; None: no test set.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val` is then
            not used.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case. The
            classes are then the folders of val and test.

    Raises:
        DataError: a folder is missing or has no image, or val or test has a class that train lacks.
    """
    parts = split_paths(root, train, val, test, val_fraction, need_train=need_train)
    require_paths(name, list(parts.values()), HOW)
    for part, place in parts.items():
        around = [place.resolve(), *place.resolve().parents]
        if part != "train" and "train" in parts and parts["train"].resolve() in around:
            raise DataError(f"{name}: {part} is {place}, inside train ({parts['train']}). {HOW}")
    of_classes = parts.get("train", parts.get("val", Path(root)))
    classes = list(_folders(of_classes))
    if "train" not in parts:
        classes = sorted({label for place in parts.values() for label in _folders(place)})
    warn_of_case(classes, of_classes)
    if not classes:
        raise DataError(f"{of_classes}: has no folder, so there is no class. {HOW}")
    made = {part: read_folder(place, classes=classes, name=f"{name}/{part}") for part, place in parts.items()}
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def read_folder(
    place: str | os.PathLike[str], *, classes: list[str] | None = None, name: str | None = None
) -> LabelSet:
    """Return the images in a folder of classes, single label; images are sorted by class, then by path.

    Args:
        place: folder with one folder per class, with images at any depth. Files without the suffix of an image, and
            hidden files and folders, are left out.
        classes: names and order of the classes; default: the folders, sorted.
        name: name of the LabelSet; default: the name of the folder.

    Raises:
        DataError: there is no image, or a folder is no class.
    """
    place = Path(place)
    require_paths(name or place.name, [place], HOW)
    found = _folders(place)
    names = list(found) if classes is None else classes
    keys = [one_spelling(label) for label in names]
    foreign = sorted(label for label in found if one_spelling(label) not in keys)
    if foreign:
        raise DataError(
            f"{place}: {len(foreign)} folders are no classes of train: {first_few(foreign)}; the classes are the "
            "folders of train"
        )
    by_key = {one_spelling(label): folders for label, folders in found.items()}
    files: list[str] = []
    counts: list[int] = []
    left_out: Counter[str] = Counter()
    for key in keys:
        images = [image for folder_ in by_key.get(key, []) for image in _images(place, folder_, left_out)]
        files += images
        counts.append(len(images))
    if not files:
        raise DataError(f"{place}: no image in its {len(found)} folders; suffixes of images: {' '.join(SUFFIXES)}")
    title = name or place.name
    if left_out:
        kinds = first_few([f"{suffix or 'none'} {count}" for suffix, count in left_out.most_common()])
        log.info("%s: %d files without the suffix of an image left out (%s)", title, left_out.total(), kinds)
    columns = np.repeat(np.arange(len(names)), counts)
    first = _first_copies(place, files)
    if first is None:
        rows = np.arange(len(files))
    else:
        kept, rows = np.unique(first, return_inverse=True)
        log.warning(
            "%s: %d files lie in several class folders with the same name and content, such as %s; each is one "
            "image with all of their classes",
            *(title, int((np.bincount(rows) > 1).sum()), files[int(np.flatnonzero(first != np.arange(len(files)))[0])]),
        )
        files = [files[k] for k in kept]
        rows, columns = np.unique(np.stack([rows, columns]), axis=1)
    pairs = compress(rows, columns, np.ones(len(rows), dtype=np.int8), len(files))
    return LabelSet(name=title, root=place, files=files, class_names=names, fill=0, **pairs)


def _first_copies(place: Path, files: list[str]) -> np.ndarray | None:
    """Return the position of the first copy of every file, or None if no file is in two class folders.

    Only files of the same name and size are read.
    """
    by_name: dict[str, list[int]] = {}
    for k, file in enumerate(files):
        by_name.setdefault(file.rpartition("/")[2], []).append(k)
    first = np.arange(len(files))
    by_content: dict[tuple[str, bytes], int] = {}
    for name, same in by_name.items():
        if len({files[k].partition("/")[0] for k in same}) < 2:
            continue
        sizes = {k: storage.state(place / files[k]).size for k in same if storage.is_file(place / files[k])}
        common = {size for size, count in Counter(sizes.values()).items() if count > 1 and size > 0}
        for k, size in sizes.items():
            if size in common:
                content = hashlib.sha256(storage.read_bytes(place / files[k])).digest()
                first[k] = by_content.setdefault((name, content), k)
    return None if (first == np.arange(len(files))).all() else first


def _folders(place: Path) -> dict[str, list[str]]:
    """Return the class folders, sorted: name of the class -> its folders, several if they differ in spelling only."""
    names, _ = storage.entries(place)
    skipped = [name for name in names if _is_no_data(name)]
    if skipped:
        log.info("%s: folders left out, hidden or of no data: %s", place, first_few(skipped))
    by_key: dict[str, list[str]] = {}
    for name in names:
        if name not in skipped:
            by_key.setdefault(one_spelling(name), []).append(name)
    return {folders[0] if len(folders) == 1 else key: folders for key, folders in by_key.items()}


def _is_no_data(folder_: str) -> bool:
    return folder_.startswith(".") or folder_.lower() in NO_DATA


def _images(place: Path, label: str, left_out: Counter[str]) -> list[str]:
    """Return the images of a class folder, relative to `place` and sorted; count other files by their suffix."""
    images: list[str] = []
    for folder_, below, files in storage.walk(place / label):
        below[:] = [entry for entry in below if not _is_no_data(entry)]
        for file in files:
            if file.startswith("."):
                continue
            if file.lower().endswith(SUFFIXES):
                images.append(os.path.relpath(f"{folder_}/{file}", place))
            else:
                left_out[Path(file).suffix.lower()] += 1
    return sorted(images)
