"""Your own data in one csv file: one row per image with its labels and, optionally, its split.

    image,labels,split
    train/1000.jpeg,city;mountain;sun,train
    train/1003.jpeg,tree;!boat,train

Rules:

- Labels may be a list as Python or JSON writes it, ``"['city', 'sun']"``. Without a column of labels every other column
  that holds 1, 0, -1 (unknown) or nothing is a class (``image,city,sun``); the log names them.
- A label with a leading ``-`` or ``!`` is a verified negative. One such mark anywhere in the file makes the set
  partially labelled: what a row does not list is then unknown (-1). Without any such mark, what is not listed is
  negative, and a label with a leading ``?`` is unknown.
- Classes are those of the `classes` file (one per line, in its order), or else all labels in the file, sorted. If a
  name in the classes file itself begins with a mark, it is read as that name.
- Class names that look the same are one class: other code points of an accent, other white space.
- Rows of the same image in the same split are merged, so one row per label works too. A label with two values
  (positive, negative, unknown) is an error, and so is an image in two splits.
- An image is found by its path, with ``/`` or a backslash between folders, or without its suffix.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from mltrain.datasets.cells import separator_of
from mltrain.datasets.csv_columns import read_columns
from mltrain.datasets.csv_labels import read_labels
from mltrain.datasets.csv_table import Layout, read_header
from mltrain.datasets.listing import Listing, SplitNames, choose_splits
from mltrain.datasets.names import warn_of_case
from mltrain.datasets.reading import check_choice, require_paths
from mltrain.datasets.splits import Splits, check_fraction, log_labels
from mltrain.errors import DataError
from mltrain.labels import LabelSet


def csv_file(
    *,
    name: str = "csv",
    file: str,
    root: str | None = None,
    classes: str | None = None,
    separator: str = ";",
    delimiter: str = ",",
    image_column: str = "image",
    labels_column: str = "labels",
    split_column: str = "split",
    train_split: str = "train",
    val_split: str = "val",
    test_split: str | None = None,
    val_fraction: float = 0.0,
    split_seed: int = 0,
    blank: Literal["negative", "unknown"] = "negative",
    need_val: bool = True,
) -> Splits:
    """Train, val and optionally test from one csv file (rules above).

    Args:
        name: name of the LabelSets and the run folder.
        file: the csv file, UTF-8, with a header line. Columns other than the three below are not read.
        root: folder that the image paths are relative to; default: the folder of `file`.
        classes: file with one class name per line; a label that it does not list is an error.
        separator: separator of the labels in a row; "tab" is a tab, and a space is any white space.
        delimiter: separator of the columns; "tab" is a tab.
        image_column: name of the column with the image path.
        labels_column: name of the column with the labels.
        split_column: name of the column with the split; without it all rows are train, so `val_fraction` is needed.
        train_split: value of the split column for train.
        val_split: value for val.
        test_split: value for test; None: "test" if there are such rows, else there is no test set. Rows of other splits
            are left out, and the log counts them.
        val_fraction: above 0, val is this share of the train rows, and `val_split` is not used. A hash of `split_seed`
            and the image path chooses the rows, so their order does not matter.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        blank: target of a blank cell in files with one column per class.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.

    Raises:
        DataError: the file is missing or breaks a rule; the message names the line.
    """
    check_fraction(val_fraction)
    layout = Layout(separator, delimiter, image_column, labels_column, split_column, blank)
    listing = _read(file, root, classes, layout)
    where = f"column {split_column!r}"
    names = SplitNames(train_split, val_split, test_split, val_fraction, split_seed, need_val, where)
    return choose_splits(listing, name, names)


def read_csv(
    file: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    split: str | None = None,
    separator: str = ";",
    delimiter: str = ",",
    image_column: str = "image",
    labels_column: str = "labels",
    split_column: str = "split",
    blank: Literal["negative", "unknown"] = "negative",
    name: str | None = None,
) -> LabelSet:
    """Return the rows of one split (None: all rows) in the order of the file; arguments as for `csv_file`.

    Raises:
        DataError: the file is missing or breaks a rule, or has no row of that split.
    """
    layout = Layout(separator, delimiter, image_column, labels_column, split_column, blank)
    listing = _read(file, root, classes, layout)
    images = [image for image, row in listing.rows.items() if split is None or row.split == split]
    if not images:
        found = sorted({str(row.split) for row in listing.rows.values()})
        raise DataError(f"{listing.source}: no image of split {split!r}; found {', '.join(found)}")
    return log_labels(listing.label_set(images, name or f"{Path(file).stem}/{split or 'all'}"))


def _read(
    file: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    classes: str | os.PathLike[str] | None,
    layout: Layout,
) -> Listing:
    path = Path(file)
    require_paths(
        "csv",
        [path, *([classes] if classes else [])],
        "A csv dataset is one file with the columns image,labels[,split], labels separated by ';' (docs/datasets.md): "
        "dataset.file=FILE, and dataset.root=FOLDER when the images are not relative to its folder",
    )
    if path.is_dir():
        raise ValueError(
            f"file={path} is a directory, expected one csv file (columns image,labels[,split]): dataset.file=FILE. For "
            "images in folders named by their class: dataset=folder dataset.root=FOLDER"
        )
    check_choice("blank", layout.blank, ("negative", "unknown"))
    separator, delimiter = separator_of(layout.separator), separator_of(layout.delimiter)
    if not separator or len(delimiter) != 1:
        raise ValueError(
            f"separator {separator!r} must not be empty, and delimiter {delimiter!r} must be one character or 'tab'"
        )
    layout = layout._replace(separator=separator, delimiter=delimiter)
    listing = Listing(path, path.parent if root is None else Path(root), classes)
    header = read_header(path, layout)
    (read_columns if header.labels is None else read_labels)(listing, header, layout)
    warn_of_case(listing.class_names, path)
    return listing
