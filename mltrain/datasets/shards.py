"""WebDataset: tar archives of images, each with its labels beside it.

    train-000000.tar    a/0001.jpg  a/0001.cls    the index of its class, or several indices
                        a/0002.jpg  a/0002.json   {"labels": ["cat", "dog"]}
                        a/0003.jpg  a/0003.txt    names, one per line or separated by ";"

Files of one sample share their name up to its first dot (https://github.com/webdataset/webdataset).
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mltrain import storage
from mltrain.datasets.label_values import Rows, label_sets
from mltrain.datasets.names import SUFFIXES
from mltrain.datasets.reading import check_choice, read_class_names, require_paths
from mltrain.datasets.splits import Splits, check_fraction, make_splits
from mltrain.errors import DataError
from mltrain.progress import track
from mltrain.text import first_few, first_lines, part_of

log = logging.getLogger(__name__)

SIDES = ("cls", "json", "txt")
HOW = (
    "Expected WebDataset shards: tar archives with IMAGE.jpg and IMAGE.cls, .json or .txt; their names: dataset.train, "
    "dataset.val. To use another place: dataset.root=FOLDER"
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def webdataset(
    *,
    name: str = "webdataset",
    root: str,
    train: str = "train-*.tar",
    val: str = "val-*.tar",
    test: str | None = None,
    image: str | None = None,
    labels: Literal["cls", "json", "txt"] | None = None,
    key: str = "labels",
    classes: str | None = None,
    separator: str = ";",
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from shards. Classes that a sample does not list are negative.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder of the shards.
        train: shards of train: a name, a pattern (``train-*.tar``), or a range (``train-{000000..000009}.tar``).
        val: shards of val.
        test: shards of test; None: no test set.
        image: suffix of the image, where samples hold several, such as ``jpg``; None: the only one.
        labels: suffix of the labels; None: the only one of cls, json and txt that there is.
        key: key of the labels in a json file.
        classes: file with one class name per line, in the order of the indices.
        separator: separates names in a txt file or a text in json.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val` is then
            not used.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: shards are missing or damaged, or a sample has no label or no image; the message names it.
    """
    check_choice("labels", labels, (*SIDES, None))
    check_fraction(val_fraction)
    require_paths(name, [root, *([classes] if classes else [])], HOW)
    patterns = {"train": train, "val": None if val_fraction > 0 else val, "test": test}
    found = files_of_splits(root, patterns, HOW, need_train=need_train or val_fraction > 0)
    parts = {
        part: _read(root, shards, f"{name}/{part}", image and image.lower(), labels, key, separator)
        for part, shards in found.items()
    }
    names = None if classes is None else list(read_class_names(classes))
    made = label_sets(name, parts, classes=names, separator=separator)
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def files_of_splits(
    root: str, patterns: Mapping[str, str | None], how: str, *, need_train: bool
) -> dict[str, list[str]]:
    """Return the files of each split that has a pattern; without `need_train` those of train may be missing.

    Raises:
        DataError: files are missing.
    """
    given = {part: pattern for part, pattern in patterns.items() if pattern is not None}
    if not need_train and not _matches(root, given["train"]):
        del given["train"]
    return {part: matching(root, pattern, part, how) for part, pattern in given.items()}


def matching(root: str, pattern: str, part: str, how: str) -> list[str]:
    """Return the files that a pattern or a range matches, below `root`, sorted.

    Raises:
        DataError: there is none, or files of a range are missing.
    """
    texts = [pattern]
    while found := _RANGE.search(texts[0]):
        first, last = found[1], found[2]
        numbers = [f"{k:0{len(first)}d}" for k in range(int(first), int(last) + 1)]
        texts = [text.replace(found[0], number, 1) for text in texts for number in numbers]
        if not texts:
            break
    files = [file for text in texts for file in _matches(root, text)]
    missing = [text for text in texts if not _matches(root, text)]
    if missing or not files:
        what = f"{part_of(len(missing), len(texts), 'file', 'are')} missing" if len(texts) > 1 else "no such file"
        raise DataError(f"dataset.{part}={pattern}: {what} in {Path(root).absolute()}:{first_lines(missing)}\n{how}")
    return files


def _matches(root: str, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(root), pattern)))  # noqa: PTH118, PTH207


def _read(
    root: str, shards: Sequence[str], where: str, image: str | None, labels: str | None, key: str, separator: str
) -> Rows:
    """Return the samples of some shards, in the order of shards and names."""
    samples: list[tuple[str, dict[str, str]]] = []
    for shard in shards:
        samples += _samples(root, shard).items()
    counts = Counter(suffix for _, files in samples for suffix in files)
    image_suffixes = [suffix for suffix in counts if f".{suffix}" in SUFFIXES] if image is None else [image]
    side = labels or _side(where, counts)
    rows = Rows(root, [], [], where)
    missing: list[str] = []
    for sample, files in track(samples, f"reading the labels of {where}", len(samples), unit="samples"):
        images = [files[suffix] for suffix in image_suffixes if suffix in files]
        if len(images) > 1:
            raise DataError(
                f"{where}: {sample} has the images {first_few([Path(file).name for file in images])}; choose one by "
                f"its suffix, such as dataset.image={next(s for s in image_suffixes if s in files)}"
            )
        if not images or side not in files:
            missing.append(f"{sample}: no {side if images else 'image'} among {first_few(sorted(files))}")
            continue
        rows.files.append(images[0])
        rows.values.append(_labels(os.path.join(root, files[side]), side, key, separator))  # noqa: PTH118
    if missing:
        raise DataError(
            f"{where}: {part_of(len(missing), len(samples), 'sample', 'lack')} an image or their labels "
            f"({side}); add them, or "
            f"remove these samples:{first_lines(missing)}"
        )
    log.info("%s: %d shards, labels from .%s", where, len(shards), side)
    return rows


def _samples(root: str, shard: str) -> dict[str, dict[str, str]]:
    """Return the files of each sample by their suffix in lower case, relative to `root`."""
    samples: dict[str, dict[str, str]] = {}
    inner = os.path.relpath(shard, root)
    for folder, _, names in storage.walk(shard):
        place = inner + folder[len(shard) :]
        for name in names:
            stem, dot, suffix = name.partition(".")
            if stem and dot:
                samples.setdefault(f"{place}/{stem}", {})[suffix.lower()] = f"{place}/{name}"
    return samples


def _side(where: str, counts: Counter[str]) -> str:
    """Return the suffix of the labels. DataError: there is none or more than one."""
    sides = [suffix for suffix in SIDES if suffix in counts]
    if len(sides) != 1:
        found = first_few([f".{suffix} ({count})" for suffix, count in counts.most_common()], 10) or "no file"
        advice = f"choose the labels: dataset.labels={sides[0]}" if sides else HOW
        raise DataError(f"{where}: labels are in .cls, .json or .txt files; found {found}; {advice}")
    return sides[0]


def _labels(path: str, side: str, key: str, separator: str) -> Any:
    """Return the labels in a file of a sample."""
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    if side == "txt":
        return separator.join(text.splitlines())
    if side == "cls":
        try:
            return [int(part) for part in text.replace(",", " ").split()]
        except ValueError as error:
            raise DataError(
                f"{path}: expected a class index, found {text[:60]!r}; names belong into a .txt file"
            ) from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken json ({error})") from error
    if isinstance(content, dict):
        if key not in content:
            raise DataError(
                f"{path}: no key {key!r} among {first_few([str(k) for k in content], 10)}; name it: dataset.key=KEY"
            )
        return content[key]
    return content
