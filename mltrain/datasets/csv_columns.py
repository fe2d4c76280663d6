"""A csv file with one column per class that holds 1, 0, -1 (unknown) or nothing."""

from __future__ import annotations

import logging
from collections import Counter

from mltrain.datasets import cells as in_cells
from mltrain.datasets.csv_table import Header, Layout, column_advice, rows_of
from mltrain.datasets.listing import Listing, Place
from mltrain.datasets.names import one_spelling
from mltrain.errors import DataError
from mltrain.text import first_few

log = logging.getLogger(__name__)

NO_CLASSES = frozenset(
    {"", "index", "unnamed: 0", "label", "labels", "class", "classes", "category", "target", "y", "set", "subset"}
    | {"split", "fold", "is_train", "is_valid", "is_val", "is_test"}
)
"""columns, in lower case, that are no class even if they hold 1 and 0 only"""


def read_columns(listing: Listing, header: Header, layout: Layout) -> None:
    """Read a file with one column per class.

    Raises:
        DataError: a row breaks a rule; the message names the line.
    """
    path = listing.source
    columns = _class_columns(listing, header, layout)
    keys = [one_spelling(header.columns[k]) for k in columns]
    partial = listing.partial = layout.blank == "unknown"
    counts: Counter[int | None] = Counter()
    for line, cells in rows_of(path, header, layout):
        split = None if header.split is None else cells[header.split].strip()
        image, place = cells[header.image].strip(), Place(path, f"line {line}")
        if not image:
            raise DataError(f"{place}: column {header.columns[header.image]!r} is empty")
        row = listing.image(image, split, place)
        targets = [in_cells.target_of(cells[k]) for k in columns]
        counts.update(targets)
        found = {
            key: target
            for key, target in zip(keys, targets, strict=True)
            if target is not None and (target != 0 or partial)
        }
        common = found.keys() & row.labels.keys() if partial else found.keys() | row.labels.keys()
        wrong = [] if row.place == place else sorted(key for key in common if found.get(key) != row.labels.get(key))
        if wrong:
            raise DataError(
                f"{place}: {row.file} has another target of {wrong[0]!r} here than in {row.place.seen_from(place)}; "
                "keep one row per image"
            )
        row.labels.update(found)
    if not listing.rows:
        raise DataError(f"{path}: no row below the header")
    listing.class_names = [" ".join(header.columns[k].split()) for k in columns]
    unread = [
        repr(column) for k, column in enumerate(header.columns) if k not in (*columns, header.image, header.split)
    ]
    log.info(
        "%s: one column per class: %d classes (%s), images in column %r%s; %d cells are 1, %d 0, %d -1 (unknown), %d "
        "blank (%s: dataset.blank)",
        *(path, len(columns), first_few(listing.class_names), header.columns[header.image]),
        f", columns not read: {first_few(unread, 10)}" if unread else "",
        *(counts[1], counts[0], counts[-1], counts[None], layout.blank),
    )


def _class_columns(listing: Listing, header: Header, layout: Layout) -> list[int]:
    """Return the positions of the columns that are classes, in the order of `known` if that is given.

    Raises:
        DataError: there is none, two have the same name, or a column of 1 and 0 holds something else in some row.
    """
    path, known, wanted = listing.source, listing.known, listing.allowed
    good, blank = Counter[int](), Counter[int]()
    odd: dict[int, tuple[int, str]] = {}
    by_key: dict[str, int] = {}
    candidates = [k for k in range(len(header.columns)) if k not in (header.image, header.split)]
    if known is not None and wanted is not None:
        candidates = [k for k in candidates if one_spelling(header.columns[k]) in wanted]
        missing = wanted - {one_spelling(header.columns[k]) for k in candidates}
        if missing:
            raise DataError(
                f"{path}: no column {layout.labels_column!r}, and no column for {len(missing)} classes of "
                f"{listing.classes} ({first_few(sorted(missing))}); {column_advice(header.columns, layout)}"
            )
    else:
        candidates = [k for k in candidates if header.columns[k].lower() not in NO_CLASSES]
    total = 0
    for line, cells in rows_of(path, header, layout):
        total += 1
        for k in candidates:
            cell = cells[k]
            try:
                blank[k] += in_cells.target_of(cell) is None
                good[k] += 1
            except ValueError:
                odd.setdefault(k, (line, cell))
    columns = []
    for k in candidates:
        filled, wrong = good[k] - blank[k], total - good[k]
        if wrong and (known is not None or 10 * wrong <= filled):
            line, cell = odd[k]
            raise DataError(
                f"{path}, line {line}: {cell!r} in column {header.columns[k]!r}, which holds 1, 0, -1 (unknown) or "
                "nothing elsewhere; correct it, or list the columns that are classes in a file: dataset.classes=FILE"
            )
        if not wrong and (filled or known is not None):
            key = one_spelling(header.columns[k])
            if key in by_key:
                raise DataError(f"{path}: two columns are called {header.columns[k]!r}; rename one")
            by_key[key] = k
            columns.append(k)
    if not columns:
        raise DataError(f"{path}: no column {layout.labels_column!r}; {column_advice(header.columns, layout)}")
    return columns if known is None else [by_key[one_spelling(name)] for name in known]
