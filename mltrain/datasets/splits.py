"""What every reader shares: the splits of a dataset, the checks on them, one log line and one kind of error."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.progress import track

log = logging.getLogger(__name__)

SHOWN = 5


class Splits(NamedTuple):
    """The LabelSets of one dataset; all have the same classes in the same order."""

    train: LabelSet
    val: LabelSet
    test: LabelSet | None = None


def log_labels(labels: LabelSet) -> LabelSet:
    """Log what a reader found, in one line; returns its argument."""
    rows, cols = labels.positive_pairs()
    n, c = len(labels), labels.num_classes
    counts = np.bincount(cols, minlength=c)
    empty = [labels.class_names[k] for k in np.flatnonzero(counts == 0)]
    message = f"{labels.name}: {n} images, {c} classes, {len(rows) / max(n, 1):.2f} labels per image"
    bare = int(np.count_nonzero(np.bincount(rows, minlength=n) == 0))
    if bare:
        message += f", {bare} images without a positive"
    if not labels.fully_labelled:
        message += ", partially labelled (unknown targets are -1)"
    if empty:
        message += f", {len(empty)} classes without positives ({_some(empty)})"
    log.info(message)
    return labels


def require_paths(what: str, paths: Sequence[str | os.PathLike[str]], how: str) -> None:
    """Raise one DataError that lists every expected path, found or missing, and how to get what is missing.

    Args:
        what: the dataset, starts the message.
        paths: files or folders that must exist.
        how: where to get them, and which key points elsewhere.
    """
    places = list(dict.fromkeys(Path(path).absolute() for path in paths))
    found = [place.exists() for place in places]
    if all(found):
        return
    lines = [f"{what}: {found.count(False)} of {len(found)} expected paths are missing"]
    lines += [f"  {'found  ' if ok else 'missing'}  {place}" for ok, place in zip(found, places, strict=True)]
    raise DataError("\n".join([*lines, how]))


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """(number, text without white space at its ends) of every line that is not blank.

    Raises:
        DataError: the file is not UTF-8, or cannot be read.
    """
    place = Path(path)
    try:
        with place.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                text = line.strip()
                if text:
                    yield number, text
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror})") from error


def hold_out(labels: LabelSet, fraction: float, seed: int, name: str) -> tuple[LabelSet, LabelSet]:
    """Part a share of the images, called `name`, from the others: (the others, the share), in the order of `labels`.

    Which ones is decided by a hash of `seed` and the file, so the order of the images does not matter, and adding
    some moves few of the others.

    Raises:
        ValueError: not 0 < fraction < 1.
        DataError: one part would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    n = len(labels)
    count = round(n * fraction)
    if not 0 < count < n:
        raise DataError(f"{labels.name}: a share of {fraction:g} of its {n} images leaves train or val empty")
    keys = [hashlib.sha256(f"{seed}\0{labels.file(i)}".encode()).digest() for i in range(n)]
    held = np.zeros(n, dtype=bool)
    held[sorted(range(n), key=keys.__getitem__)[:count]] = True
    return labels.select(np.flatnonzero(~held)), labels.select(np.flatnonzero(held), name)


def treat_unlabelled(labels: LabelSet, policy: Literal["drop", "negative", "unknown"]) -> LabelSet:
    """What becomes of the images of a fully labelled set that have no positive.

    Args:
        labels: any LabelSet; an image is meant when it has no positive.
        policy: drop leaves such images out, negative keeps their targets as they are, unknown makes all of them -1.

    Raises:
        ValueError: another policy.
    """
    if policy not in ("drop", "negative", "unknown"):
        raise ValueError(f"unlabelled must be drop, negative or unknown, got {policy!r}")
    n = len(labels)
    counts = np.bincount(labels.positive_pairs()[0], minlength=n)
    bare = np.flatnonzero(counts == 0)
    if policy == "negative" or not len(bare):
        return labels
    log.info(
        "%s: %d images without a label: %s (dataset.unlabelled=%s)",
        labels.name,
        len(bare),
        "left out" if policy == "drop" else "all their targets are unknown",
        policy,
    )
    if policy == "drop":
        return labels.select(np.flatnonzero(counts))
    targets = labels.dense()
    targets[bare] = -1
    return LabelSet.from_dense(
        name=labels.name,
        root=labels.root,
        files=[labels.file(i) for i in range(n)],
        class_names=labels.class_names,
        targets=targets,
    )


def check_files(labels: LabelSet) -> None:
    """Check that the file of every image exists, before hours of training stand on it.

    Each folder is listed once in place of one `stat` per image.

    Raises:
        DataError: files are missing: the first 5, how many, and the folder they were expected in.
    """
    folders: dict[str, _Folder] = {}
    missing: list[str] = []
    for i in track(range(len(labels)), f"{labels.name}: looking for files", len(labels), unit="images"):
        file = labels.file(i)
        parent, _, name = file.rpartition("/")
        folder = folders.get(parent)
        if folder is None:
            folder = folders[parent] = _Folder(Path(labels.root, parent))
        if name not in folder.inodes:
            missing.append(file)
    if not missing:
        return
    root = Path(labels.root).absolute()
    advice = "check dataset.root" if root.is_dir() else "the folder does not exist: check dataset.root"
    shown = "".join(f"\n  {file}" for file in missing[:SHOWN])
    more = f"\n  ... and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    raise DataError(
        f"{labels.name}: {len(missing)} of {len(labels)} image files are missing, expected under {root} ({advice}):"
        f"{shown}{more}"
    )


