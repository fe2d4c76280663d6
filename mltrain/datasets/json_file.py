"""Your own data in one json file: records with their labels, or the export of an annotation tool.

The file may be one json value or, as ``.jsonl``, one record per line. Its content says which of these it is:

- Records, ``[{"image": "1.jpg", "labels": ["city", "sun"]}, ...]`` or ``{"image": ..., "labels": ...}`` on each line,
  as in the ``metadata.jsonl`` of a folder of images; or one key per class that holds 1, 0, -1, true, false or null.
  Label Studio's JSON-MIN is such a file.
- A map of image to labels, ``{"1.jpg": ["city", "sun"], ...}``.
- Tasks of Label Studio, labels of FiftyOne (``labels.json`` and ``samples.json``), items of Datumaro: see
  `mltrain.datasets.json_exports`.

A record is a row of a table whose columns are the keys, so all options are those of `mltrain.datasets.csv`. Names have
no marks: ``-80C`` is a name here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mltrain.datasets.json_exports import EXPORTS, Records
from mltrain.datasets.label_files import SplitNames
from mltrain.datasets.reading import read_class_names, read_json, read_lines
from mltrain.datasets.splits import Splits, check_fraction
from mltrain.datasets.table import IMAGE_COLUMNS, Layout, Table
from mltrain.datasets.table_reader import splits_from_tables
from mltrain.errors import DataError
from mltrain.text import first_few

HOW = (
    "A json dataset is one file of records with the keys image and labels, or the export of Label Studio, FiftyOne or "
    "Datumaro (docs/datasets.md): dataset.file=FILE, and dataset.root=FOLDER when the images are not relative to its "
    "folder"
)
LABEL_KEYS = ("labels", "label", "tags", "classes", "class", "categories", "category", "choice", "choices")
"""keys with the labels, in lower case, the most likely first"""


class NoRecordsError(DataError):
    """A json file has none of the formats."""


def json_file(
    *,
    name: str = "json",
    file: str,
    root: str | None = None,
    classes: str | None = None,
    separator: str = ";",
    image_key: str | None = None,
    labels_key: str | None = None,
    split_key: str = "split",
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
    """Train, val and optionally test from one json file (formats above).

    Args:
        name: name of the LabelSets and the run folder.
        file: the file, UTF-8. With ``{split}`` in the path there is one file per split, and `train_split`, `val_split`
            and `test_split` are put there.
        root: folder that the image paths are relative to; default: the folder of `file`, or the one below it that has
            the images.
        classes: file with one class name per line. Labels that are numbers are indices into it, from 0.
        separator: separator of several labels in one text; "tab" is a tab, and a space is any white space.
        image_key: key of the image; default: image, file_name, filename, path or similar.
        labels_key: key of the labels, a text or a list; default: labels, label, tags, choice or similar. In an export
            it is the name of the control or field with the labels.
        split_key: key of the split; without it all images are train, so `val_fraction` is needed.
        train_split: value of the split for train.
        val_split: value for val.
        test_split: value for test; None: "test" if there are such images, else there is no test set.
        val_fraction: above 0, val is this share of the train images, and `val_split` is not used. A hash of
            `split_seed` and the image path chooses them.
        split_seed: seed of that choice, independent of the run's.
        blank: target of null or a missing key in records with one key per class.
        minus_one: target of -1 in such records, as for csv files.
        no_label: a label that means that the image has none, such as "No Finding"; it is then no class.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.
        need_train: the program sets it to False to evaluate; train may then be empty.

    Raises:
        DataError: the file is missing, is in none of these formats, or breaks a rule; the message names the entry.
    """
    check_fraction(val_fraction)
    keys = (image_key, labels_key, split_key)
    layout = Layout(
        separator=separator, split_column=split_key, blank=blank, minus_one=minus_one, no_label=no_label, kind="key"
    ).checked()
    names = SplitNames(train_split, val_split, test_split, val_fraction, split_seed, need_val, need_train)
    if Path(file).is_dir():
        raise ValueError(
            f"file={file} is a directory, expected one json file: dataset.file=FILE. To find out what a folder holds: "
            "dataset=auto dataset.path=FOLDER"
        )
    return splits_from_tables(
        name,
        file,
        root=root,
        classes=classes,
        layout=layout,
        names=names,
        open_table=lambda path: json_table(path, *keys, classes=classes),
        how=HOW,
    )


def json_table(
    path: Path,
    image_key: str | None = None,
    labels_key: str | None = None,
    split_key: str = "split",
    *,
    classes: str | os.PathLike[str] | None = None,
) -> Table:
    """Return the table of a json file, whose columns are the keys of its records.

    Args:
        path: the file.
        image_key, labels_key, split_key: as for `json_file`.
        classes: file with the names of labels that are numbers.

    Raises:
        DataError: the file is in none of the formats, or keys are missing.
    """
    found = find_records(path)
    columns = list(dict.fromkeys(key for _, record in found.records for key in record))
    image = _key(path, columns, image_key, ("image", *IMAGE_COLUMNS), "image_key")
    if image is None:
        raise DataError(f"{path}: no key of the image; found {first_few(columns, 20)}. Name it: dataset.image_key=KEY")
    labels = _key(path, columns, labels_key, LABEL_KEYS, "labels_key")
    if labels is None and len(found.label_keys) == 1:
        labels = found.label_keys[0]
    elif labels is None and found.label_keys:
        raise DataError(
            f"{path}: {found.title} with labels of {len(found.label_keys)} controls or fields: "
            f"{first_few(found.label_keys, 10)}. Choose one: dataset.labels_key={found.label_keys[0]}"
        )
    class_names = list(read_class_names(classes)) if classes is not None and Path(classes).is_file() else None

    def rows() -> Iterator[tuple[str, list[str]]]:
        for entry, record in found.records:
            values = {key: record.get(key) for key in columns}
            if class_names is not None and labels is not None:
                values[labels] = _named(f"{path}, {entry}", values[labels], class_names)
            yield entry, [_text(value) for value in values.values()]

    return Table(path, columns, rows, False, found.class_names, found.ignored, image, labels)


def find_records(path: Path) -> Records:
    """Return the records of a json file, whichever of the formats it has.

    Raises:
        DataError: the file is not json, or is in none of the formats.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return Records("json lines", list(_lines(path)))
    data = read_json(path)
    for read in EXPORTS:
        try:
            found = read(path, data)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: a broken export ({type(error).__name__}: {error}); export it again") from error
        if found is not None:
            return found
    if isinstance(data, dict):
        lists = [key for key, value in data.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if len(lists) == 1:
            data = data[lists[0]]
        elif data and all(isinstance(value, (str, list)) for value in data.values()):
            pairs = [(f"key {key!r}", {"image": key, "labels": value}) for key, value in data.items()]
            return Records("a map of image to labels", pairs)
    if isinstance(data, list) and data and all(isinstance(record, dict) for record in data):
        return Records("json records", [(f"entry {k}", record) for k, record in enumerate(data, 1)])
    raise NoRecordsError(
        f"{path}: expected a list of records with the keys image and labels, a map of image to labels, or an export of "
        f"Label Studio, FiftyOne or Datumaro; found {_described(data)}. COCO's format is dataset=coco_files"
    )


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, text in read_lines(path):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: broken json ({error})") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: expected a json object, found {text[:60]}")
        yield f"line {number}", record


