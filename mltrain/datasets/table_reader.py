"""From label files that are tables to splits: what the csv, json, CVAT and CelebA readers share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from mltrain import storage
from mltrain.datasets.label_files import (
    LabelFile,
    SplitNames,
    choose_splits,
    find_by_name,
    find_image_root,
    find_label_files,
)
from mltrain.datasets.listing import Listing
from mltrain.datasets.names import warn_of_case
from mltrain.datasets.reading import require_paths
from mltrain.datasets.splits import Splits
from mltrain.datasets.table import Layout, Table, TablePart, read_header
from mltrain.datasets.table_columns import read_columns
from mltrain.datasets.table_labels import read_labels
from mltrain.errors import DataError
from mltrain.text import counted

log = logging.getLogger(__name__)


def splits_from_tables(
    name: str,
    file: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None,
    classes: str | os.PathLike[str] | None,
    layout: Layout,
    names: SplitNames,
    open_table: Callable[[Path], Table],
    how: str,
) -> Splits:
    """Return the splits of one label file, or of one per split if `file` contains ``{split}``.

    Args:
        name: name of the LabelSets.
        file: the file or, with ``{split}``, the files.
        root: folder of the images; None: the folder of the file, or the one below it that has the images.
        classes: file with one class name per line.
        layout: columns and cells.
        names: the splits.
        open_table: reads a file.
        how: how to name other files, for the message.

    Raises:
        DataError: a file is missing or breaks a rule; the message names the line.
        ValueError: options have no meaning together.
    """
    place, files = find_label_files(name, file, root, names, how)
    listing = read_tables(place, files, root is None, classes, layout, open_table, Path(file))
    return choose_splits(listing, name, replace(names, where=_where(files, layout)))


def read_tables(
    root: Path,
    files: list[LabelFile],
    search: bool,
    classes: str | os.PathLike[str] | None,
    layout: Layout,
    open_table: Callable[[Path], Table],
    source: Path,
) -> Listing:
    """Return the images and labels of label files.

    Args:
        root: folder of the images.
        files: the label files.
        search: look for another root, below this one, if none of the images is there.
        classes: file with one class name per line.
        layout: columns and cells.
        open_table: reads a file.
        source: name of the files, for messages.

    Raises:
        DataError: a file breaks a rule; the message names the line.
    """
    if classes is not None:
        require_paths(source.name, [classes], "dataset.classes is a file with one class name per line")
    layout = layout.checked()
    parts = []
    for given in files:
        table = open_table(given.path)
        header = read_header(table, layout)
        if given.split is not None:
            header = header._replace(split=None)
        parts.append(TablePart(table, header, given.images, given.split))
    if len({part.header.labels is None for part in parts}) > 1:
        raise DataError(f"{source}: some of the files have a column {layout.labels_column!r}, others have not")
    places: dict[str, str] = {}
    if search:
        root, places = _found_images(root, parts)
    listing = Listing(source, root, classes)
    listing.places = places
    (read_columns if parts[0].header.labels is None else read_labels)(listing, parts, layout)
    ordered = [label for part in parts for label in part.table.class_names or ()]
    if ordered and listing.known is None:
        listing.class_names = list(dict.fromkeys(ordered))
    warn_of_case(listing.class_names, source)
    return listing


def _found_images(root: Path, parts: list[TablePart]) -> tuple[Path, dict[str, str]]:
    """Return the root of the images, and where those lie that are spread over several folders below it."""
    first = [image for part in parts for image in islice(_images(part), 20)]
    if any(storage.exists(Path(root, image)) for image in first):
        return root, {}
    images = [image for part in parts for image in _images(part)]
    found = find_image_root(root, images[:: max(1, len(images) // 200)])
    if found != root:
        log.info("the images are in %s: dataset.root=%s", found, found)
        return found, {}
    places = find_by_name(root, images)
    if places:
        log.info("%s found by name in folders below %s", counted(len(places), "image", "are"), root)
    return root, places


def _images(part: TablePart) -> Iterator[str]:
    for _, cells in part.table.rows():
        if image := cells[part.header.image].strip():
            yield os.path.join(part.images, image)  # noqa: PTH118  it may be any text


def _where(files: list[LabelFile], layout: Layout) -> str:
    return f"{layout.kind} {layout.split_column!r}" if files[0].split is None else "the path of the files"
