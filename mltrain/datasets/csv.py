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
- With ``{split}`` in `file` there is one file per split, such as ``data/{split}/_classes.csv``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mltrain.datasets.label_files import SplitNames, find_label_files
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits, check_fraction, log_labels
from mltrain.datasets.table import Layout, Table, csv_table
from mltrain.datasets.table_reader import read_tables, splits_from_tables
from mltrain.errors import DataError
from mltrain.labels import LabelSet

HOW = (
    "A csv dataset is one file with the columns image,labels[,split], labels separated by ';' (docs/datasets.md): "
    "dataset.file=FILE, and dataset.root=FOLDER when the images are not relative to its folder"
)


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
    minus_one: Literal["unknown", "negative"] | None = None,
    no_label: str | None = None,
    need_val: bool = True,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from one csv file (rules above).

    Args:
        name: name of the LabelSets and the run folder.
        file: the csv file, UTF-8, with a header line. Columns other than the three below are not read. With ``{split}``
            in the path there is one file per split, and `train_split`, `val_split` and `test_split` are put there.
        root: folder that the image paths are relative to; default: the folder of `file`, or the one below it that has
            the images.
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
        minus_one: target of -1 in such files: unknown (-1) or negative (0). None is unknown, but a file that holds 1
            and -1 only is refused, because -1 then mostly means no.
        no_label: a label that means that the image has none, such as "No Finding"; it is then no class.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.
        need_train: the program sets it to False to evaluate; train may then be empty.

    Raises:
        DataError: the file is missing or breaks a rule; the message names the line.
    """
    check_fraction(val_fraction)
    layout = Layout(
        separator, delimiter, image_column, labels_column, split_column, blank, minus_one, no_label
    ).checked()
    names = SplitNames(train_split, val_split, test_split, val_fraction, split_seed, need_val, need_train)
    _check_paths(file, classes)
    return splits_from_tables(
        name, file, root=root, classes=classes, layout=layout, names=names, open_table=_opener(layout), how=HOW
    )


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
    minus_one: Literal["unknown", "negative"] | None = None,
    no_label: str | None = None,
    name: str | None = None,
) -> LabelSet:
    """Return the rows of one split (None: all rows) in the order of the file; arguments as for `csv_file`.

    Raises:
        DataError: the file is missing or breaks a rule, or has no row of that split.
    """
    layout = Layout(
        separator, delimiter, image_column, labels_column, split_column, blank, minus_one, no_label
    ).checked()
    _check_paths(file, classes)
    place, files = find_label_files("csv", file, root, SplitNames(), HOW)
    listing = read_tables(place, files, root is None, classes, layout, _opener(layout), Path(file))
    images = [image for image, row in listing.rows.items() if split is None or row.split == split]
    if not images:
        found = sorted({str(row.split) for row in listing.rows.values()})
        raise DataError(f"{listing.source}: no image of split {split!r}; found {', '.join(found)}")
    return log_labels(listing.label_set(images, name or f"{Path(file).stem}/{split or 'all'}"))


def _check_paths(file: str | os.PathLike[str], classes: str | os.PathLike[str] | None) -> None:
    """Refuse files that are missing, folders, and files of another format."""
    path = Path(file)
    if "{split}" not in str(path):
        require_paths("csv", [path, *([classes] if classes else [])], HOW)
    if path.is_dir():
        raise ValueError(
            f"file={path} is a directory, expected one csv file (columns image,labels[,split]): dataset.file=FILE. For "
            "images in folders named by their class: dataset=folder dataset.root=FOLDER. To find out what a folder "
            "holds: dataset=auto dataset.path=FOLDER"
        )
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        raise ValueError(f"file={path} is json, not csv: dataset=json dataset.file={path}")


def _opener(layout: Layout) -> Callable[[Path], Table]:
    return lambda path: csv_table(path, layout.delimiter)
