"""Images and labels in the columns of Parquet files, read where they lie.

A column of images holds their bytes, or structs of bytes and path as Hugging Face's `datasets` writes them, or paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mltrain import storage
from mltrain.datasets.label_values import Rows, label_sets
from mltrain.datasets.reading import read_class_names, require_paths
from mltrain.datasets.shards import files_of_splits
from mltrain.datasets.splits import Splits, check_fraction, make_splits
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.progress import track
from mltrain.storage.tables import image_columns, member_name, read_schema, read_table
from mltrain.text import did_you_mean, first_few

if TYPE_CHECKING:
    import pyarrow as pa

HOW = (
    "Expected Parquet files with a column of images and one of labels; their names: dataset.train, dataset.val. To use "
    "another place: dataset.root=FOLDER"
)
LABEL_COLUMNS = ("labels", "label")
IMAGE_COLUMNS = ("image", "img")


def parquet(
    *,
    name: str = "parquet",
    root: str,
    train: str = "train*.parquet",
    val: str = "val*.parquet",
    test: str | None = None,
    image_column: str | None = None,
    labels_column: str | None = None,
    classes: str | None = None,
    separator: str = ";",
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test from Parquet files. Classes that a row does not list are negative.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder of the files, and of image paths in them.
        train: files of train: a name, a pattern (``train-*.parquet``), or a range (``train-{00..09}.parquet``).
        val: files of val.
        test: files of test; None: no test set.
        image_column: column of the images; None: the only one, or "image".
        labels_column: column of the labels: a class index, a name, a list of either, or a 1 or 0 per class; None:
            "labels" or "label".
        classes: file with one class name per line, in the order of the indices; None: the names that Hugging Face
            keeps in the file, if it does.
        separator: separates names in one text.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val` is then
            not used.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or damaged, a column is missing, or a row has no image.
    """
    check_fraction(val_fraction)
    require_paths(name, [root, *([classes] if classes else [])], HOW)
    patterns = {"train": train, "val": None if val_fraction > 0 else val, "test": test}
    found = files_of_splits(root, patterns, HOW, need_train=need_train or val_fraction > 0)
    layout = Layout(image_column, labels_column, list(read_class_names(classes)) if classes else None, separator)
    made = table_labels(name, {part: (root, [Table(file) for file in files]) for part, files in found.items()}, layout)
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


class Layout(NamedTuple):
    """Options of the user about the columns; see `parquet`."""

    image_column: str | None
    labels_column: str | None
    classes: Sequence[str] | None
    separator: str


class Table(NamedTuple):
    """A Parquet or Arrow file, and the rows of it that are used."""

    path: str
    begin: int = 0
    end: int | None = None
    """None: up to the last row"""


def table_labels(name: str, parts: Mapping[str, tuple[str, Sequence[Table]]], layout: Layout) -> dict[str, LabelSet]:
    """Return the LabelSet of each split.

    Args:
        name: name of the data set.
        parts: root and tables of each split.
        layout: columns, classes and separator.

    Raises:
        DataError: a file is damaged, a column is missing, or a row has no image.
    """
    read: dict[str, Rows] = {}
    names = layout.classes
    for part, (root, tables) in parts.items():
        rows = read[part] = Rows(root, [], [], f"{name}/{part}")
        for table in track(tables, f"reading {rows.where}", len(tables), unit="files"):
            schema = read_schema(table.path)
            labels = _column(table.path, schema, "labels_column", layout.labels_column, LABEL_COLUMNS)
            alone = image_columns(schema)
            usual = IMAGE_COLUMNS if len(alone) != 1 else (*IMAGE_COLUMNS, *alone)
            _add(rows, table, schema, _column(table.path, schema, "image_column", layout.image_column, usual), labels)
            names = names or class_names(schema, labels)
    return label_sets(name, read, classes=names, separator=layout.separator)


def _column(path: str, schema: pa.Schema, option: str, given: str | None, usual: Sequence[str]) -> str:
    """Return the column that the user names, or else the first of the usual ones. DataError: there is none."""
    column = given or next((column for column in usual if column in schema.names), None)
    if column is not None and column in schema.names:
        return column
    hint = did_you_mean(column, schema.names) if column else ""
    what = "there is no such column;" if column else "which column is it?"
    raise DataError(
        f"dataset.{option}={column or 'null'}: {what} {path} has {first_few(schema.names, 20)}{hint or '.'} "
        f"Set dataset.{option}=COLUMN"
    )


def _add(rows: Rows, table: Table, schema: pa.Schema, image: str, labels: str) -> None:
    """Add the rows of a table."""
    import pyarrow as pa

    kind = schema.field(image).type
    paths: list[str | None] | None = None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        paths = read_table(table.path, image).to_pylist()
    elif pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        paths = read_table(table.path, f"{image}.path").to_pylist()
    values = read_table(table.path, labels).to_pylist()
    inner = os.path.relpath(table.path, rows.root)
    for row in range(table.begin, len(values) if table.end is None else table.end):
        member = member_name(image, row)
        path = None if paths is None else paths[row]
        if storage.is_file(f"{table.path}/{member}"):
            rows.files.append(f"{inner}/{member}")
        elif path:
            rows.files.append(path)
        else:
            raise DataError(f"{table.path}, row {row}: no image in column {image!r}; remove the row")
        rows.values.append(values[row])


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Return the class names that Hugging Face's `datasets` keeps for a column, or None."""
    try:
        feature: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        while "names" not in feature:
            feature = feature["feature"] if isinstance(feature, dict) else feature[0]
        return [str(name) for name in feature["names"]]
    except (KeyError, TypeError, ValueError, IndexError):
        return None
