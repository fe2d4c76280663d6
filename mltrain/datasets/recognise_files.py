"""Recognise the format of one file with labels."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from mltrain import storage
from mltrain.datasets import cells as in_cells
from mltrain.datasets.found import HELD_OUT, Found, split_options
from mltrain.datasets.json_file import LABEL_KEYS, NoRecordsError, find_records
from mltrain.datasets.names import SUFFIXES
from mltrain.datasets.reading import csv_cells
from mltrain.datasets.table import IMAGE_COLUMNS
from mltrain.datasets.table_columns import NO_CLASSES
from mltrain.datasets.table_labels import NO_LABEL
from mltrain.errors import DataError
from mltrain.safe_yaml import read_yaml

LABEL_COLUMNS = (
    *LABEL_KEYS,
    *("finding labels", "tag", "label_name", "attribute_ids", "category_name", "ground_truth.label"),
)
"""columns with labels, in lower case, the most likely first"""
SPLIT_COLUMNS = ("split", "subset", "set", "partition", "dataset", "fold")
SAMPLE = 2000
"""rows that decide whether a file is a table"""
DISTINCT = 20_000
"""different cells of a column that are counted"""
COCO_KEYS = tuple(re.compile(rb'"%s"\s*:\s*\[' % key) for key in (b"images", b"annotations", b"categories"))


def recognise_file(path: Path) -> Found | None:
    """Return the format of a file, or None if it is broken or holds no labels in a known format."""
    try:
        return recognise_named_file(path)
    except (DataError, OSError):
        return None


def recognise_named_file(path: Path) -> Found | None:
    """Return the format of a file, or None if it holds no labels in a known format.

    Raises:
        DataError: the file is broken.
    """
    look = BY_SUFFIX.get(path.suffix.lower())
    if look is None or storage.state(path).size == 0:
        return None
    try:
        return look(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a csv file ({error}); check its quotes") from error


def _csv(path: Path) -> Found | None:
    """Recognise a table with a header, whatever separates its columns."""
    for delimiter in (",", "\t", ";", "|"):
        rows = _first_rows(path, delimiter)
        if rows is not None and (found := _table(path, rows[0], rows[1:], delimiter)) is not None:
            return found
    return None


def _first_rows(path: Path, delimiter: str) -> list[list[str]] | None:
    """Return the first rows of a file, or None if these are no columns of a table."""
    rows = list(islice(_rows(path, delimiter), SAMPLE))
    if len(rows) < 2 or len(rows[0]) < 2 or any(len(cells) != len(rows[0]) for cells in rows):
        return None
    return rows


def _rows(path: Path, delimiter: str) -> Iterator[list[str]]:
    with storage.open_text(path, encoding="utf-8-sig", newline="") as stream:
        for cells in csv_cells(stream, delimiter, strict=False):
            if any(cells):
                yield [cell.strip() for cell in cells]


def _cells(path: Path, header: list[str], delimiter: str) -> dict[str, Counter[str]]:
    """Return the different cells of each column with their number; of a column with very many, only the first ones."""
    columns: list[Counter[str]] = [Counter() for _ in header]
    for cells in islice(_rows(path, delimiter), 1, None):
        for column, cell in zip(columns, cells, strict=False):
            if cell in column or len(column) < DISTINCT:
                column[cell] += 1
    return dict(zip(header, columns, strict=True))


def _table(path: Path, header: list[str], rows: list[list[str]], delimiter: str) -> Found | None:
    image = _image_column(header, rows)
    if image is None or len(set(header)) < len(header):
        return None
    if any(name.lower().endswith(SUFFIXES) for name in header):
        raise DataError(f"{path}: no header line: the first line has an image, {image!r}; add a line: image,labels")
    columns = _cells(path, header, delimiter)
    options: dict[str, Any] = {"file": str(path)}
    if delimiter != ",":
        options["delimiter"] = delimiter
    if (classes_file := path.with_suffix(".classes.txt")).is_file():  # as mltrain convert_labels writes it
        options["classes"] = str(classes_file)
    split = _split_column(columns)
    options |= {"val_fraction": HELD_OUT} if split is None else split[1]
    if split is not None and split[0] != "split":
        options["split_column"] = split[0]
    others = [name for name in header if name not in (image, split and split[0])]
    labels = _labels_column(others, columns)
    classes = [name for name in others if name.lower() not in NO_CLASSES and _is_class(columns[name])]
    if labels is None:
        return _one_hot(image, classes, columns, options) if len(classes) >= 2 else None
    if image != "image":
        options["image_column"] = image
    if labels != "labels":
        options["labels_column"] = labels
    cells = columns[labels]
    separator = _separator(cells)
    if separator != ";":
        options["separator"] = separator
    note = ""
    if labels.lower() == "finding labels" and (bare := _no_label(cells, separator)):
        options["no_label"] = bare
        note = f"{bare!r} means no label, as papers on ChestX-ray14 have it"
    return Found("a csv file with a column of labels", "csv", options, note)


def _one_hot(image: str, classes: list[str], columns: dict[str, Counter[str]], options: dict[str, Any]) -> Found:
    lower = {name.lower(): name for name in reversed(list(columns))}
    if image != next((lower[name] for name in ("image", *IMAGE_COLUMNS) if name in lower), None):
        options["image_column"] = image
    targets = {in_cells.target_of(cell) for name in classes for cell in columns[name]}
    note = ""
    if targets <= {1, -1} and -1 in targets:
        options["minus_one"] = "negative"
        note = "-1 means that the image does not have the label, because the file holds 1 and -1 only"
    return Found("a csv file with one column per class", "csv", options, note)


def _image_column(header: list[str], rows: list[list[str]]) -> str | None:
    """Return the column of the images: by what its cells hold, or else by its name."""
    sample = rows[:50]
    by_cells = [name for k, name in enumerate(header) if all(cells[k].lower().endswith(SUFFIXES) for cells in sample)]
    lower = {name.lower(): name for name in reversed(header)}
    by_name = [lower[name] for name in ("image", *IMAGE_COLUMNS) if name in lower]
    return next((name for name in by_name if name in by_cells), next(iter([*by_cells, *by_name]), None))


def _split_column(columns: dict[str, Counter[str]]) -> tuple[str, dict[str, Any]] | None:
    """Return the column of the splits, with the options that name them."""
    for name, cells in columns.items():
        if name.lower() in SPLIT_COLUMNS and (options := split_options(set(cells))) is not None:
            return name, options
    return None


def _labels_column(others: list[str], columns: dict[str, Counter[str]]) -> str | None:
    """Return the column of the labels: by its name, by what its cells hold, or as the only one that is left."""
    lower = {name.lower(): name for name in reversed(others)}
    named = [lower[name] for name in LABEL_COLUMNS if name in lower and not _is_class(columns[lower[name]])]
    if named:
        return named[0]
    exported = [name for name in others if any(cell.startswith('{"choices"') for cell in columns[name])]
    if len(exported) == 1:
        return exported[0]
    return others[0] if len(others) == 1 and not _is_class(columns[others[0]]) else None


def _is_class(cells: Iterable[str]) -> bool:
    """Return whether cells are 1, 0, -1 or blank, and not all blank."""
    try:
        targets = [in_cells.target_of(cell) for cell in cells]  # all of them: "2" may come last
    except ValueError:
        return False
    return any(target is not None for target in targets)


def _separator(cells: Counter[str]) -> str:
    """Return the separator of labels."""
    if any(in_cells.quoted_list(cell) is not None or in_cells.plain_list(cell) is not None for cell in cells):
        return ";"
    labels = Counter[str]()
    for cell, count in cells.items():
        labels.update({part.strip(): count for part in cell.split(";") if part.strip()})
    found = in_cells.better_separator(labels, ";")
    several = any(";" in cell for cell in cells)
    return found[0] if found is not None and found[2] and not several else ";"


def _no_label(cells: Iterable[str], separator: str) -> str | None:
    labels = {part.strip() for cell in cells for part in cell.split(separator)}
    return next((label for label in sorted(labels) if label.lower() in NO_LABEL), None)


def _text(path: Path) -> Found | None:
    """Recognise CelebA's attributes, a list of images, or a table."""
    with storage.open_text(path, encoding="utf-8-sig") as stream:
        lines = [line.strip() for line in islice(stream, SAMPLE) if line.strip()]
    if len(lines) > 2 and lines[0].isdecimal() and len(lines[2].split()) == len(lines[1].split()) + 1:
        options = {"root": str(path.parent), "attributes": path.name, "partition": None, "val_fraction": HELD_OUT}
        return Found("attributes of CelebA", "celeba", options)
    listed = [re.fullmatch(r"(.+?\.\w+)((?:[\s,]+\d+)+)", line) for line in lines]
    if lines and all(match is not None and match[1].lower().endswith(SUFFIXES) for match in listed):
        options = {"root": str(path.parent), "train": path.name, "val_fraction": HELD_OUT}
        return Found("a list of images with class indices", "list", options)
    return _csv(path)


