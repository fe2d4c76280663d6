"""Building a long-tailed subset of a LabelSet: curve, targets, held-out validation part, choice of images."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mltrain.errors import DataError
from mltrain.labels import LabelSet, LabelStats, compress
from mltrain.longtail import curves
from mltrain.longtail.fill import Chooser
from mltrain.longtail.options import LongTailOptions
from mltrain.longtail.published import published_selection
from mltrain.longtail.split import write_split
from mltrain.text import counted, first_few, first_lines, part_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LongTail:
    """A long-tailed subset, not yet written."""

    name: str
    train: LabelSet
    val: LabelSet | None
    stats: LabelStats
    """label statistics of `train`"""
    source_counts: np.ndarray
    """int64 (C,): images of each class in the source"""
    targets: np.ndarray
    """int64 (C,): wanted training images of each class"""
    manifest: dict[str, Any]

    def write(
        self,
        folder: str | os.PathLike[str],
        *,
        test: LabelSet | None = None,
        finish: Callable[[Path], None] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the split folder atomically; see `write_split`."""
        return write_split(
            folder,
            train=self.train,
            val=self.val,
            test=test,
            source_counts=self.source_counts,
            targets=self.targets,
            head_min=self.stats.head_min,
            medium_min=self.stats.medium_min,
            manifest=self.manifest,
            finish=finish,
            overwrite=overwrite,
        )


def build_longtail(source: LabelSet, options: LongTailOptions | None = None, *, name: str | None = None) -> LongTail:
    """Choose a long-tailed training set, and a validation part disjoint from it, from the images of `source`.

    Every image brings all its labels, so not every curve can be met: compare `stats.positives` with `targets`. The
    training set has no image without a positive label. The same source, options and seed give the same images;
    ``balanced`` keeps them in the order of the source.

    Args:
        source: images to choose from.
        options: see `LongTailOptions`.
        name: name of the subset; default: made from the options.

    Raises:
        DataError: a class has fewer images than wanted, `counts` does not fit the classes, or no image is wanted.
    """
    options = options or LongTailOptions()
    name = name or default_name(options)
    stats = LabelStats.from_labels(source)
    rows, cols = source.positive_pairs()
    if not len(rows):
        raise DataError(f"{source.name}: no image has a positive label, there is nothing to choose")
    order = curves.class_order(stats.cooccurrence, options.order)
    targets = _targets(source, options, stats.positives, order)
    log.info("choosing among %s of %s", counted(len(source), "image"), counted(source.num_classes, "class"))

    def chooser(purpose: int, taken: np.ndarray) -> Chooser:
        made = Chooser(rows, cols, num_images=len(source), num_classes=source.num_classes, seed=[options.seed, purpose])
        made.free[taken] = False
        return made

    if options.method == "published":
        parts = np.split(cols, np.searchsorted(rows, np.arange(1, len(source))))
        train = published_selection(
            [part.tolist() for part in parts], order.tolist(), targets.tolist(), seed=options.seed
        )
        left = stats.positives - np.bincount(cols[np.isin(rows, train)], minlength=source.num_classes)
        val = _hold_out(source, options, chooser(1, train), left)
    else:
        val = _hold_out(source, options, chooser(1, np.empty(0, dtype=np.int64)), stats.positives - targets)
        train = _balanced(source, options, chooser(0, val), targets)
    if not len(train):
        zero = np.count_nonzero(targets == 0)
        raise DataError(f"{source.name}: no image fits the targets, of which {zero} of {len(targets)} are 0")
    train_labels = source.select(train, name=f"{name}/train")
    manifest = {
        "name": name,
        "source": {
            "name": source.name,
            "images": len(source),
            "classes": source.num_classes,
            "fingerprint": source.fingerprint(),
        },
        "method": options.method,
        "seed": options.seed,
        "parameters": {item.name: getattr(options, item.name) for item in fields(LongTailOptions)},
    }
    longtail = LongTail(
        name=name,
        train=train_labels,
        val=source.select(val, name=f"{name}/val") if len(val) else None,
        stats=LabelStats.from_labels(train_labels, options.head_min, options.medium_min),
        source_counts=stats.positives,
        targets=targets,
        manifest=manifest,
    )
    _log(longtail)
    return longtail


