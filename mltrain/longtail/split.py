"""The folder that holds a split: its images and labels, their source, and how they were chosen.

    image_ids.txt       training images, one id per line, in order; val_image_ids.txt the same for the validation part
    labels.csv          image,labels,split, which `dataset=csv` reads; the image path is relative to the source's root;
                        rows of the source's test set come along
    classes.txt         class names in the order of the targets
    class_counts.csv    per class: images in the source, target, training images reached, validation images, group
    class_split.json    head, medium, tail: class names
    cooccurrence.npz    training images with both classes (classes x classes, scipy.sparse.load_npz)
    manifest.json       source and hash of its labels, method, parameters, seed, version, numbers; written last

An id is the stem of the image file, or the path if two files share a stem. The folder is written atomically.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

import mltrain
from mltrain.errors import DataError
from mltrain.files import atomic_folder, write_json
from mltrain.labels import GROUP_NAMES, LabelSet, LabelStats, compress
from mltrain.labels.label_table import NEGATIVE, UNKNOWN, separator_of, write_labels

FORMAT = "mltrain split 1"
MANIFEST = "manifest.json"


class Split(NamedTuple):
    """The content of a split folder."""

    train: LabelSet
    val: LabelSet | None
    manifest: dict[str, Any]


def image_ids(files: Sequence[str]) -> list[str]:
    """Return the stem of each image file, or the path without suffix if stems repeat, or the path if even these do."""
    for shorten in (lambda file: PurePosixPath(file).stem, lambda file: str(PurePosixPath(file).with_suffix(""))):
        ids = [shorten(file) for file in files]
        if len(set(ids)) == len(ids):
            return ids
    return list(files)


def write_split(
    folder: str | os.PathLike[str],
    *,
    train: LabelSet,
    val: LabelSet | None = None,
    test: LabelSet | None = None,
    ids: Sequence[str] | None = None,
    val_ids: Sequence[str] | None = None,
    source_counts: Sequence[int] | np.ndarray | None = None,
    targets: Sequence[int] | np.ndarray | None = None,
    head_min: int = 100,
    medium_min: int = 20,
    manifest: Mapping[str, Any],
    finish: Callable[[Path], None] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a split folder atomically; return its path.

    Args:
        folder: must not exist or be empty, unless `overwrite` is set and it holds a split.
        train: training images and targets, in the order of image_ids.txt.
        val: held-out validation part, with the same classes.
        test: test set of the source, with the same classes and root; labels.csv carries it along.
        ids: ids of the training images; default: `image_ids` of both parts together.
        val_ids: ids of the validation images.
        source_counts: (C,) positives of each class in the source; None: not known.
        targets: (C,) positives that were asked for; None: no target.
        head_min: a class with at least so many training positives is head.
        medium_min: a class with fewer, but at least so many, is medium; all others are tail.
        manifest: source, method, parameters, seed ...; the numbers of the split are added.
        finish: called with the temporary folder, to add plots.
        overwrite: replace the split in `folder`.

    Raises:
        ValueError: sizes or classes of the arguments do not fit.
        DataError: the folder is taken or cannot be written, or a class name cannot be stored.
    """
    place = Path(os.path.realpath(folder))
    check_free(place, overwrite=overwrite)
    for other in (val, test):
        if other is not None and (other.class_names != train.class_names or other.fill != train.fill):
            raise ValueError(f"{other.name} and {train.name} must have the same classes and the same fill")
    val_size = 0 if val is None else len(val)
    sizes = {"ids": len(train), "val_ids": val_size, "source_counts": train.num_classes, "targets": train.num_classes}
    for (key, size), given in zip(sizes.items(), (ids, val_ids, source_counts, targets), strict=True):
        if given is not None and len(given) != size:
            raise ValueError(f"{key}: {len(given)} given, expected {size}")
    if ids is None or (val is not None and val_ids is None):
        made = image_ids([*train.files, *(val.files if val is not None else ())])
        ids, val_ids = ids or made[: len(train)], val_ids or made[len(train) :]
    separator = separator_of(train.class_names)
    stats = LabelStats.from_labels(train, head_min, medium_min)
    content = {
        "format": FORMAT,
        **manifest,
        "mltrain": mltrain.__version__,
        "numbers": _numbers(train, val, stats),
        "labels": {
            "name": train.name,
            "root": train.root,
            "fill": train.fill,
            "separator": separator,
            "train_fingerprint": train.fingerprint(),
            "val": None if val is None else {"name": val.name, "fingerprint": val.fingerprint()},
        },
        "head_min": head_min,
        "medium_min": medium_min,
    }
    groups = {name: [train.class_names[k] for k in index] for name, index in stats.group_indices().items()}
    try:
        with atomic_folder(place) as temporary:
            _write_lines(temporary / "image_ids.txt", ids)
            if val is not None:
                _write_lines(temporary / "val_image_ids.txt", val_ids or ())
            _write_lines(temporary / "classes.txt", train.class_names)
            write_labels(temporary / "labels.csv", {"train": train, "val": val, "test": test}, separator)
            val_counts = None if val is None else np.bincount(val.positive_pairs()[1], minlength=val.num_classes)
            columns = (source_counts, targets, stats.positives, val_counts)
            _write_counts(temporary / "class_counts.csv", stats, columns)
            write_json(temporary / "class_split.json", groups)
            sparse.save_npz(temporary / "cooccurrence.npz", stats.cooccurrence)
            if finish is not None:
                finish(temporary)
            write_json(temporary / MANIFEST, content)
    except OSError as error:
        raise DataError(f"cannot write the split {place}: {error.strerror or error}; choose another folder") from error
    return place


