"""Reading options and annotation files: paths, lines, csv rows, JSON, images and classes, with their error messages."""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

from mltrain import storage
from mltrain.errors import DataError
from mltrain.progress import track
from mltrain.text import part_of

_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""first line by which Excel is told what separates the columns"""


def check_choice(key: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ValueError if an option is none of the allowed values."""
    if value not in allowed:
        *first, last = map(str, allowed)
        raise ValueError(f"{key} must be {', '.join(first)} or {last}, got {value!r}")


def require_paths(what: str, paths: Sequence[str | os.PathLike[str]], how: str) -> None:
    """Raise one DataError that lists every expected path, found or missing, and how to get the missing ones.

    Args:
        what: the data set; it starts the message.
        paths: files or folders that must exist.
        how: where to get them, and which key points elsewhere.
    """
    places = list(dict.fromkeys(Path(path).absolute() for path in paths))
    found = [storage.exists(place) for place in places]
    if all(found):
        return
    lines = [f"{what}: {part_of(found.count(False), len(found), 'expected path', 'are')} missing"]
    lines += [f"  {'found  ' if ok else 'missing'}  {place}" for ok, place in zip(found, places, strict=True)]
    raise DataError("\n".join([*lines, how]))


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield (number, stripped text) of every line that is not blank.

    Raises:
        DataError: the file is not UTF-8, or cannot be read.
    """
    place = Path(path)
    try:
        with storage.open_text(place, encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                text = line.strip()
                if text:
                    yield number, text
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror})") from error


def read_image_list(path: Path, parse: Callable[[str], str] = str) -> dict[str, int]:
    """Return image -> line number of a file with one image per line, in the order of the file.

    Args:
        path: the file.
        parse: returns the image of a stripped line.

    Raises:
        DataError: the file cannot be read, lists no image, or lists an image twice.
    """
    images: dict[str, int] = {}
    for number, text in read_lines(path):
        image = parse(text)
        if image in images:
            raise DataError(f"{path}, line {number}: {image} is listed a second time (line {images[image]})")
        images[image] = number
    if not images:
        raise DataError(f"{path}: lists no image")
    return images


def read_class_names(path: str | os.PathLike[str]) -> dict[str, None]:
    """Return the class names of a file, one per line, in the order of the file; a dict for fast lookup.

    Raises:
        DataError: the file cannot be read, is empty, or has a name twice.
    """
    names: dict[str, None] = {}
    for number, line in read_lines(path):
        if line in names:
            raise DataError(f"{path}, line {number}: class {line!r} appears more than once")
        names[line] = None
    if not names:
        raise DataError(f"{path}: no class name; expected one per line")
    return names


def read_csv_rows(path: Path, delimiter: str = ",", *, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every row that is not empty, the header first.

    A first line ``sep=;`` decides what separates the columns, whatever `delimiter` is.

    Raises:
        DataError: the file is not UTF-8, cannot be read, or (with `strict`) has misplaced quotes.
    """
    try:
        with storage.open_text(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv_cells(stream, delimiter, strict=strict)
            for cells in track(reader, f"reading {path.name}", None, unit="rows"):
                if any(cells):
                    yield reader.line_num, cells
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a csv file ({error}); check its quotes") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def csv_cells(stream: IO[str], delimiter: str, *, strict: bool = True) -> Any:
    """Return a `csv.reader` of a stream; a first line ``sep=;`` is an empty row, and sets the delimiter."""
    first = stream.readline()
    if told := _SEPARATOR_LINE.fullmatch(first):
        first, delimiter = "\n", told[1]
    return csv.reader(chain([first], stream), delimiter=delimiter, strict=strict, skipinitialspace=True)


def read_json(path: Path, *, zeroed: re.Pattern[bytes] | None = None) -> Any:
    r"""Return the value in a JSON file.

    Args:
        path: the file.
        zeroed: values to replace by 0 before parsing, which saves time and memory; its group 1 is their key.

    Raises:
        DataError: the file cannot be read, or is not JSON.
    """
    try:
        text = storage.read_bytes(path).removeprefix(codecs.BOM_UTF8)
        return json.loads(text if zeroed is None else zeroed.sub(rb'"\1":0', text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken json ({error}); incomplete download? Get the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_json_object(path: Path, content: str, *, zeroed: re.Pattern[bytes] | None = None) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        content: description of the expected object, for the message.
        zeroed: as for `read_json`.

    Raises:
        DataError: the file cannot be read, is not JSON, or is not an object.
    """
    data = read_json(path, zeroed=zeroed)
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected {content}, found a {type(data).__name__}")
    return data
