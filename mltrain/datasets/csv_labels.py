"""A csv file with a column of labels: separators, lists in cells, marks, and labels that are no names of classes."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple

from mltrain.datasets import cells as in_cells
from mltrain.datasets.cells import argument
from mltrain.datasets.csv_table import Header, Layout, rows_of
from mltrain.datasets.listing import Listing, Place
from mltrain.datasets.names import one_spelling
from mltrain.errors import DataError
from mltrain.text import first_few

log = logging.getLogger(__name__)

MARKS = {"-": 0, "!": 0, "?": -1}


class _Cell(NamedTuple):
    """One row of the file."""

    place: Place
    image: str
    labels: str
    split: str | None


def read_labels(listing: Listing, header: Header, layout: Layout) -> None:
    """Read a file with a column of labels.

    Raises:
        DataError: a row breaks a rule; the message names the line.
        ValueError: `layout` has options for files with one column per class.
    """
    assert header.labels is not None
    path = listing.source
    if layout.blank != "negative":
        raise ValueError(
            f"dataset.blank={layout.blank} is for files with one column per class; {path} has a column of labels, "
            "where the mark ? makes one label unknown"
        )
    read: list[_Cell] = []
    for line, cells in rows_of(path, header, layout):
        split = None if header.split is None else cells[header.split].strip()
        place = Place(path, f"line {line}")
        read.append(_Cell(place, cells[header.image].strip(), cells[header.labels].strip(), split))
    all_lists = all(in_cells.plain_list(cell.labels) is not None for cell in read if cell.labels)
    marks: list[tuple[Place, str]] = []
    for cell in read:
        if not cell.image:
            raise DataError(f"{cell.place}: column {header.columns[header.image]!r} is empty")
        row = listing.image(cell.image, cell.split, cell.place)
        for text in _parts(cell, layout.separator, all_lists, listing.allowed):
            label, value = text, 1
            if text[0] in MARKS and (listing.allowed is None or one_spelling(text) not in listing.allowed):
                label, value = text[1:].strip(), MARKS[text[0]]
                if value == 0:
                    marks.append((cell.place, text))
            if not label:
                raise DataError(f"{cell.place}: label {text!r} is a mark without a name")
            listing.label(row, label, value, cell.place, cell.image)
    if not listing.rows:
        raise DataError(f"{path}: no row below the header")
    if not listing.class_names:
        raise DataError(f"{path}: column {layout.labels_column!r} is empty in every row, so there is no class")
    if listing.known is None:
        _check_names(listing, layout)
    if marks:
        listing.partial = True
        _log_marks(listing, marks)


def _parts(cell: _Cell, separator: str, all_lists: bool, allowed: set[str] | None) -> list[str]:
    """Return the labels of a cell."""
    text = cell.labels
    items = None if allowed is not None and one_spelling(text) in allowed else in_cells.quoted_list(text)
    if items is None and all_lists:
        items = in_cells.plain_list(text)
    if items is None:
        items = [part.strip() for part in text.split(None if separator == " " else separator)]
    elif set(items) <= {"0", "1"} and len(set(items)) < len(items):
        raise DataError(
            f"{cell.place}: {text[:60]!r} is 1 or 0 per class; expected the names of the labels, or one column per "
            "class (image,city,sun)"
        )
    return [item for item in items if item]


def _check_names(listing: Listing, layout: Layout) -> None:
    """Refuse labels that are no names of classes, and tell of a separator that splits them better.

    Raises:
        DataError: the labels are numbers beside other columns of 1 and 0, most of them are lists that another separator
            splits, or nearly every image has a label of its own.
    """
    path, rows = listing.source, listing.rows
    labels = Counter(label for row in rows.values() for label, value in row.labels.items() if value == 1)
    several = sum(len(row.labels) > 1 for row in rows.values())
    keep = "If they are names, list them in a file, one per line: dataset.classes=FILE"
    if labels and set(labels) <= {"0", "1", "0.0", "1.0"} and layout.labels_column != "labels":
        raise DataError(
            f"{path}: column {layout.labels_column!r} holds {' and '.join(sorted(labels))} only, which is 1 or 0 for "
            f"one class, not a list of labels. For a file with one column per class leave dataset.labels_column out. "
            f"{keep}"
        )
    found = in_cells.better_separator(labels, layout.separator)
    if found is not None:
        separator, count, certain = found
        message = (
            f"{path}: labels such as {in_cells.shown(labels, separator)} look like several labels each: "
            f"{argument('separator', separator)} makes {count} classes of these {len(labels)}"
        )
        if certain and not several:
            raise DataError(f"{message}. Set it. {keep}")
        log.warning("%s", message)
    elif len(labels) >= 10 and not several and 10 * len(labels) >= 9 * sum(labels.values()):
        raise DataError(
            f"{path}: {sum(labels.values())} images have {len(labels)} different labels in column "
            f"{layout.labels_column!r}, nearly each its own, such as {first_few(sorted(labels), 3)}; "
            "nothing can be learnt from that. Name the column of the labels with dataset.labels_column, and what "
            f"separates them with dataset.separator. {keep}"
        )


def _log_marks(listing: Listing, marks: list[tuple[Place, str]]) -> None:
    place, text = marks[0]
    negative = {label for row in listing.rows.values() for label, value in row.labels.items() if value == 0}
    class_names = listing.class_names
    without = sum(one_spelling(name) not in negative for name in class_names)
    log.log(
        logging.WARNING if without else logging.INFO,
        "%s: %d labels are marked as verified negatives, the first is %r in %s, so what a row does not list is "
        "unknown; %d of %d classes have no known negative and cannot be evaluated. If a name begins with the mark, "
        "list the names in a file: dataset.classes=FILE",
        *(listing.source, len(marks), text, place.entry, without, len(class_names)),
    )