def joined(train: LabelSet, val: LabelSet, *, name: str) -> LabelSet:
    """Join two sets, sorted by file as VOC's trainval.txt is; paths are relative to a common folder.

    Raises:
        ValueError: the sets differ in classes or fill, or have no common folder.
    """
    if (train.class_names, train.fill) != (val.class_names, val.fill):
        raise ValueError(f"{train.name} and {val.name} differ in classes or fill: they cannot be joined")
    root = train.root if train.root == val.root else os.path.commonpath([train.root, val.root])
    files = []
    for part in (train, val):
        inner = PurePosixPath(os.path.relpath(part.root, root) if part.root != root else "")
        files += [str(inner / file) for file in part.files]
    (rows, columns, values), (more_rows, *more) = train.listed(), val.listed()
    rows = np.concatenate([rows, more_rows + len(train)])
    columns, values = np.concatenate([columns, more[0]]), np.concatenate([values, more[1]])
    pairs = compress(rows, columns, values, len(files))
    both = LabelSet(name=name, root=root, files=files, class_names=train.class_names, fill=train.fill, **pairs)
    return both.select(np.argsort(np.array(files), kind="stable"))


def below_root_of(source: LabelSet, labels: LabelSet) -> LabelSet | None:
    """Return the same images with paths relative to the root of `source`; None if classes or fill differ."""
    if (labels.class_names, labels.fill) != (source.class_names, source.fill):
        return None
    inner = os.path.relpath(labels.root or ".", source.root or ".")
    rows, columns, values = labels.listed()
    return LabelSet(
        name=labels.name,
        root=source.root,
        files=labels.files if inner == "." else [str(PurePosixPath(inner) / file) for file in labels.files],
        class_names=labels.class_names,
        fill=labels.fill,
        **compress(rows, columns, values, len(labels)),
    )


def default_name(options: LongTailOptions) -> str:
    """Name a subset by its options, e.g. `pareto_max800_min1_b6_seed0` or `exponential_all_min4_cap300_seed0`."""
    parts = [options.curve if options.method == "balanced" else f"published_{options.curve}".removesuffix("_pareto")]
    if options.curve != "explicit":
        parts += ["all" if options.max is None else f"max{options.max}", f"min{options.min}"]
    if options.curve == "pareto":
        parts.append(f"b{options.b:g}")
    usual = LongTailOptions(seed=options.seed)
    if options.order != usual.order:
        parts.append(options.order)
    for key, short in (("cap", "cap"), ("at_least", "least"), ("val_fraction", "val"), ("val_per_class", "valper")):
        if getattr(options, key) != getattr(usual, key):
            parts.append(f"{short}{getattr(options, key)}")
    return "_".join([*parts, f"seed{options.seed}"])