def _key(path: Path, columns: list[str], given: str | None, usual: tuple[str, ...], option: str) -> str | None:
    """Return a key that is given, or else the first of the usual ones; None if there is none of them."""
    if given is not None:
        if given not in columns:
            raise DataError(f"{path}: dataset.{option}={given}: no such key; found {first_few(columns, 20)}")
        return given
    by_lower = {column.lower(): column for column in reversed(columns)}
    return next((by_lower[name] for name in usual if name in by_lower), None)


def _named(where: str, value: Any, class_names: list[str]) -> Any:
    """Return labels with indices as names."""
    if isinstance(value, list):
        return [_named(where, item, class_names) for item in value]
    if type(value) is not int:
        return value
    if not 0 <= value < len(class_names):
        raise DataError(f"{where}: class {value} is none of the {len(class_names)} of dataset.classes (0 is the first)")
    return class_names[value]


def _text(value: Any) -> str:
    """Return a value as a cell of a table: text as it is, null as a blank, lists as json writes them."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, dict) and value and all(target in (0, 1) for target in value.values()):
        value = [label for label, target in value.items() if target]  # {"cat": true, "dog": false}
    if isinstance(value, list):
        items = [item.get("label", item.get("name")) if isinstance(item, dict) else item for item in value]
        if any(isinstance(item, bool) or not isinstance(item, (str, int)) for item in items):
            return json.dumps(value, ensure_ascii=False)
        return json.dumps([str(item) for item in items], ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _described(data: Any) -> str:
    if isinstance(data, dict):
        return f"an object with the keys {first_few(list(data), 10)}"
    return f"a list that begins with {os.fspath(json.dumps(data[:1]))[:80]}" if isinstance(data, list) else repr(data)
