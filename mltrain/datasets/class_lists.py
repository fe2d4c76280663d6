"""One list of images per class and split, as Pascal VOC has them: ``ImageSets/Main/cat_train.txt``.

A line is the name of an image and 1 (it has the class), -1 (it has not) or 0 (difficult: unknown). Objects with boxes
are not needed; where xml annotations are there, `mltrain.datasets.voc_files` reads those.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mltrain.datasets.label_files import SplitNames, choose_splits
from mltrain.datasets.listing import Listing, Place
from mltrain.datasets.names import warn_of_case
from mltrain.datasets.reading import read_lines, require_paths
from mltrain.datasets.splits import Splits, check_fraction
from mltrain.errors import DataError

HOW = (
    "Expected one list per class and split below dataset.root, dataset.lists, and the images in dataset.images. To use "
    "another place: dataset.root=FOLDER"
)
VALUES = {"1": 1, "+1": 1, "-1": 0, "0": -1}
"""second word of a line -> target"""


def class_lists(
    *,
    name: str = "class_lists",
    root: str,
    lists: str = "ImageSets/Main/{class}_{split}.txt",
    images: str = "JPEGImages",
    train_split: str = "train",
    val_split: str = "val",
    test_split: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_val: bool = True,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from one list per class and split.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the two below are relative to.
        lists: files of the lists; ``{class}`` stands for the class and ``{split}`` for the split.
        images: folder of the images, whose suffix the lists may leave out.
        train_split: name of train in the files.
        val_split: name of val.
        test_split: name of test; None: "test" if there are such lists, else there is no test set.
        val_fraction: above 0, val is this share of train, and `val_split` is not used. A hash of `split_seed` and the
            image path chooses it.
        split_seed: seed of that choice, independent of the run's.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.
        need_train: the program sets it to False to evaluate; train may then be empty.

    Raises:
        DataError: lists are missing or broken; the message names the line.
    """
    check_fraction(val_fraction)
    names = SplitNames(train_split, val_split, test_split, val_fraction, split_seed, need_val, need_train)
    place = Path(root)
    require_paths(name, [place / images, (place / lists).parent], HOW)
    listing = Listing(place / lists, place / images)
    classes: dict[str, None] = {}
    for split in (train_split, val_split, test_split or "test"):
        before, _, after = lists.replace("{split}", split).partition("{class}")
        for path in sorted(place.glob(f"{before}*{after}")):
            label = path.relative_to(place).as_posix()[len(before) :].removesuffix(after)
            classes[label] = None
            _read(path, split, label, listing)
    if not classes:
        raise DataError(f"{place / lists}: there is no such list. {HOW}")
    listing.class_names = sorted(classes)
    warn_of_case(listing.class_names, place)
    return choose_splits(listing, name, replace(names, where="the names of the lists"))


def _read(path: Path, split: str, label: str, listing: Listing) -> None:
    for number, text in read_lines(path):
        where = Place(path, f"line {number}")
        image, *flag = text.rsplit(maxsplit=1)
        if len(flag) != 1 or flag[0] not in VALUES:
            raise DataError(f"{where}: expected an image and 1, -1 or 0, found {text[:60]!r}")
        row = listing.image(image, split, where)
        if (value := VALUES[flag[0]]) != 0:
            listing.label(row, label, value, where, image)
