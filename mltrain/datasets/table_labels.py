"""Tables with a column of labels: separators, lists in cells, marks, and labels that are no names of classes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import NamedTuple

from mltrain.datasets import cells as in_cells
from mltrain.datasets.cells import argument
from mltrain.datasets.listing import Listing, Place
from mltrain.datasets.names import one_spelling
from mltrain.datasets.table import Header, Layout, TablePart
from mltrain.errors import DataError
from mltrain.text import counted, did_you_mean, first_few, part_of

log = logging.getLogger(__name__)

MARKS = {"-": 0, "!": 0, "?": -1}
NO_LABEL = frozenset({"no finding", "no findings", "no label", "no labels", "none", "nothing", "background"})
"""names, in lower case, that often mean that an image has no label"""


class _Cell(NamedTuple):
    """One row of the file."""

    place: Place
    image: str
    labels: str
    split: str | None
    marks: bool


def read_labels(listing: Listing, parts: list[TablePart], layout: Layout) -> None:
    """Read tables with a column of labels.

    Raises:
        DataError: a row breaks a rule; the message names the line.
        ValueError: `layout` has options for tables with one column per class.
    """
    path = listing.source
    for key, default in (("blank", "negative"), ("minus_one", None)):
        if getattr(layout, key) != default:
            raise ValueError(
                f"dataset.{key}={getattr(layout, key)} is for files with one column per class; {path} has a column of "
                "labels, where the mark ? makes one label unknown"
            )
    read = [cell for part in parts for cell in _cells(part)]
    all_lists = all(in_cells.plain_list(cell.labels) is not None for cell in read if cell.labels)
    marks: list[tuple[Place, str]] = []
    without, unlabelled = None if layout.no_label is None else one_spelling(layout.no_label), 0
    for cell in read:
        row = listing.image(cell.image, cell.split, cell.place)
        for text in _parts(cell, layout.separator, all_lists, listing.allowed):
            if without is not None and one_spelling(text) == without:
                unlabelled += 1
                continue
            label, value = text, 1
            if cell.marks and text[0] in MARKS and not (listing.allowed and one_spelling(text) in listing.allowed):
                label, value = text[1:].strip(), MARKS[text[0]]
                if value == 0:
                    marks.append((cell.place, text))
            if not label:
                raise DataError(f"{cell.place}: label {text!r} is a mark without a name")
            listing.label(row, label, value, cell.place, cell.image)
    if not listing.rows:
        raise DataError(f"{path}: no row below the header")
    if not listing.class_names:
        header = parts[0].header
        raise DataError(f"{path}: {header.named(header.labels)} is empty in every row, so there is no class")
    if without is not None and not unlabelled:
        hint = did_you_mean(str(layout.no_label), listing.class_names, "'{}'")
        raise DataError(f"{path}: no row has the label of dataset.no_label={layout.no_label!r}{hint}")
    if listing.known is None and parts[0].table.class_names is None:
        _check_names(listing, layout, parts[0].header)
    if marks:
        listing.partial = True
        _log_marks(listing, marks)
    _log_read(listing, parts, len(read), unlabelled, layout)


def _cells(part: TablePart) -> list[_Cell]:
    header = part.header
    assert header.labels is not None
    read = []
    for entry, cells in part.table.rows():
        place, image = Place(part.table.path, entry), cells[header.image].strip()
        if not image:
            raise DataError(f"{place}: {header.named(header.image)} is empty")
        split = part.split if header.split is None else cells[header.split].strip()
        image = os.path.join(part.images, image)  # noqa: PTH118  it may be any text
        read.append(_Cell(place, image, cells[header.labels].strip(), split, part.table.marks))
    return read


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


def _check_names(listing: Listing, layout: Layout, header: Header) -> None:
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
            f"{path}: {header.named(header.labels)} holds {' and '.join(sorted(labels))} only, which is 1 or 0 for "
            f"one class, not a list of labels. For a file with one column per class leave dataset.labels_column out. "
            f"{keep}"
        )
    found = in_cells.better_separator(labels, layout.separator)
    if found is not None:
        separator, count, certain = found
        message = (
            f"{path}: labels such as {in_cells.shown(labels, separator)} look like several labels each: "
            f"{argument('separator', separator)} makes {counted(count, 'class')} of these {len(labels)}"
        )
        if certain and not several:
            raise DataError(f"{message}. Set it. {keep}")
        log.warning("%s", message)
    elif len(labels) >= 10 and not several and 10 * len(labels) >= 9 * sum(labels.values()):
        raise DataError(
            f"{path}: {sum(labels.values())} images have {len(labels)} different labels in "
            f"{header.named(header.labels)}, nearly each its own, such as {first_few(sorted(labels), 3)}; "
            f"nothing can be learnt from that. Name the {layout.kind} of the labels with dataset.labels_{layout.kind}, "
            f"and what separates them with dataset.separator. {keep}"
        )


def _log_marks(listing: Listing, marks: list[tuple[Place, str]]) -> None:
    place, text = marks[0]
    negative = {label for row in listing.rows.values() for label, value in row.labels.items() if value == 0}
    class_names = listing.class_names
    without = sum(one_spelling(name) not in negative for name in class_names)
    log.log(
        logging.WARNING if without else logging.INFO,
        "%s: %s marked as verified negative, the first is %r in %s, so what a row does not list is "
        "unknown; %s no known negative and cannot be evaluated. If a name begins with the mark, "
        "list the names in a file: dataset.classes=FILE",
        *(listing.source, counted(len(marks), "label", "are"), text, place.entry),
        part_of(without, len(class_names), "class", "have"),
    )


def _log_read(listing: Listing, parts: list[TablePart], rows: int, unlabelled: int, layout: Layout) -> None:
    """Log in one line how many rows became how many images, and what was left out."""
    header = parts[0].header
    notes = [text for part in parts for text in part.table.ignored]
    if unread := header.not_read():
        notes.append(f"{layout.kind}s not read: {first_few(unread, 10)}")
    if unlabelled:
        notes.append(f"{layout.no_label!r} means no label ({counted(unlabelled, 'row')})")
    else:
        alike = [name for name in listing.class_names if name.lower() in NO_LABEL]
        notes += [f"{name!r} is a class; {argument('no_label', name)} makes it no label" for name in alike]
    log.info(
        "%s: %s of %s, images in %s, labels in %s%s",
        *(listing.source, counted(rows, "row"), counted(len(listing.rows), "image")),
        *(header.named(header.image), header.named(header.labels)),
        "".join(f"; {note}" for note in notes),
    )
