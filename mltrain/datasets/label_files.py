"""Label files and the splits that they hold: one file with all splits, or `{split}` in its path for one file each."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mltrain import storage
from mltrain.datasets.listing import Listing
from mltrain.datasets.names import NO_DATA, ImageFinder
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits, make_splits
from mltrain.errors import DataError
from mltrain.files import walk
from mltrain.labels import LabelSet
from mltrain.text import counted, first_few

log = logging.getLogger(__name__)

SPLIT = "{split}"
LABEL_FOLDERS = ("annotations", "labels", "metadata")
"""folders, in lower case, that may hold the label files of the folder around them"""


@dataclass(frozen=True)
class SplitNames:
    """Names of the splits in the annotations; options of the config targets."""

    train: str = "train"
    val: str = "val"
    test: str | None = None
    """None: "test" if the annotations have such images"""
    val_fraction: float = 0.0
    """above 0, val is this share of train, and `val` is not used"""
    split_seed: int = 0
    need_val: bool = True
    need_train: bool = True
    where: str = "the file"
    """place that names the splits, for messages"""


class LabelFile(NamedTuple):
    """One label file."""

    path: Path
    images: str
    """folder that its image paths are relative to, below the root; empty: the root"""
    split: str | None
    """split of all its images; None: the file says"""


def find_label_files(
    what: str, file: str | os.PathLike[str], root: str | os.PathLike[str] | None, names: SplitNames, how: str
) -> tuple[Path, list[LabelFile]]:
    """Return the root of the images, and the label files: one, or one per split if `file` contains ``{split}``.

    Args:
        what: the data set, for messages.
        file: the file, with ``{split}`` instead of the names of the splits if each has its own.
        root: folder of the image paths, also with ``{split}``; None: the folder of each file.
        names: the splits.
        how: how to name other files, for the message.

    Raises:
        DataError: a file is missing.
    """
    pattern = os.fspath(file)
    images = os.fspath(root) if root is not None else os.path.dirname(pattern)  # noqa: PTH120  may hold {split}
    if SPLIT not in pattern:
        if SPLIT in images:
            raise DataError(f"{what}: dataset.root={images} has {SPLIT}, which dataset.file={pattern} has not")
        require_paths(what, [pattern], how)
        return Path(images), [LabelFile(Path(pattern), "", None)]
    base, mark, below = images.partition(SPLIT)
    if mark:
        cut = base.rfind("/") + 1
        base, below = base[:cut], base[cut:] + mark + below
    test = "test" if names.test is None else names.test
    splits = {"train": names.train, "val": None if names.val_fraction > 0 else names.val, "test": test}
    files = {
        part: LabelFile(Path(pattern.replace(SPLIT, split)), below.replace(SPLIT, split), split)
        for part, split in splits.items()
        if split is not None
    }
    optional = {
        "train": not names.need_train,
        "val": not names.need_val,
        "test": names.test is None,
    }
    files = {part: found for part, found in files.items() if storage.exists(found.path) or not optional[part]}
    require_paths(what, [found.path for found in files.values()], how)
    return Path(base or "."), list(files.values())


def choose_splits(listing: Listing, name: str, names: SplitNames) -> Splits:
    """Return train, val and test of a listing.

    Raises:
        DataError: a split has no image.
    """
    by_split = listing.by_split(names.train)
    test = names.test
    if test is None and "test" in by_split and "test" not in (names.train, names.val):
        test = "test"
    train, val = _as_written(names.train, by_split), _as_written(names.val, by_split)
    test = None if test is None else _as_written(test, by_split)
    chosen = {"train": train, "val": None if names.val_fraction > 0 else val, "test": test}
    optional = {"train": not names.need_train and names.val_fraction == 0, "val": not names.need_val}
    made: dict[str, LabelSet] = {}
    for part, split in chosen.items():
        if split is None:
            continue
        if split in by_split or (part == "val" and not names.need_val):
            made[part] = listing.label_set(by_split.get(split, []), f"{name}/{part}")
        elif not optional.get(part):
            if part == "val" and list(by_split) == [train]:
                raise DataError(
                    f"{listing.source}: no image of split {split!r}: all {len(by_split[train])} are {train}. Set "
                    f"dataset.val_fraction=0.2, or name the validation images in {names.where} (dataset.val_split)"
                )
            if list(by_split) == [""]:
                raise DataError(
                    f"{listing.source}: {names.where} is blank for all {counted(len(listing.rows), 'image')}: none is "
                    f"of split {split!r}. Write train and val there, or leave it out and set dataset.val_fraction=0.2"
                )
            counts = ", ".join(
                f"{key or 'nothing'} ({counted(len(images), 'image')})" for key, images in sorted(by_split.items())
            )
            hint = " or dataset.val_fraction=0.1" if part == "val" else ""
            raise DataError(
                f"{listing.source}: no image of split {split!r}; {names.where} has {counts}. "
                f"Set dataset.{part}_split{hint}"
            )
    if blank := len(by_split.get("", ())):
        log.warning(
            "%s: %d of %s have no split, because %s is blank there; they are not used. Write %s there",
            *(name, blank, counted(len(listing.rows), "image"), names.where),
            first_few([s for s in chosen.values() if s]),
        )
    drawn = names.val_fraction > 0 and val in by_split
    unused = [
        f"{key} ({counted(len(images), 'image')})"
        for key, images in by_split.items()
        if key not in (*chosen.values(), "", val if drawn else "")
    ]
    if unused:
        log.info("%s: splits not used: %s", name, ", ".join(unused))
    if drawn:
        log.warning(
            "%s: validation images are drawn from train, so split %s (%s) is not used; without dataset.val_fraction "
            "and dataset.folds it is the validation set",
            *(name, val, counted(len(by_split[val]), "image")),
        )
    return make_splits(name, made, val_fraction=names.val_fraction, split_seed=names.split_seed)


def _as_written(split: str, found: Collection[str]) -> str:
    """Return a split as the file writes it: the command line makes "false" of False."""
    alike = [other for other in found if other.lower() == split.lower()]
    return alike[0] if split not in found and len(alike) == 1 else split


def find_image_root(root: Path, files: Collection[str]) -> Path:
    """Return `root`, or the folder below it that has the images if it has none of them itself.

    If `root` is a folder of annotations, the folders beside it are looked at, too, and if the paths begin with its name
    (CheXpert), the folder around it. Archives come last. Only a sample of the images is looked for.
    """
    listed = list(files)
    sample = listed[:: max(1, len(listed) // 20)]

    def share(folder: Path) -> int:
        finder = ImageFinder(folder)
        return sum(_is_there(finder, file) for file in sample)

    if not sample or share(root):
        return root
    around = root.absolute().parent
    if any(file.startswith(f"{root.absolute().name}/") for file in sample) and share(around):
        return around
    below = _folders(root)
    below += [inner for folder in below[:50] for inner in _folders(folder)[:50]]
    for places in (below[:200], list(_in_archives(root))):
        shares = {place: found for place in places if (found := share(place))}
        best = max(shares, key=shares.__getitem__, default=root)
        if shares.get(best) == len(sample) or len(shares) == 1:  # in evaluation some of the images may be missing
            return best
    if root.name.lower() in LABEL_FOLDERS and (beside := find_image_root(root.parent, files)) != root.parent:
        return beside
    return root.parent if root.name.lower() in LABEL_FOLDERS and share(root.parent) else root


def find_by_name(root: Path, images: Collection[str]) -> dict[str, str]:
    """Return where images that are listed by their bare name lie, in several folders below the root (ChestX-ray14).

    A name that several files have is left out, as is one that no file has.
    """
    bare = {image for image in images if "/" not in image and "\\" not in image}
    found: dict[str, str] = {}
    twice: set[str] = set()
    for place, folders, files in walk(root):
        folders[:] = [folder for folder in folders if not folder.startswith(".") and folder.lower() not in NO_DATA]
        for file in bare.intersection(files):
            if file in found:
                twice.add(file)
            found[file] = os.path.relpath(os.path.join(place, file), root)  # noqa: PTH118
    return {image: path for image, path in found.items() if image not in twice}


def _folders(place: Path) -> list[Path]:
    return [place / name for name in storage.entries(place)[0] if not name.startswith(".")]


def _in_archives(root: Path) -> Iterator[Path]:
    """Yield the archives in a folder, each with the folders in it."""
    for archive in storage.archives_in(root)[:20]:
        try:
            folders = _folders(archive)[:50]
        except DataError:  # damaged
            continue
        yield archive
        for folder in folders:
            yield folder
            yield from _folders(folder)[:50]


def _is_there(finder: ImageFinder, file: str) -> bool:
    try:
        return storage.exists(Path(finder.root, finder.find(file)))
    except DataError:  # several files fit a name without a suffix
        return True
