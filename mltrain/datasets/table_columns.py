"""Tables with one column per class that holds 1, 0, -1 or nothing."""

from __future__ import annotations

import logging
import os
from collections import Counter

from mltrain.datasets import cells as in_cells
from mltrain.datasets.listing import Listing, Place
from mltrain.datasets.names import one_spelling
from mltrain.datasets.table import Header, Layout, Table, TablePart, column_advice
from mltrain.errors import DataError
from mltrain.text import first_few

log = logging.getLogger(__name__)

NO_CLASSES = frozenset(
    {"", "index", "unnamed: 0", "label", "labels", "class", "classes", "category", "target", "y", "set", "subset"}
    | {"split", "fold", "is_train", "is_valid", "is_val", "is_test"}
)
"""columns, in lower case, that are no class even if they hold 1 and 0 only"""
_USUAL = frozenset({"1", "0", "-1", ""})


def read_columns(listing: Listing, parts: list[TablePart], layout: Layout) -> None:
    """Read tables with one column per class.

    Raises:
        DataError: a row breaks a rule; the message names the line.
        ValueError: `layout` has options for tables with a column of labels.
    """
    if layout.no_label is not None:
        raise ValueError(
            f"dataset.no_label={layout.no_label} is for files with a column of labels; {listing.source} has one column "
            "per class, where dataset.classes=FILE chooses the classes"
        )
    listing.partial = layout.blank == "unknown"
    names: dict[str, str] = {}
    counts: Counter[int | None] = Counter()
    words: set[str] = set()
    rows = 0
    unread: dict[str, None] = {}
    for part in parts:
        columns = _class_columns(listing, part.table, part.header, layout)
        own = [one_spelling(part.header.columns[k]) for k in columns]
        for key, k in zip(own, columns, strict=True):
            names.setdefault(key, " ".join(part.header.columns[k].split()))
        unread |= dict.fromkeys(part.header.not_read(*columns))
        for entry, cells in part.table.rows():
            targets = [in_cells.target_of(cells[k]) for k in columns]
            counts.update(targets)
            words.update(cells[k].strip().lower() for k in columns if cells[k] not in _USUAL)
            rows += 1
            _add(listing, part, Place(part.table.path, entry), cells, dict(zip(own, targets, strict=True)), layout)
    if not listing.rows:
        raise DataError(f"{listing.source}: no row below the header")
    if counts[-1] and layout.minus_one is None and not counts[0] and not counts[None]:
        raise DataError(
            f"{listing.source}: the columns of the classes hold 1 and -1 only. If -1 means that the image does not "
            "have the label, as in CelebA: dataset.minus_one=negative; if nobody knows: dataset.minus_one=unknown"
        )
    listing.class_names = list(names.values())
    notes = [text for part in parts for text in part.table.ignored]
    notes += [f"{word!r} is read as {target}" for word, target in in_cells.WORDS.items() if word in words]
    notes += [f"{layout.kind}s not read: {first_few(list(unread), 10)}"] if unread else []
    header = parts[0].header
    found = {
        "1": counts[1],
        "0": counts[0],
        f"-1 ({layout.minus_one or 'unknown'}: dataset.minus_one)": counts[-1],
        f"blank ({layout.blank}: dataset.blank)": counts[None],
    }
    log.info(
        "%s: one %s per class: %d classes (%s), images in %s%s; %d rows of %d images; cells: %s",
        *(listing.source, layout.kind, len(names), first_few(listing.class_names), header.named(header.image)),
        "".join(f", {note}" for note in notes),
        *(rows, len(listing.rows), ", ".join(f"{count} are {what}" for what, count in found.items() if count)),
    )


def _add(
    listing: Listing, part: TablePart, place: Place, cells: list[str], targets: dict[str, int | None], layout: Layout
) -> None:
    """Add one row."""
    header, partial = part.header, listing.partial
    image = cells[header.image].strip()
    if not image:
        raise DataError(f"{place}: {header.named(header.image)} is empty")
    split = part.split if header.split is None else cells[header.split].strip()
    row = listing.image(os.path.join(part.images, image), split, place)  # noqa: PTH118  it may be any text
    if layout.minus_one == "negative":
        targets = {key: 0 if target == -1 else target for key, target in targets.items()}
    found = {key: target for key, target in targets.items() if target is not None and (target != 0 or partial)}
    common = found.keys() & row.labels.keys() if partial else found.keys() | row.labels.keys()
    wrong = [] if row.place == place else sorted(key for key in common if found.get(key) != row.labels.get(key))
    if wrong:
        raise DataError(
            f"{place}: {row.file} has another target of {wrong[0]!r} here than in {row.place.seen_from(place)}; keep "
            "one row per image"
        )
    row.labels.update(found)


def _class_columns(listing: Listing, table: Table, header: Header, layout: Layout) -> list[int]:
    """Return the positions of the columns that are classes, in the order of the known classes if they are given.

    Raises:
        DataError: there is none, two have the same name, or a column of 1 and 0 holds something else in some row.
    """
    path, known, wanted = table.path, listing.known, listing.allowed
    good, blank = Counter[int](), Counter[int]()
    odd: dict[int, tuple[str, str]] = {}
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
    for entry, cells in table.rows():
        total += 1
        for k in candidates:
            cell = cells[k]
            try:
                blank[k] += in_cells.target_of(cell) is None
                good[k] += 1
            except ValueError:
                odd.setdefault(k, (entry, cell))
    columns = []
    for k in candidates:
        filled, wrong = good[k] - blank[k], total - good[k]
        if wrong and (known is not None or 10 * wrong <= filled):
            entry, cell = odd[k]
            number = in_cells.about_number(cell)
            raise DataError(
                f"{path}, {entry}: {cell!r} in {header.named(k)}, which holds 1, 0, -1 (unknown) or nothing "
                f"elsewhere{'' if number is None else f', is {number}'}; correct it, or list the columns that are "
                "classes in a file: dataset.classes=FILE"
            )
        if not wrong and (filled or known is not None):
            key = one_spelling(header.columns[k])
            if key in by_key:
                raise DataError(f"{path}: two columns are called {header.columns[k]!r}; rename one")
            by_key[key] = k
            columns.append(k)
    if not columns:
        scores = [
            f"{cell!r} in {header.named(k)} ({entry}) is {number}"
            for k, (entry, cell) in odd.items()
            if (number := in_cells.about_number(cell)) is not None
        ]
        more = f". If each class has a column: {scores[0]}" if scores else ""
        raise DataError(f"{path}: no column {layout.labels_column!r}; {column_advice(header.columns, layout)}{more}")
    return columns if known is None else [by_key[one_spelling(name)] for name in known]