def _json(path: Path) -> Found | None:
    if path.suffix.lower() == ".json":
        content = storage.read_bytes(path)
        if all(key.search(content) for key in COCO_KEYS):
            if b'"neg_category_ids"' in content:
                return None  # LVIS: what nobody looked for is unknown there; dataset=lvis
            options = {"root": str(path.parent), "train": path.name, "val_fraction": HELD_OUT}
            return Found("an annotation file in COCO's format", "coco_files", options)
    try:
        found = find_records(path)
    except NoRecordsError:
        return None
    keys = {key for _, record in found.records[:SAMPLE] for key in record}
    lower = {key.lower() for key in keys}
    if not lower & {"image", *IMAGE_COLUMNS}:
        return None
    options = {"file": str(path)}
    splits = {str(record.get("split", "")) for _, record in found.records}
    options |= _split_or_share(splits)
    if not found.label_keys and not lower & set(LABEL_KEYS):
        records = [record for _, record in found.records[:SAMPLE]]
        classes = [key for key in keys if all(record.get(key) in (0, 1, -1, None) for record in records)]
        if len(classes) < 2:
            return None
    return Found(f"a json file: {found.title}", "json", options)


def root_of_xml(path: Path) -> str | None:
    """Return the name of the outermost element of an xml file, or None if it is no xml."""
    try:
        _, root = next(ElementTree.iterparse(path, events=("start",)))
    except (ElementTree.ParseError, StopIteration):
        return None
    return str(root.tag)


