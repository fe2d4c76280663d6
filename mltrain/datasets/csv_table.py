"""Columns and rows of a csv file with labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mltrain.datasets.cells import argument
from mltrain.datasets.reading import read_csv_rows
from mltrain.errors import DataError

IMAGE_COLUMNS = (
    "filename",
    "file_name",
    "file",
    "path",
    "image_path",
    "filepath",
    "image_name",
    "image_id",
    "img",
    "id",
)
"""columns with the image, in lower case, of files with one column per class"""


class Layout(NamedTuple):
    """Separators and column names of a file."""

    separator: str
    delimiter: str
    image_column: str
    labels_column: str
    split_column: str
    blank: str = "negative"


class Header(NamedTuple):
    """Positions of the columns of a file."""

    columns: list[str]
    image: int
    labels: int | None
    """None: there is one column per class"""
    split: int | None


def read_header(path: Path, layout: Layout) -> Header:
    """Find the columns.

    Raises:
        DataError: a column is missing or there is more than one; the message says which option names it.
    """
    _, first = next(read_csv_rows(path, layout.delimiter), (0, []))
    header = [column.strip() for column in first]
    if header.count(layout.labels_column) > 1:
        raise DataError(f"{path}: more than one column {layout.labels_column!r}; found {', '.join(header)}")
    labels = header.index(layout.labels_column) if layout.labels_column in header else None
    split = header.index(layout.split_column) if layout.split_column in header else None
    image_column = layout.image_column
    if labels is None and image_column == "image" and image_column not in header:
        by_lower = {column.lower(): column for column in reversed(header)}
        image_column = next((by_lower[name] for name in ("image", *IMAGE_COLUMNS) if name in by_lower), image_column)
    if header.count(image_column) != 1:
        how = "more than one" if image_column in header else "no"
        raise DataError(f"{path}: {how} column {image_column!r}; {column_advice(header, layout)}")
    return Header(header, header.index(image_column), labels, split)


def column_advice(header: list[str], layout: Layout) -> str:
    """Say which columns there are, and which options name the right ones."""
    found = f"found {', '.join(header) or 'an empty file'}"
    other = next((mark for mark in (";", "\t", "|", ",") if len(header) == 1 and mark in header[0]), None)
    if other is None or other == layout.delimiter:
        return (
            f"{found}. Name them with dataset.image_column and dataset.labels_column, the delimiter with "
            "dataset.delimiter"
        )
    more = f" {argument('separator', ',')}" if other == layout.separator else ""
    return f"found one column, {header[0]!r}. Set {argument('delimiter', other)}{more} (separator: between labels)"


def rows_of(path: Path, header: Header, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row below the header; check the number of fields."""
    rows = read_csv_rows(path, layout.delimiter)
    next(rows, None)
    for line, cells in rows:
        if len(cells) != len(header.columns):
            raise DataError(
                f"{path}, line {line}: {len(cells)} fields, the header has {len(header.columns)}; a field that "
                f"contains {layout.delimiter!r} needs double quotes"
            )
        yield line, cells
