"""The splits of a data set: assembling them, holding out a validation set, and checks before training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mltrain import storage
from mltrain.datasets.image_files import check_files as check_files  # it was here once
from mltrain.datasets.image_files import located
from mltrain.datasets.reading import check_choice
from mltrain.datasets.reading import require_paths as require_paths  # docs/datasets.md imports it from here
from mltrain.errors import DataError
from mltrain.labels import LabelSet, match_classes
from mltrain.seeding import hashed_order
from mltrain.text import counted, first_few, first_lines, part_of

log = logging.getLogger(__name__)


class Undivided(float):
    """A `val_fraction` for which readers leave all images in train and look for no val: `division` draws val later."""


class Splits(NamedTuple):
    """The LabelSets of one data set; all have the same classes in the same order."""

    train: LabelSet
    val: LabelSet
    test: LabelSet | None = None


def make_splits(name: str, parts: Mapping[str, LabelSet], *, val_fraction: float = 0.0, split_seed: int = 0) -> Splits:
    """Assemble the splits of a data set and log what each holds.

    Args:
        name: name of the data set.
        parts: LabelSets by split: "train", and "val", "test" or both. Without val, the test set stands in for it.
            Without train, which only evaluation allows, the training set has no images.
        val_fraction: above 0, val is this share of train (see `hold_out`).
        split_seed: seed of that choice.
    """
    val, test = parts.get("val"), parts.get("test")
    train = parts["train"] if "train" in parts else without_train(name, val or parts["test"])
    if val_fraction > 0:
        train, val = hold_out(train, val_fraction, split_seed, name)
        if isinstance(val_fraction, Undivided):
            return Splits(train, val, test)
    elif val is None:
        log.info("%s: no validation set, so test stands in for it; dataset.val_fraction=0.1 holds one out", name)
        val, test = parts["test"], None
    for labels in (train, val, test):
        if labels is not None and len(labels):
            log_labels(labels)
    return Splits(train, val, test)


def without_train(name: str, labels: LabelSet) -> LabelSet:
    """Return a training set without images, with the classes of `labels`, and say so."""
    log.info("%s: there are no training images, which evaluation does not need", name)
    return labels.select([], f"{name}/train")


def split_paths(
    root: str, train: str, val: str, test: str | None, val_fraction: float, *, need_train: bool = True
) -> dict[str, Path]:
    """Return the path of each split below `root`; val has none if it is a share of train.

    Without `need_train`, a path of train that does not exist is left out.
    """
    check_fraction(val_fraction)
    names = {"train": train, "val": None if val_fraction > 0 else val, "test": test}
    paths = {part: Path(root, name) for part, name in names.items() if name is not None}
    if not need_train and val_fraction == 0 and not storage.exists(paths["train"]):
        del paths["train"]
    return paths


def check_fraction(val_fraction: float) -> None:
    """Raise ValueError unless the share of train that becomes val is possible; 0 means none."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")