def check_one_label(labels: LabelSet) -> None:
    """Check that every image has exactly one label, or an unknown one: no positive, and not all others negative.

    Raises:
        DataError: how many images have not, the first 5 with their labels; or there is but one class.
    """
    if labels.num_classes < 2:
        raise DataError(f"{labels.name}: {labels.num_classes} class; task=single_label needs at least 2 to tell apart")
    n = len(labels)
    counts = np.bincount(labels.positive_pairs()[0], minlength=n)
    bare = [i for i in np.flatnonzero(counts == 0).tolist() if not (labels.targets(i) < 0).any()]
    wrong = np.union1d(np.flatnonzero(counts > 1), np.asarray(bare, dtype=np.int64))
    if not len(wrong):
        return
    lines = []
    for i in wrong[:SHOWN].tolist():
        names = [labels.class_names[c] for c in np.flatnonzero(labels.targets(i) == 1)]
        lines.append(f"\n  {labels.file(i)}: {_some(names) if names else 'no label'}")
    more = f"\n  ... and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    raise DataError(
        f"{labels.name}: {len(wrong)} of {n} images have not exactly one label, as task=single_label needs; set "
        f"task=multi_label and a loss such as loss=asl, or mend the labels:{''.join(lines)}{more}"
    )


def check_splits(splits: Splits) -> None:
    """Check that no image of the validation or test set is trained on, and that all sets have the same classes.

    Two images are the same when their paths are, symbolic links resolved, or when they are hard links to one file.
    Missing files are compared by path. The validation and the test set may share images.

    Raises:
        DataError: how many images are shared, and a few of them; or the classes differ.
    """
    train = splits.train
    held_out = [labels for labels in (splits.val, splits.test) if labels is not None]
    for other in held_out:
        if other.class_names != train.class_names:
            only = sorted(set(other.class_names) ^ set(train.class_names))
            reason = f"in one only: {_some(only)}" if only else "same names in another order"
            raise DataError(f"{other.name} and {train.name} have different classes ({reason})")
    # Only the held-out images are kept in memory: a training set can have millions.
    paths: set[str] = set()
    by_inode: dict[tuple[int, int], set[str]] = {}
    for other in held_out:
        for image in _located(other):
            paths.add(image.path)
            if image.inode is not None:
                by_inode.setdefault(image.inode, set()).add(image.path)
    trained_on: set[str] = set()
    for image in _located(train):
        if image.path in paths:
            trained_on.add(image.path)
        if image.inode in by_inode:
            # Asked again: some file systems list made-up inode numbers.
            trained_on.update(path for path in by_inode[image.inode] if Path(path).samefile(image.path))
    for other in held_out:
        shared = [image.file for image in _located(other) if image.path in trained_on]
        if shared:
            listed = "".join(f"\n  {file}" for file in shared[:SHOWN])
            raise DataError(
                f"{other.name} shares {len(shared)} of its {len(other)} images with {train.name}, so its figures would "
                f"be those of the training set. Give each image to one split. Shared, for example:{listed}"
            )


class _Image(NamedTuple):
    file: str
    """as listed"""
    path: str
    """symbolic links resolved"""
    inode: tuple[int, int] | None
    """(device, inode) as the folder lists it; None: there is no such file"""


def _located(labels: LabelSet) -> Iterator[_Image]:
    """Every image with its place on disk, in order; reads each folder once and opens no image."""
    folders: dict[str, _Folder] = {}
    for i in track(range(len(labels)), f"{labels.name}: images in other splits", len(labels), unit="images"):
        file = labels.file(i)
        parent, _, name = file.rpartition("/")
        folder = folders.get(parent)
        if folder is None:
            folder = folders[parent] = _Folder(Path(labels.root, parent))
        path = folder.links.get(name) or f"{folder.path}{os.sep}{name}"
        inode = folder.inodes.get(name)
        device = folder.devices.get(name, folder.device)
        yield _Image(file, path, None if inode is None else (device, inode))


class _Folder:
    """Files in a folder: their inodes by name, and where the symbolic links among them lead."""

    def __init__(self, folder: Path) -> None:
        self.path = os.path.realpath(folder)
        self.device = 0
        self.inodes: dict[str, int] = {}
        self.links: dict[str, str] = {}
        self.devices: dict[str, int] = {}
        """of what the links lead to"""
        try:
            self.device = folder.stat().st_dev
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        self.links[entry.name] = os.path.realpath(entry.path)
                        if entry.is_file():
                            status = entry.stat()
                            self.inodes[entry.name], self.devices[entry.name] = status.st_ino, status.st_dev
                    elif not entry.is_dir():
                        self.inodes[entry.name] = entry.inode()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise DataError(f"{folder.absolute()}: cannot be listed ({error.strerror})") from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
