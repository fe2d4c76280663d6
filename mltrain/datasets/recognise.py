"""Find out in which format a file or folder holds labels.

A recogniser looks at names and at the beginning of files, and returns what it finds as the options of a reader. It does
not judge the labels: the reader does. Whoever adds a format adds its recogniser to
`recognise_files.BY_SUFFIX` or `recognise_folders.FOLDERS`, and its reader to `auto.READERS`.
"""

from __future__ import annotations

from pathlib import Path

from mltrain.datasets.found import Found
from mltrain.datasets.label_files import LABEL_FOLDERS
from mltrain.datasets.names import NO_DATA, SUFFIXES
from mltrain.datasets.recognise_files import recognise_file, recognise_named_file
from mltrain.datasets.recognise_folders import FOLDERS, class_folders, files_of_splits
from mltrain.datasets.recognise_stored import hugging_face, parquet_files, web_shards
from mltrain.errors import DataError
from mltrain.text import first_lines

LABEL_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml", ".txt")
"""suffixes of files that may hold labels"""


def recognise(path: Path, *, need_train: bool = True) -> Found:
    """Return the one format that a file or folder has; without `need_train` the files of train may be missing.

    Raises:
        DataError: none or several formats fit; the message has the command of each candidate.
    """
    found = candidates(path, need_train=need_train)
    if len(found) == 1:
        return found[0]
    if found:
        lines = [f"{one.title}: {one.command}" for one in found]
        raise DataError(
            f"{path} may be read in {len(found)} ways; choose one and train with its options, or name one file with "
            f"dataset.path=FILE:{first_lines(lines, 10)}"
        )
    files = _label_files(path) if path.is_dir() else []
    if len(files) == 1 and files[0].suffix.lower() in (".csv", ".tsv"):
        raise DataError(
            f"{path}: no known format of labels; {files[0].name} is {_seen(files[0])}. Its own reader says what is "
            f"wrong with it: dataset=csv dataset.file={files[0]}. docs/datasets.md lists the formats"
        )
    raise DataError(
        f"{path}: no known format of labels; {_seen(path)}. docs/datasets.md lists the formats. If you have a table, "
        "name its columns: dataset=csv dataset.file=FILE dataset.image_column=NAME dataset.labels_column=NAME"
    )


def candidates(path: Path, *, need_train: bool = True) -> list[Found]:
    """Return all formats that a file or folder may have; `need_train` as for `recognise`."""
    if path.is_file():
        found = recognise_named_file(path)
        return [] if found is None else [found]
    looks = (*FOLDERS, hugging_face, parquet_files, web_shards)
    layouts = [found for look in looks for found in look(path, need_train)]
    if layouts:
        return layouts
    groups, rest = files_of_splits(_label_files(path), recognise_file, need_train)
    single = [found for file in rest if (found := recognise_file(file)) is not None]
    if groups or single:
        return [*groups, *single]
    return class_folders(path, need_train)


def _label_files(path: Path) -> list[Path]:
    """Return the files of a folder, and of its folders of annotations, that may hold labels."""
    places = [path, *(folder for folder in _folders(path) if folder.name.lower() in LABEL_FOLDERS)]
    return [
        file
        for place in places
        for file in sorted(place.iterdir())
        if file.is_file() and file.suffix.lower() in LABEL_SUFFIXES and not file.name.startswith(".")
    ]


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _seen(path: Path) -> str:
    """Describe a path for the message."""
    if path.is_file():
        with path.open("rb") as stream:
            line = stream.readline(200).decode("utf-8", "replace").strip()
        return f"a {path.suffix or 'nameless'} file of {path.stat().st_size} bytes that begins with {line[:80]!r}"
    entries = list(path.iterdir())
    folders = sum(entry.is_dir() and entry.name.lower() not in NO_DATA for entry in entries)
    images = sum(entry.name.lower().endswith(SUFFIXES) for entry in entries)
    return f"it holds {folders} folders, {images} images and {len(entries) - folders - images} other files"