def read_split(folder: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> Split:
    """Return the LabelSets of a split folder, equal to those it was written from (same fingerprints).

    Args:
        folder: folder that `write_split` wrote.
        root: folder that the image paths are relative to; None: that of the source when the split was made.

    Raises:
        DataError: a file is missing, damaged or edited; fingerprints in the manifest reveal edits.
    """
    place = Path(folder)
    if not is_split(place):
        raise DataError(f"{place}: holds no split: there is no {MANIFEST} of format {FORMAT!r}")
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        labels = manifest["labels"]
        expected = {"train": (labels["name"], labels["train_fingerprint"])}
        if labels["val"] is not None:
            expected["val"] = (labels["val"]["name"], labels["val"]["fingerprint"])
        names = (place / "classes.txt").read_text(encoding="utf-8").splitlines()
        common = {"root": labels["root"] if root is None else root, "class_names": names, "fill": labels["fill"]}
        made = {}
        for part, (name, _) in expected.items():
            rows = _read_rows(place / "labels.csv", part, names, labels["separator"])
            made[part] = LabelSet(name=name, **common, **rows)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{place}: damaged split ({type(error).__name__}: {error}); make it again") from error
    for part, found in made.items():
        if found.fingerprint() != expected[part][1]:
            raise DataError(
                f"{place}: the {part} rows of labels.csv are not those that were written (fingerprint); make the split "
                f"again, or use the edited file as a data set of its own: dataset=csv dataset.file={place}/labels.csv"
            )
    return Split(made["train"], made.get("val"), manifest)


def is_split(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a split."""
    try:
        return bool(json.loads(Path(folder, MANIFEST).read_text(encoding="utf-8"))["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_free(folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise DataError unless a split may be written to `folder`."""
    place = Path(folder)
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not is_split(place):
        raise DataError(f"{place}: exists and holds no split; it is left alone: choose another folder with out=DIR")
    if not overwrite:
        raise DataError(f"{place}: holds a split already; overwrite=true replaces it, out=DIR writes elsewhere")


def _numbers(train: LabelSet, val: LabelSet | None, stats: LabelStats) -> dict[str, Any]:
    counts = stats.positives
    present = counts[counts > 0]
    numbers: dict[str, Any] = {
        "classes": train.num_classes,
        "train_images": len(train),
        "train_labels": int(counts.sum()),
        "labels_per_image": round(float(counts.sum()) / max(len(train), 1), 4),
        "largest_class": int(counts.max(initial=0)),
        "smallest_class": int(counts.min(initial=len(train))),
        "imbalance": round(float(present.max() / present.min()), 4) if len(present) else None,
        **{name: len(index) for name, index in stats.group_indices().items()},
    }
    if val is not None:
        numbers |= {"val_images": len(val), "val_labels": len(val.positive_pairs()[0])}
    return numbers


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _write_counts(path: Path, stats: LabelStats, columns: Sequence[Sequence[int] | np.ndarray | None]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("class", "source", "target", "train", "val", "group"))
        for k, name in enumerate(stats.class_names):
            cells = ["" if column is None else int(column[k]) for column in columns]
            writer.writerow([name, *cells, GROUP_NAMES[stats.groups[k]]])


def _read_rows(path: Path, part: str, class_names: Sequence[str], separator: str) -> dict[str, Any]:
    """Return `files` and compressed targets of the rows of labels.csv that are train, or of those that are val."""
    known = {name: (k, 1) for k, name in enumerate(class_names)}
    for mark, value in ((NEGATIVE, 0), (UNKNOWN, -1)):
        for k, label in enumerate(class_names):
            known.setdefault(mark + label, (k, value))  # a class whose name begins with the mark comes first
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        next(reader, None)
        rows = [(image, cell.split(separator) if cell else []) for image, cell, split in reader if split == part]
    listed = np.array([known[text] for _, cell in rows for text in cell], dtype=np.int64).reshape(-1, 2)
    images = np.repeat(np.arange(len(rows)), np.array([len(cell) for _, cell in rows], dtype=np.int64))
    return {"files": [image for image, _ in rows], **compress(images, listed[:, 0], listed[:, 1], len(rows))}
