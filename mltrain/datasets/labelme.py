"""Annotations of LabelMe (https://github.com/wkentaro/labelme): one json file per image, with outlines and flags.

An image has the labels of its `shapes` and those of its `flags` that are true. Classes are those of all files, sorted;
a flag that is never true is a class without images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mltrain import storage
from mltrain.datasets.listing import Listing, Place
from mltrain.datasets.names import warn_of_case
from mltrain.datasets.reading import read_json_object, require_paths
from mltrain.datasets.splits import Splits, make_splits, split_paths
from mltrain.errors import DataError
from mltrain.files import walk
from mltrain.progress import track

HOW = (
    "Expected a folder of LabelMe's json files per split: dataset.train=train dataset.val=val, or dataset.train=. "
    "dataset.val_fraction=0.1. To use another place: dataset.root=FOLDER"
)


def labelme(
    *,
    name: str = "labelme",
    root: str,
    train: str = "train",
    val: str = "val",
    test: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from LabelMe's json files.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the paths below are relative to.
        train: folder with json files at any depth ("." is `root` itself). An image is at the place that the file
            names, or else beside it.
        val: the same for val.
        test: the same for test; None: no test set.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val` is then
            not used.
        split_seed: seed of that choice, independent of the run's.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken; the message names the file.
    """
    paths = split_paths(root, train, val, test, val_fraction, need_train=need_train)
    require_paths(name, list(paths.values()), HOW)
    listing = Listing(Path(root), Path(root))
    classes: set[str] = set()
    for part, path in paths.items():
        files = list(_json_files(path))
        if not files:
            raise DataError(f"{path}: no json file. {HOW}")
        for file in track(files, f"reading {path.name}", len(files), unit="images"):
            classes.update(_read(file, part, listing))
    listing.class_names = sorted(classes)
    if not classes:
        raise DataError(f"{root}: no file has a shape or a flag, so there is no class")
    warn_of_case(listing.class_names, root)
    by_split = listing.by_split("train")
    made = {part: listing.label_set(by_split.get(part, []), f"{name}/{part}") for part in paths}
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def _json_files(folder: Path) -> Iterator[Path]:
    yield from sorted(Path(place, name) for place, _, names in walk(folder) for name in names if name.endswith(".json"))


def _read(file: Path, part: str, listing: Listing) -> set[str]:
    """Add the image of a file and return the classes that the file names."""
    content = read_json_object(file, "an annotation of LabelMe")
    try:
        flags: dict[str, Any] = content.get("flags") or {}
        shapes = [str(shape["label"]) for shape in content.get("shapes") or ()]
        image = str(content["imagePath"]).replace("\\", "/")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: no annotation of LabelMe ({type(error).__name__}: {error})") from error
    beside = os.path.relpath(file.parent, listing.root)
    places = [os.path.normpath(f"{beside}/{name}") for name in (image, image.rpartition("/")[2])]
    found = next((place for place in places if storage.exists(listing.root / place)), places[-1])
    where = Place(file, "imagePath")
    row = listing.image(found, part, where)
    for label in {*shapes, *(flag for flag, is_set in flags.items() if is_set)}:
        listing.label(row, label, 1, where)
    return {*shapes, *flags}