def _xml(path: Path) -> Found | None:
    if root_of_xml(path) != "annotations":
        return None
    images = ElementTree.parse(path).getroot().findall("image")
    splits = _split_or_share({image.get("subset") or "" for image in images})
    return Found("annotations of CVAT", "cvat", {"file": str(path), **splits})


def _split_or_share(splits: set[str]) -> dict[str, Any]:
    """Return the options that name the splits, or that hold a share out if these are names of no splits."""
    options = split_options(splits)
    return {"val_fraction": HELD_OUT} if options is None else options


def _yaml(path: Path) -> Found | None:
    try:
        data = read_yaml(path)
    except (ValueError, yaml.YAMLError):
        return None
    if not isinstance(data, dict) or not data.get("names") or not data.get("train"):
        return None
    held_out = {} if data.get("val") or data.get("valid") else {"val_fraction": HELD_OUT}
    return Found("a YOLO detection set", "yolo", {"file": str(path), **held_out})


def _darknet(path: Path) -> Found | None:
    text = path.read_text(encoding="utf-8")
    if not re.search(r"^\s*names\s*=", text, re.MULTILINE):
        return None
    held_out = {} if re.search(r"^\s*valid\s*=", text, re.MULTILINE) else {"val_fraction": HELD_OUT}
    return Found("a YOLO detection set of Darknet", "yolo", {"file": str(path), **held_out})


BY_SUFFIX: dict[str, Callable[[Path], Found | None]] = {
    **dict.fromkeys((".csv", ".tsv"), _csv),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _json),
    **dict.fromkeys((".yaml", ".yml"), _yaml),
    ".txt": _text,
    ".xml": _xml,
    ".data": _darknet,
}
