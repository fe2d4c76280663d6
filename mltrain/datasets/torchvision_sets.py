"""MNIST, CIFAR-10 and CIFAR-100 from the files that torchvision downloads; single label.

These sets store all images in a few binary files. On first use the files are unpacked to one PNG per image, with list
files beside them (`lists`), so that they are read like every other set. Nothing is downloaded here. CIFAR's files are
pickles; they are read as data, and nothing in them is executed (`safe_pickle`).
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from mltrain.datasets.lists import read_lists
from mltrain.datasets.once import has_version, make_versioned
from mltrain.datasets.reading import check_choice, require_paths
from mltrain.datasets.sources import torchvision_how
from mltrain.datasets.splits import Splits, check_fraction, make_splits
from mltrain.errors import DataError
from mltrain.progress import track
from mltrain.safe_pickle import read_pickle

log = logging.getLogger(__name__)

VERSION = 1
"""version of the unpacked files; raise it when they change"""
DONE = "unpacked.json"

Pixels = tuple[np.ndarray, np.ndarray]
"""uint8 (N, H, W) or (N, H, W, 3), and class indices (N,)"""


def mnist(
    *, name: str = "mnist", root: str, val_fraction: float = 0.0, split_seed: int = 0, need_train: bool = True
) -> Splits:
    """MNIST (LeCun et al., 1998): 60,000 and 10,000 images of digits, 28 x 28, grey.

    There is no official validation set: the test set stands in for it, unless `val_fraction` holds one out of train.

    Args:
        name: name of the LabelSets and the run folder.
        root: torchvision's root: the files are in ``MNIST/raw/``; the PNGs go to ``MNIST/png/``.
        val_fraction: above 0, val is this share of train.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken.
    """
    raw = Path(root, "MNIST", "raw")
    files = [
        _either(raw / f"{part}-{what}-ubyte") for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
    ]

    def read(train: bool) -> Pixels:
        images, labels = files[:2] if train else files[2:]
        return _read_idx(images, 3), _read_idx(labels, 1)

    data = _BinarySet("MNIST", files, 2, read, class_names=lambda: [str(k) for k in range(10)])
    return _splits(name, data, Path(root, "MNIST", "png"), val_fraction, split_seed, need_train)


def cifar10(
    *, name: str = "cifar10", root: str, val_fraction: float = 0.0, split_seed: int = 0, need_train: bool = True
) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 photographs, 32 x 32, of 10 classes.

    Args:
        name: name of the LabelSets and the run folder.
        root: torchvision's root: the files are in ``cifar-10-batches-py/``; the PNGs go to ``cifar-10-png/``.
        val_fraction: as for `mnist`.
        split_seed: as for `mnist`.
        need_train: as for `mnist`.

    Raises:
        DataError: files are missing or broken.
    """
    folder = Path(root, "cifar-10-batches-py")
    train = [folder / f"data_batch_{k}" for k in range(1, 6)]
    data = _cifar("CIFAR10", train, folder / "test_batch", folder / "batches.meta", "label")
    return _splits(name, data, Path(root, "cifar-10-png"), val_fraction, split_seed, need_train)


