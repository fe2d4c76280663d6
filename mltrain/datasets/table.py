"""Tables of images and labels, whatever file they come from: their columns, rows and options.

A csv file is a table; so are the records of a json file and the exports of annotation tools, whose readers make one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mltrain.datasets.cells import argument, separator_of
from mltrain.datasets.reading import check_choice, read_csv_rows
from mltrain.errors import DataError
from mltrain.text import first_few

IMAGE_COLUMNS = (
    *("filename", "file_name", "file", "path", "image_path", "filepath", "image_name", "image_id", "img", "id"),
    *("image index", "image", "images", "image_file", "img_path", "photo"),
)
"""columns with the image, in lower case, of files with one column per class"""


@dataclass(frozen=True)
class Layout:
    """Separators, column names and the meaning of cells; options of the config targets."""

    separator: str = ";"
    delimiter: str = ","
    image_column: str = "image"
    labels_column: str = "labels"
    split_column: str = "split"
    blank: str = "negative"
    minus_one: str | None = None
    no_label: str | None = None
    kind: str = "column"
    """what the options call a column: dataset.labels_column, dataset.labels_key"""

    def checked(self) -> Layout:
        """Return the layout with its separators as characters. ValueError: an option has no meaning."""
        check_choice("blank", self.blank, ("negative", "unknown"))
        check_choice("minus_one", self.minus_one, (None, "unknown", "negative"))
        separator, delimiter = separator_of(self.separator), separator_of(self.delimiter)
        if not separator or len(delimiter) != 1:
            raise ValueError(
                f"separator {separator!r} must not be empty, and delimiter {delimiter!r} must be one character or 'tab'"
            )
        return Layout(**{**vars(self), "separator": separator, "delimiter": delimiter})


@dataclass(frozen=True)
class Table:
    """The columns and rows of a file."""

    path: Path
    columns: list[str]
    rows: Callable[[], Iterator[tuple[str, list[str]]]]
    """yields (place such as "line 3", cells) of each row; each call starts anew"""
    marks: bool = True
    """whether a leading - ! or ? of a label is a mark"""
    class_names: list[str] | None = None
    """names and order of the classes, if the file says"""
    ignored: tuple[str, ...] = ()
    """notes for the log: records that were left out, and why"""
    image: str | None = None
    """column with the image, if the reader of the file has found it; None: the layout says"""
    labels: str | None = None
    """the same for the column with the labels"""


class Header(NamedTuple):
    """Positions of the columns of a table."""

    columns: list[str]
    image: int
    labels: int | None
    """None: there is one column per class"""
    split: int | None
    kind: str = "column"
    """as in `Layout`"""

    def named(self, position: int | None) -> str:
        """Return what a message calls a column: ``column 'image'`` or ``key 'file_name'``."""
        assert position is not None
        return f"{self.kind} {self.columns[position]!r}"

    def not_read(self, *others: int) -> list[str]:
        """Return the columns, quoted, that hold neither image, labels or split nor are among `others`."""
        read = {self.image, self.labels, self.split, *others}
        return [repr(column) for k, column in enumerate(self.columns) if k not in read]


class TablePart(NamedTuple):
    """A table with its columns and its place among the splits."""

    table: Table
    header: Header
    images: str
    """folder that its images are relative to, below the root; empty: the root"""
    split: str | None
    """split of all its images; None: its split column says"""


def csv_table(path: Path, delimiter: str) -> Table:
    """Return the table of a csv file; a row with another number of cells than the header is a DataError."""
    _, first = next(read_csv_rows(path, delimiter), (0, []))
    columns = [column.strip() for column in first]

    def rows() -> Iterator[tuple[str, list[str]]]:
        lines = read_csv_rows(path, delimiter)
        next(lines, None)
        for line, cells in lines:
            if len(cells) != len(columns):
                raise DataError(
                    f"{path}, line {line}: {len(cells)} fields, the header has {len(columns)}; a field that contains "
                    f"{delimiter!r} needs double quotes"
                )
            yield f"line {line}", cells

    return Table(path, columns, rows)


def with_split(table: Table, splits: Mapping[str, str], source: str) -> Table:
    """Return a table, whose first column has the images, with a column of splits.

    Args:
        table: the table.
        splits: split of each image.
        source: what has them, for the message.
    """

    def rows() -> Iterator[tuple[str, list[str]]]:
        for entry, cells in table.rows():
            if cells[0] not in splits:
                raise DataError(f"{table.path}, {entry}: {source} does not list {cells[0]}")
            yield entry, [*cells, splits[cells[0]]]

    return replace(table, columns=[*table.columns, "split"], rows=rows)


def read_header(table: Table, layout: Layout) -> Header:
    """Find the columns.

    Raises:
        DataError: a column is missing or there is more than one; the message says which option names it.
    """
    path, header = table.path, table.columns
    labels_column = table.labels or layout.labels_column
    if header.count(labels_column) > 1:
        raise DataError(f"{path}: more than one column {labels_column!r}; found {', '.join(header)}")
    labels = header.index(labels_column) if labels_column in header else None
    split = header.index(layout.split_column) if layout.split_column in header else None
    image_column = table.image or layout.image_column
    if labels is None and image_column == "image" and image_column not in header:
        by_lower = {column.lower(): column for column in reversed(header)}
        image_column = next((by_lower[name] for name in ("image", *IMAGE_COLUMNS) if name in by_lower), image_column)
    if header.count(image_column) != 1:
        how = "more than one" if image_column in header else "no"
        raise DataError(f"{path}: {how} column {image_column!r}; {column_advice(header, layout)}")
    return Header(header, header.index(image_column), labels, split, layout.kind)


def column_advice(header: list[str], layout: Layout) -> str:
    """Say which columns there are, and which options name the right ones."""
    found = f"found {first_few(header, 20) or 'an empty file'}"
    other = next((mark for mark in (";", "\t", "|", ",") if len(header) == 1 and mark in header[0]), None)
    if layout.kind != "column":
        return f"{found}. Name the key of the labels: dataset.labels_{layout.kind}=NAME"
    if other is None or other == layout.delimiter:
        return (
            f"{found}. Name them with dataset.image_column and dataset.labels_column, the delimiter with "
            "dataset.delimiter"
        )
    more = f" {argument('separator', ',')}" if other == layout.separator else ""
    return f"found one column, {header[0]!r}. Set {argument('delimiter', other)}{more} (separator: between labels)"