def _targets(source: LabelSet, options: LongTailOptions, positives: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the wanted training images of each class, (C,), which are available, or raise DataError."""
    available = positives - _reserved(options, positives)
    if options.counts is not None:
        targets = curves.explicit(source.class_names, options.counts)
    else:
        most = int(available[order[0]]) if options.max is None else options.max
        targets = np.empty(source.num_classes, dtype=np.int64)
        targets[order] = _curve(options, source.num_classes, most)
    targets = np.maximum(targets, options.at_least)
    targets = targets if options.cap is None else np.minimum(targets, options.cap)
    short = np.flatnonzero(targets > available)
    if not len(short):
        return targets
    problem = f"{source.name}: {part_of(len(short), source.num_classes, 'class', 'have')} fewer images than wanted"
    if options.shortage == "clip":
        log.warning("%s; their targets are lowered", problem)
        return np.minimum(targets, available)
    lines = []
    for k in short[np.argsort(available[short] - targets[short], kind="stable")]:
        held = f" less {positives[k] - available[k]} for validation" if available[k] < positives[k] else ""
        lines.append(f"{source.class_names[k]}: {counted(positives[k], 'image')}{held}, {targets[k]} wanted")
    raise DataError(
        f"{problem}:{first_lines(lines)}\n"
        f"{_advice(options, order, available)}, or lower the targets of these classes with shortage=clip"
    )


def _curve(options: LongTailOptions, c: int, most: int) -> np.ndarray:
    least = min(options.min, most)
    if options.curve == "pareto":
        return curves.pareto(c, max=most, min=least, b=options.b)
    return curves.exponential(c, max=most, min=least)


def _reserved(options: LongTailOptions, positives: np.ndarray) -> np.ndarray:
    """Return the number of images per class that are reserved for validation, (C,): at least 1 if the class has 2."""
    if options.method == "published" or (options.val_fraction == 0 and options.val_per_class is None):
        return np.zeros_like(positives)
    share = 0 if options.val_per_class is not None else options.val_fraction
    return np.where(positives >= 2, np.maximum(np.rint(positives * share).astype(np.int64), 1), 0)


def _advice(options: LongTailOptions, order: np.ndarray, available: np.ndarray) -> str:
    """Say how to meet the curve: with the largest max that all classes have images for, if there is one."""
    if options.curve == "explicit":
        return "Lower counts"
    if options.at_least > available.min():
        return f"Lower at_least to {available.min()}"
    if (most := _largest_max(options, order, available)) is not None:
        return f"All classes have enough images for max={most}"
    rarest = int(available.min())
    if rarest >= (1 if options.curve == "exponential" else 0):
        fewer = dataclasses.replace(options, min=rarest, max=None)
        if (most := _largest_max(fewer, order, available)) is not None:
            return f"All classes have enough images for min={rarest} max={most}"
    return f"No curve fits: the rarest class has {counted(rarest, 'image')} for training"


def _largest_max(options: LongTailOptions, order: np.ndarray, available: np.ndarray) -> int | None:
    """Return the largest max for which every class has enough images, or None where there is none above min."""
    low, high = options.min, int(available.max())
    while low < high:
        middle = (low + high + 1) // 2
        if (_curve(options, len(order), middle) <= np.maximum(available[order], options.at_least)).all():
            low = middle
        else:
            high = middle - 1
    return low if low > options.min else None


def _hold_out(source: LabelSet, options: LongTailOptions, chooser: Chooser, spare: np.ndarray) -> np.ndarray:
    """Choose validation images: the share of every class, as far as training can spare it, and of unlabelled images.

    Args:
        spare: (C,): images of each class that training does not need.
    """
    if options.val_fraction == 0 and options.val_per_class is None:
        return np.empty(0, dtype=np.int64)
    sizes = np.array([len(members) for members in chooser.members])
    if options.val_per_class is not None:
        chooser.fill(np.minimum(options.val_per_class, spare), spare)
    else:
        wanted = np.minimum(np.maximum(np.rint(sizes * options.val_fraction).astype(np.int64), 1), spare)
        chooser.fill(wanted, wanted)
        chooser.lift(np.minimum(1, wanted), wanted, spare)
        bare = np.flatnonzero(np.diff(chooser.indptr) == 0)
        held = chooser.rng.permutation(bare)[: round(len(bare) * options.val_fraction)]
        chooser.chosen[held] = True
    empty = [source.class_names[k] for k in np.flatnonzero((chooser.counts == 0) & (sizes > 0))]
    if empty:
        log.warning(
            f"{part_of(len(empty), source.num_classes, 'class', 'have')} no validation image, because training "
            "needs them all: "
            f"{first_few(empty)}"
        )
    return np.flatnonzero(chooser.chosen)


def _balanced(source: LabelSet, options: LongTailOptions, chooser: Chooser, targets: np.ndarray) -> np.ndarray:
    caps = np.full(len(targets), np.iinfo(np.int64).max if options.cap is None else options.cap)
    floors = np.minimum(options.at_least, targets)
    chooser.fill(targets, targets)
    chooser.lift(floors, targets, caps)
    chooser.improve(targets, floors, caps)
    below = np.flatnonzero(chooser.counts < floors)
    if len(below):
        lines = [
            f"{source.class_names[k]}: {chooser.counts[k]} reached, {floors[k]} wanted, {len(chooser.members[k])} in "
            "the source"
            for k in below
        ]
        raise DataError(
            f"{source.name}: at_least={options.at_least} cannot be met together with cap={options.cap}, because images "
            f"of these classes also show capped ones:{first_lines(lines)}\nRaise cap, or lower at_least"
        )
    return np.flatnonzero(chooser.chosen)


def _log(longtail: LongTail) -> None:
    counts, targets = longtail.stats.positives, longtail.targets
    miss = np.abs(counts - targets) / np.maximum(targets, 1)
    groups = ", ".join(f"{name} {len(index)}" for name, index in longtail.stats.group_indices().items())
    log.info(
        f"{longtail.name}: {counted(len(longtail.train), 'training image')}, {counted(counts.sum(), 'label')}, "
        f"classes from {counts.max()} to {counted(counts.min(), 'image')}; {groups}"
    )
    exact, worst = int(np.count_nonzero(miss == 0)), int(miss.argmax())
    if exact == len(counts):
        log.info("%s exactly the wanted number of images", part_of(exact, exact, "class", "have"))
    else:
        log.info(
            f"{part_of(exact, len(counts), 'class', 'have')} exactly the wanted number of images; "
            f"{100 * miss.mean():.1f} % off "
            f"on average, most at {longtail.train.class_names[worst]}: {counts[worst]} for {targets[worst]}"
        )
    if longtail.val is not None:
        log.info("validation part: %s, not trained on", counted(len(longtail.val), "image"))
