"""List files: one line per image with its path and class indices, or with its path alone.

bus/0001.jpg 3                the line of a single-label set (SD-198, long-tailed ImageNet)
0002.jpg 0 17 42              several classes; commas work too, and a path may contain spaces
airport_inside/0003.jpg       `labels=folder`: the class is the folder of the image (MIT-67)
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from mltrain.datasets.names import ImageFinder, Spellings, distinct_spellings, one_spelling, warn_of_case
from mltrain.datasets.reading import check_choice, read_class_names, read_lines, require_paths
from mltrain.datasets.splits import Splits, make_splits, split_paths
from mltrain.errors import DataError
from mltrain.labels import LabelSet

LINE = re.compile(r"(.*?)((?:[\s,]+\d+)*)[\s,]*")
HOW = (
    "Expected text files with one line per image, 'path index index ...', or the path alone with "
    "dataset.labels=folder; their names: dataset.train, dataset.val. To use another place: dataset.root=FOLDER"
)


def list_files(
    *,
    name: str = "list",
    root: str,
    train: str = "train.txt",
    val: str = "val.txt",
    test: str | None = None,
    images: str | None = None,
    labels: Literal["indices", "folder"] = "indices",
    classes: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from list files. Classes that a line does not list are negative.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the paths below are relative to.
        train: list file of train.
        val: list file of val.
        test: list file of test; None: no test set.
        images: folder that the paths in the lists are relative to; default: `root`.
        labels: indices: class indices, from 0, follow the path. folder: the whole line is the path, and the folder of
            the image is its class.
        classes: file with one class name per line, in the order of the indices. Default: class_0, class_1, ... up to
            the largest index of any list; with folder, the folders, sorted.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val` is then
            not used.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: a file is missing or broken; the message names the line.
    """
    check_choice("labels", labels, ("indices", "folder"))
    parts = split_paths(root, train, val, test, val_fraction, need_train=need_train)
    place = Path(root, images or ".")
    names = Path(root, classes) if classes else None
    require_paths(name, [*parts.values(), *([place] if images else []), *([names] if names else [])], HOW)
    made = read_lists(parts, images=place, labels=labels, classes=names, name=name)
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def read_lists(
    parts: dict[str, Path],
    *,
    images: str | os.PathLike[str],
    labels: Literal["indices", "folder"] = "indices",
    classes: str | os.PathLike[str] | None = None,
    name: str = "list",
) -> dict[str, LabelSet]:
    """Return one LabelSet per list file; they share their classes. Arguments as for `list_files`."""
    finder = ImageFinder(images)
    lists = {part: _read(path, labels, finder) for part, path in parts.items()}
    given = [classes_of for listed in lists.values() for _, classes_of in listed.values()]
    if classes is not None:
        names = list(read_class_names(classes))
        distinct_spellings(names, classes)
    elif labels == "folder":
        found = Spellings()
        names = sorted(found[key] for key in {found.add(str(label)) for (label,) in given})
    else:
        used = {int(k) for classes_of in given for k in classes_of}
        _check_indices(used, parts)
        names = [f"class_{k}" for k in range(1 + max(used))]
    if labels == "indices":
        _check_not_dense(given, len(names), parts)
    warn_of_case(names, name)
    index = {one_spelling(label) if labels == "folder" else k: k for k, label in enumerate(names)}
    made = {}
    for part, listed in lists.items():
        for line, classes_of in listed.values():
            unknown = [label for label in classes_of if _key(label) not in index]
            if unknown:
                raise DataError(
                    f"{parts[part]}, line {line}: class {unknown[0]} is not one of the {len(names)} of {classes}"
                )
        positives = [[index[_key(label)] for label in classes_of] for _, classes_of in listed.values()]
        made[part] = LabelSet.from_lists(
            name=f"{name}/{part}", root=images, files=list(listed), class_names=names, positives=positives
        )
    return made


def _key(label: int | str) -> int | str:
    return label if isinstance(label, int) else one_spelling(label)


def _check_indices(used: set[int], parts: dict[str, Path]) -> None:
    """Refuse indices of which nearly all are unused: these numbers are no classes. DataError."""
    if max(used) >= 1000 and 20 * len(used) <= max(used):
        files = ", ".join(map(str, parts.values()))
        raise DataError(
            f"{files}: the largest class index is {max(used)}, but only {len(used)} different indices occur, so these "
            "numbers are not indices of classes, which count from 0. Correct the lines, or give the name of every "
            "class in a file, one per line: dataset.classes=FILE"
        )


def _check_not_dense(given: list[Sequence[int | str]], classes: int, parts: dict[str, Path]) -> None:
    """Refuse lines that are a 0 or 1 per class and would be read as the classes 0 and 1. DataError."""
    labelled = [classes_of for classes_of in given if classes_of]
    if classes == 2 and len(labelled) > 1 and all(sorted(classes_of) == [0, 1] for classes_of in labelled):
        files = ", ".join(map(str, parts.values()))
        raise DataError(
            f"{files}: every line has the indices 0 and 1, in some order, which looks like a 0 or 1 per class; as "
            "indices they give every image both classes. Write the indices of the classes that the image has, or use a "
            "csv file with one column per class (image,cat,dog): dataset=csv dataset.file=FILE"
        )


def _read(path: Path, labels: str, finder: ImageFinder) -> dict[str, tuple[int, Sequence[int | str]]]:
    """Return image -> (line, classes by index or name), in the order of the file."""
    listed: dict[str, tuple[int, Sequence[int | str]]] = {}
    first: dict[str, int] = {}  # an absolute and a relative path may lead to the same image
    for line, text in read_lines(path):
        where = f"{path}, line {line}"
        text = text.replace("\\", "/")
        if labels == "folder":
            image = os.path.normpath(text)
            given: list[int | str] = [PurePosixPath(image).parent.name]
            if not given[0]:
                raise DataError(f"{where}: {text!r} lies in no folder that could name its class")
        else:
            match = LINE.fullmatch(text)
            assert match is not None  # it matches any line
            image = os.path.normpath(match[1]) if match[1] else "."
            given = [int(digits) for digits in match[2].replace(",", " ").split()]
            if len(set(given)) != len(given):
                raise DataError(
                    f"{where}: an index is listed twice in {text[:60]!r}; expected the indices of the classes that the "
                    "image has, not a 0 or 1 per class"
                )
        if image == ".":
            raise DataError(f"{where}: no path in {text[:60]!r}")
        image = finder.find(image, where)
        before = first.setdefault(finder.key(image), line)
        if before != line:
            raise DataError(f"{where}: {image} is listed a second time (line {before})")
        listed[image] = (line, given)
    if not listed:
        raise DataError(f"{path}: lists no image")
    if not any(given for _, given in listed.values()):
        raise DataError(
            f"{path}: no line has a class index; with dataset.labels=folder the folder of an image is its class"
        )
    return listed