def cifar100(
    *,
    name: str = "cifar100",
    root: str,
    labels: Literal["fine", "coarse"] = "fine",
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """CIFAR-100 (Krizhevsky, 2009): 50,000 and 10,000 photographs, 32 x 32.

    Args:
        name: name of the LabelSets and the run folder.
        root: torchvision's root: the files are in ``cifar-100-python/``; the PNGs go to ``cifar-100-png/``.
        labels: fine: the 100 classes. coarse: their 20 groups.
        val_fraction: as for `mnist`.
        split_seed: as for `mnist`.
        need_train: as for `mnist`.

    Raises:
        DataError: files are missing or broken.
    """
    check_choice("labels", labels, ("fine", "coarse"))
    folder = Path(root, "cifar-100-python")
    data = _cifar("CIFAR100", [folder / "train"], folder / "test", folder / "meta", f"{labels}_label")
    return _splits(name, data, Path(root, f"cifar-100-{labels}-png"), val_fraction, split_seed, need_train)


class _BinarySet(NamedTuple):
    """The binary files of a data set."""

    title: str
    """class name in torchvision"""
    files: list[Path]
    """those of the training set, then the others"""
    train_files: int
    """number of those of the training set"""
    read: Callable[[bool], Pixels]
    """train set (True) or test set (False)"""
    class_names: Callable[[], list[str]]


def _splits(
    name: str, data: _BinarySet, folder: Path, val_fraction: float, split_seed: int, need_train: bool
) -> Splits:
    """Unpack the files to `folder` unless that is done, and read it."""
    check_fraction(val_fraction)
    parts, files = ["train", "test"], data.files
    if not has_version(folder / DONE, VERSION):
        of_train = files[: data.train_files]
        if not need_train and val_fraction == 0 and not all(file.exists() for file in of_train):
            parts, files = ["test"], files[data.train_files :]
            folder = folder.with_name(f"{folder.name}-test")
        if not has_version(folder / DONE, VERSION):
            require_paths(name, files, torchvision_how(data.title))
    make_versioned(folder, DONE, VERSION, lambda place: _unpack(place, folder, name, data, parts), name)
    lists = {part: folder / f"{part}.txt" for part in parts}
    made = read_lists(lists, images=folder, classes=folder / "classes.txt", name=name)
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def _unpack(out: Path, place: Path, name: str, data: _BinarySet, parts: list[str]) -> int:
    """Write the images, lists and class names of a set into `out`, which will be moved to `place`."""
    names = data.class_names()
    log.info("%s: unpacking once to %s", name, place)
    count = 0
    for part in parts:
        pixels, labels = data.read(part == "train")
        if len(pixels) != len(labels):
            raise DataError(f"{name}: {part} has {len(pixels)} images and {len(labels)} labels; get the files again")
        if not len(labels) or labels.min() < 0 or labels.max() >= len(names):
            raise DataError(f"{name}: the {len(labels)} labels of {part} are not all from 0 to {len(names) - 1}")
        lines = []
        for i, label in enumerate(track(labels.tolist(), f"{name}: unpacking {part}", len(labels), unit="images")):
            # At most 1,000 files per folder: some file systems are slow with more.
            file = f"{part}/{i // 1000:02d}/{i:05d}.png"
            if i % 1000 == 0:
                (out / file).parent.mkdir(parents=True)
            Image.fromarray(pixels[i]).save(out / file, compress_level=1)
            lines.append(f"{file} {label}\n")
        count += len(labels)
        (out / f"{part}.txt").write_text("".join(lines), encoding="utf-8")
    (out / "classes.txt").write_text("".join(f"{label}\n" for label in names), encoding="utf-8")
    log.info("%s: %d images unpacked", name, count)
    return count


def _either(path: Path) -> Path:
    """Return the file, or its gzip if only that exists."""
    packed = path.with_name(path.name + ".gz")
    return packed if packed.exists() and not path.exists() else path


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read a file in the IDX format: 0, 0, 8 (unsigned bytes), the number of dimensions, their sizes, the bytes."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); incomplete download? Get the file again") from error
    head = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(data[4:head], dtype=">u4").tolist())
    if data[:4] != bytes([0, 0, 8, dimensions]) or len(data) != head + int(np.prod(shape)):
        raise DataError(
            f"{path}: not an IDX file of {dimensions} dimensions, or not all of it ({len(data):,} bytes); get the file "
            "again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)


def _cifar(title: str, train: list[Path], test: Path, meta: Path, key: str) -> _BinarySet:
    """Describe CIFAR's files; the labels are under KEYs, the class names under KEY_names."""

    def read(is_train: bool) -> Pixels:
        parts = [_read_batch(path, f"{key}s") for path in (train if is_train else [test])]
        return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])

    def class_names() -> list[str]:
        names = _read_dict(meta, f"{key}_names")[f"{key}_names"]
        if not isinstance(names, list) or not names or not all(isinstance(label, str) for label in names):
            raise DataError(f"{meta}: {key}_names is no list of names; get the file again")
        return names

    return _BinarySet(title, [*train, test, meta], len(train), read, class_names)


def _read_dict(path: Path, *keys: str) -> dict[str, Any]:
    data = read_pickle(path, max_bytes=2**28)
    if not isinstance(data, dict) or any(key not in data for key in keys):
        found = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{path}: expected a dict with {', '.join(keys)}, found {found[:200]}; get the file again")
    return data


def _read_batch(path: Path, labels_key: str) -> Pixels:
    """Return pixels (N, 32, 32, 3) and labels of one file, which stores the three colours one after the other."""
    data = _read_dict(path, "data", labels_key)
    pixels, labels = data["data"], data[labels_key]
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != 3072
        or not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(isinstance(label, int) for label in labels)
    ):
        raise DataError(f"{path}: data must be N x 3072 bytes and {labels_key} N numbers; get the file again")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, dtype=np.int64)