def hold_out(
    labels: LabelSet, fraction: float, seed: int, name: str, keys: Sequence[str] | None = None
) -> tuple[LabelSet, LabelSet]:
    """Return (train, val): `fraction` of the images as val, all others as train, both in the order of `labels`.

    A hash of `seed` and the image chooses, so the order of the images does not matter, and adding images moves few of
    the others.

    Args:
        labels: images to divide.
        fraction: share of val, above 0 and below 1; an `Undivided` leaves val empty.
        seed: seed of the choice.
        name: name of the data set; the parts are called NAME/train and NAME/val.
        keys: one per image, to be hashed; default: the image files.

    Raises:
        ValueError: not 0 < fraction < 1.
        DataError: one part would be empty.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, got {fraction}")
    if isinstance(fraction, Undivided):
        return labels.select(np.arange(len(labels)), f"{name}/train"), labels.select([], f"{name}/val")
    count = round(len(labels) * fraction)
    if not 0 < count < len(labels):
        raise DataError(
            f"{name}: dataset.val_fraction={fraction:g} of {len(labels)} training images leaves train or val empty"
        )
    held = np.zeros(len(labels), dtype=bool)
    held[hashed_order(seed, labels.files if keys is None else keys)[:count]] = True
    return labels.select(np.flatnonzero(~held), f"{name}/train"), labels.select(np.flatnonzero(held), f"{name}/val")


def in_class_order(splits: Splits, class_names: Sequence[str]) -> Splits:
    """Return the splits with the classes `class_names`, or unchanged if the classes differ.

    Classes are matched by name (`match_classes`): the order may differ, and case, spaces, underscores and hyphens.
    Without training images, which evaluation does not need, classes that the other splits lack are added: no image has
    them.
    """
    own = splits.train.class_names
    if own == tuple(class_names):
        return splits
    pairs = match_classes(own, class_names)
    if len(pairs) < len(own) or (len(own) < len(class_names) and len(splits.train)):
        return splits
    spelled = [class_names[pairs[k]] for k in range(len(own))]
    others = [f"{mine} as {theirs}" for mine, theirs in zip(own, spelled, strict=True) if mine != theirs]
    if others:
        log.info(
            "%s: %s spelled as in the model: %s",
            splits.train.name,
            counted(len(others), "class", "are"),
            first_few(others),
        )
    if spelled != list(class_names):
        log.info("%s: classes put in the order of the model's %d", splits.train.name, len(class_names))
    train, val, test = (None if labels is None else labels.with_classes(class_names, pairs) for labels in splits)
    assert train is not None and val is not None
    return Splits(train, val, test)


def log_labels(labels: LabelSet) -> LabelSet:
    """Log the contents of a LabelSet in one line; return it."""
    rows, cols = labels.positive_pairs()
    n, c = len(labels), labels.num_classes
    counts = np.bincount(cols, minlength=c)
    empty = [labels.class_names[k] for k in np.flatnonzero(counts == 0)]
    message = (
        f"{labels.name}: {counted(n, 'image')}, {counted(c, 'class')}, {len(rows) / max(n, 1):.2f} labels per image"
    )
    bare = int(np.count_nonzero(np.bincount(rows, minlength=n) == 0))
    if bare:
        message += f", {counted(bare, 'image')} without a positive"
    if not labels.fully_labelled:
        message += ", partially labelled (unknown targets are -1)"
    if empty:
        message += f", {counted(len(empty), 'class')} without positives ({first_few(empty)})"
    log.info(message)
    return labels


def treat_unlabelled(labels: LabelSet, policy: Literal["drop", "negative", "unknown"]) -> LabelSet:
    """Return a LabelSet with a policy applied to its images without a positive.

    Args:
        labels: any LabelSet.
        policy: drop leaves such images out, negative keeps their targets, unknown makes all their targets -1.

    Raises:
        ValueError: `policy` is none of the three.
    """
    check_choice("unlabelled", policy, ("drop", "negative", "unknown"))
    n = len(labels)
    counts = np.bincount(labels.positive_pairs()[0], minlength=n)
    bare = np.flatnonzero(counts == 0)
    if policy == "negative" or not len(bare):
        return labels
    effect = "left out" if policy == "drop" else "all their targets are unknown"
    log.info(
        "%s: %s without a label: %s (dataset.unlabelled=%s)", labels.name, counted(len(bare), "image"), effect, policy
    )
    if policy == "drop":
        return labels.select(np.flatnonzero(counts))
    targets = labels.dense()
    targets[bare] = -1
    return LabelSet.from_dense(
        name=labels.name, root=labels.root, files=labels.files, class_names=labels.class_names, targets=targets
    )


def check_one_label(labels: LabelSet) -> None:
    """Check that every image has exactly one label; an image without a positive passes if some target is unknown.

    Raises:
        DataError: images have another number of labels (the message has their number and the first 5), or there are
            fewer than two classes.
    """
    if labels.num_classes < 2:
        raise DataError(f"{labels.name}: {labels.num_classes} class; task=single_label needs at least 2")
    n = len(labels)
    counts = np.bincount(labels.positive_pairs()[0], minlength=n)
    bare = [i for i in np.flatnonzero(counts == 0).tolist() if not (labels.targets(i) < 0).any()]
    wrong = np.union1d(np.flatnonzero(counts > 1), np.asarray(bare, dtype=np.int64))
    if not len(wrong):
        return
    lines = []
    for i in wrong.tolist():
        names = [labels.class_names[c] for c in np.flatnonzero(labels.targets(i) == 1)]
        lines.append(f"{labels.file(i)}: {first_few(names) if names else 'no label'}")
    raise DataError(
        f"{labels.name}: {part_of(len(wrong), n, 'image', 'have')} not exactly one label, as task=single_label "
        "needs; set "
        f"task=multi_label and a loss such as loss=asl, or fix the labels:{first_lines(lines)}"
    )


def check_splits(splits: Splits) -> None:
    """Check that no image of the validation or test set is trained on, and that all sets have the same classes.

    Two images are the same when their paths are, symbolic links resolved, or when they are hard links to one file.
    Missing files are compared by path. The validation and the test set may share images.

    Raises:
        DataError: sets share images (the message has their number and the first 5), or their classes differ.
    """
    train = splits.train
    held_out = [labels for labels in (splits.val, splits.test) if labels is not None]
    for other in held_out:
        if other.class_names != train.class_names:
            only = sorted(set(other.class_names) ^ set(train.class_names))
            reason = f"in one only: {first_few(only)}" if only else "same names in another order"
            raise DataError(f"{other.name} and {train.name} have different classes ({reason})")
    # Only the held-out images are kept in memory: a training set can have millions.
    paths: set[str] = set()
    by_inode: dict[tuple[int, int], set[str]] = {}
    for other in held_out:
        for image in located(other):
            paths.add(image.path)
            if image.inode is not None:
                by_inode.setdefault(image.inode, set()).add(image.path)
    trained_on: set[str] = set()
    for image in located(train):
        if image.path in paths:
            trained_on.add(image.path)
        if image.inode in by_inode:
            # Compare again by `stat`: some file systems list made-up inode numbers.
            trained_on.update(path for path in by_inode[image.inode] if storage.same_file(path, image.path))
    for other in held_out:
        shared = [image.file for image in located(other) if image.path in trained_on]
        if shared:
            raise DataError(
                f"{other.name} shares {len(shared)} of its {counted(len(other), 'image')} with {train.name}, so its "
                "figures would "
                f"be those of the training set. Give each image to one split. Shared, for example:{first_lines(shared)}"
            )
