"""Annotations of CVAT: its format "CVAT for images 1.1", one xml file (https://docs.cvat.ai/docs/other/xml_format).

An image has the labels of its tags, and of its boxes, polygons and other shapes. The attribute `subset` of an image is
its split. Classes are those of the task, in its order. CVAT does not tell an image without a label from one that nobody
has looked at: it is an image without a label, and the log counts such.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from mltrain.datasets.label_files import SplitNames
from mltrain.datasets.splits import Splits, check_fraction
from mltrain.datasets.table import Layout, Table
from mltrain.datasets.table_reader import splits_from_tables
from mltrain.errors import DataError
from mltrain.text import counted, first_few

HOW = (
    "Expected annotations.xml of CVAT's format 'CVAT for images 1.1': dataset.file=FILE, and dataset.root=FOLDER when "
    "the images are elsewhere"
)


def cvat(
    *,
    name: str = "cvat",
    file: str,
    root: str | None = None,
    classes: str | None = None,
    train_split: str = "train",
    val_split: str = "val",
    test_split: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_val: bool = True,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from CVAT's annotations.xml.

    Args:
        name: name of the LabelSets and the run folder.
        file: the xml file. With ``{split}`` in the path there is one file per split, and `train_split`, `val_split` and
            `test_split` are put there.
        root: folder that the image names are relative to; default: the folder of `file`, or the one below it that has
            the images, such as ``images/``.
        classes: file with one class name per line; default: the labels of the task.
        train_split: subset of the images of train.
        val_split: subset of val.
        test_split: subset of test; None: "test" if there are such images, else there is no test set.
        val_fraction: above 0, val is this share of the train images, and `val_split` is not used. A hash of
            `split_seed` and the image path chooses them.
        split_seed: seed of that choice, independent of the run's.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.
        need_train: the program sets it to False to evaluate; train may then be empty.

    Raises:
        DataError: the file is missing, broken or of another format.
    """
    check_fraction(val_fraction)
    names = SplitNames(train_split, val_split, test_split, val_fraction, split_seed, need_val, need_train)
    if Path(file).is_dir():
        raise ValueError(f"file={file} is a directory, expected annotations.xml: dataset.file=FILE")
    return splits_from_tables(
        name,
        file,
        root=root,
        classes=classes,
        layout=Layout(split_column="subset"),
        names=names,
        open_table=cvat_table,
        how=HOW,
    )


def cvat_table(path: Path) -> Table:
    """Return the table of CVAT's annotations.xml.

    Raises:
        DataError: the file is broken or of another format.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: broken xml ({error}); export it again") from error
    images = root.findall("image")
    if root.tag != "annotations" or not images:
        more = " It holds tracks of a video: export the task as 'CVAT for images 1.1'" if root.find("track") else ""
        raise DataError(f"{path}: no image; found <{root.tag}>. {HOW}.{more}")
    labels = [[str(shape.get("label")) for shape in image if shape.get("label")] for image in images]
    listed = [(entry.findtext("name") or "").strip() for entry in root.findall("meta//labels/label")]
    names = list(dict.fromkeys([*filter(None, listed), *sorted({label for own in labels for label in own})]))
    subset = any(image.get("subset") for image in images)

    def rows() -> Iterator[tuple[str, list[str]]]:
        for number, (image, own) in enumerate(zip(images, labels, strict=True), 1):
            cells = [image.get("name", ""), json.dumps(own, ensure_ascii=False)]
            yield f"image {number}", [*cells, image.get("subset") or ""] if subset else cells

    bare = sum(not own for own in labels)
    ignored: tuple[str, ...] = (f"{counted(bare, 'image')} without a tag or shape: no label",) if bare else ()
    unused = sorted(set(names) - {label for own in labels for label in own})
    ignored += (f"classes without an image: {first_few(unused)}",) if unused else ()
    columns = ["image", "labels", *(["subset"] if subset else [])]
    return Table(path, columns, rows, marks=False, class_names=names, ignored=ignored)
