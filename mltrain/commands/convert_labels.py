"""Write the labels of a data set in any format as one csv file, image,labels,split, that dataset=csv reads.

    mltrain convert_labels dataset=auto dataset.path=EXPORT out=labels.csv
    mltrain convert_labels dataset=yolo dataset.file=data.yaml out=labels.csv
    mltrain convert_labels dataset=coco2017 out=coco.csv

The names of the classes and their order go to a second file beside it, labels.classes.txt. What is written is read back
and compared before the command ends; its last line has the options that train on it. No image is opened or copied;
missing image files are counted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.errors import ConfigError, DataError
from mltrain.runs.outputs import check_suffix, writing

if TYPE_CHECKING:
    from mltrain.labels import LabelSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the data set's."""

    out: str = "labels.csv"
    """csv file to write; the names of the classes go to a file beside it"""
    overwrite: bool = False
    """replace the files if they exist"""

    def __post_init__(self) -> None:
        check_suffix(self.out, ".csv")


def convert_labels(cfg: DictConfig, options: Options) -> Path:
    """Write the splits of the config's data set as a csv file and return it.

    Raises:
        ConfigError: a file exists or cannot be written.
        DataError: the data set cannot be read, or its labels cannot be stored as text.
    """
    from mltrain.datasets.image_files import warn_of_files
    from mltrain.datasets.splits import check_splits
    from mltrain.files import temporary_folder
    from mltrain.labels.label_table import separator_of, write_labels
    from mltrain.text import counted

    out = Path(options.out)
    classes = out.with_suffix(".classes.txt")
    _check_free(out, classes, cfg.dataset, overwrite=options.overwrite)
    splits = instantiate(cfg.dataset, "dataset", need_val=False)
    check_splits(splits)
    for labels in filter(None, splits):
        warn_of_files(labels)
    given = {part: labels for part, labels in splits._asdict().items() if labels is not None and len(labels)}
    parts = with_one_fill(given)
    names = splits.train.class_names
    separator = separator_of(names)
    root, files = _below_one_root(parts, out.absolute().parent)
    with writing(out), temporary_folder(out.absolute()) as folder:
        made, listed = folder / out.name, folder / classes.name
        try:
            write_labels(made, parts, separator, files)
        except UnicodeEncodeError as error:
            raise DataError(f"{out}: a file name of an image is not UTF-8 ({error.object!r}); rename it") from error
        listed.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", newline="\n")
        _compare(made, listed, separator, root, parts)
        listed.replace(classes)
        made.replace(out)
    numbers = ", ".join(f"{part} {counted(len(labels), 'image')}" for part, labels in parts.items())
    logger.info("wrote %s (%s) and %s (%s)", out, numbers, classes, counted(len(names), "name"))
    logger.info("train on it: mltrain train %s", command_of(out, classes, separator, root, parts))
    return out


def _check_free(out: Path, classes: Path, dataset: DictConfig, *, overwrite: bool) -> None:
    """Refuse to replace files that exist, or those that are being read."""
    read = [str(value) for value in dataset.values() if isinstance(value, str)]
    for path in (out, classes):
        if path.exists() and any(Path(value).exists() and path.samefile(value) for value in read):
            raise ConfigError(f"out={out}: {path} is what is being converted; write to another file: out=FILE")
        if path.exists() and not overwrite:
            raise ConfigError(f"out={out}: {path} exists; overwrite=true replaces it, out=FILE writes elsewhere")


def with_one_fill(parts: Mapping[str, LabelSet]) -> dict[str, LabelSet]:
    """Return the same labels with the same target for what an image does not list, as the rows of one file have.

    That is -1 (unknown) if some split has it and a negative is known somewhere, which makes a csv file partially
    labelled, or else 0.
    """
    import numpy as np

    partial = any(labels.fill == -1 for labels in parts.values())
    known = any(labels.fill == 0 or len(labels.pairs(0)[0]) for labels in parts.values())
    fill = -1 if partial and known else 0
    made = {}
    for part, labels in parts.items():
        if labels.fill != fill:
            targets = labels.dense()
            rows, columns = np.nonzero(targets != fill)
            labels = labels.with_targets(rows, columns, targets[rows, columns], fill=fill)
        made[part] = labels
    return made


def _below_one_root(parts: Mapping[str, LabelSet], folder: Path) -> tuple[Path | None, dict[str, list[str]]]:
    """Return the root of the images, and the image files relative to it; None: the folder of the csv file."""
    paths = {part: [os.path.abspath(path) for path in labels.image_paths] for part, labels in parts.items()}  # noqa: PTH100
    places = {os.path.dirname(path) for listed in paths.values() for path in listed}  # noqa: PTH120
    common = Path(os.path.commonpath(places))
    root = None if common.is_relative_to(folder) else common
    start = folder if root is None else root
    return root, {part: [os.path.relpath(path, start) for path in listed] for part, listed in paths.items()}


def _compare(made: Path, classes: Path, separator: str, root: Path | None, parts: Mapping[str, LabelSet]) -> None:
    """Read the file back. DataError: it has other labels, because names of classes or images cannot be told apart."""
    import numpy as np

    from mltrain.datasets.csv import read_csv

    place = made.parent.parent if root is None else root
    for part, labels in parts.items():
        with _quiet():
            found = read_csv(made, root=place, classes=classes, split=part, separator=separator, name=labels.name)
        same_files = [os.path.abspath(path) for path in found.image_paths] == [  # noqa: PTH100
            os.path.abspath(path)  # noqa: PTH100
            for path in labels.image_paths
        ]
        same = found.class_names == labels.class_names and found.fill == labels.fill and same_files
        if not same or not all(np.array_equal(a, b) for a, b in zip(found.listed(), labels.listed(), strict=True)):
            raise DataError(
                f"{labels.name}: a csv file cannot hold these labels: read back, they are others. Names of classes "
                "that differ in white space only, or that begin with ! or ?, or file names with spaces at the end "
                "are likely reasons"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep readers from logging what they have logged about the source already."""
    readers = logging.getLogger("mltrain.datasets")
    level = readers.level
    readers.setLevel(logging.ERROR)
    try:
        yield
    finally:
        readers.setLevel(level)


def command_of(out: Path, classes: Path, separator: str, root: Path | None, parts: Mapping[str, LabelSet]) -> str:
    """Return the options that read the file, as a shell and the command line read them."""
    from mltrain.datasets.cells import argument

    options: dict[str, Any] = {"file": str(out), "classes": str(classes)}
    if root is not None:
        options["root"] = str(root)
    if separator != ";":
        options["separator"] = separator
    if "val" not in parts:
        options["val_fraction"] = 0.1
    return " ".join(["dataset=csv", *(argument(key, value) for key, value in options.items())])


COMMAND = Command(convert_labels, about=__doc__, takes="dataset", options=Options, unnamed_data="ask")
