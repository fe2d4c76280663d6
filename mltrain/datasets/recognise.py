"""Find out in which format a file or folder holds labels.

A recogniser looks at names and at the beginning of files, and returns what it finds as the options of a reader. It does
not judge the labels: the reader does. Whoever adds a format adds its recogniser to
`recognise_files.BY_SUFFIX` or `recognise_folders.FOLDERS`, and its reader to `auto.READERS`.
"""

from __future__ import annotations

from pathlib import Path

from mltrain import storage
from mltrain.datasets.cells import argument
from mltrain.datasets.found import Found
from mltrain.datasets.label_files import LABEL_FOLDERS
from mltrain.datasets.names import NO_DATA, SUFFIXES
from mltrain.datasets.recognise_files import recognise_file, recognise_named_file
from mltrain.datasets.recognise_folders import FOLDERS, class_folders, files_of_splits
from mltrain.datasets.recognise_stored import STORED, one_file
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
    files = _label_files(path) if storage.is_folder(path) else []
    if len(files) == 1 and files[0].suffix.lower() in (".csv", ".tsv"):
        raise DataError(
            f"{path}: no known format of labels; {files[0].name} is {_seen(files[0])}. Its own reader says what is "
            f"wrong with it: dataset=csv dataset.file={files[0]}. docs/datasets.md lists the formats"
        )
    if storage.locate(path) is not None:
        raise DataError(
            f"{path}: no format of labels that is read from an archive; {_seen(path)}. Unpack it and name the folder, "
            "dataset.path=FOLDER, or name a table beside it: dataset=csv dataset.file=FILE "
            f"{argument('root', str(path))}"
        )
    raise DataError(
        f"{path}: no known format of labels; {_seen(path)}. docs/datasets.md lists the formats. If you have a table, "
        "name its columns: dataset=csv dataset.file=FILE dataset.image_column=NAME dataset.labels_column=NAME"
    )


def candidates(path: Path, *, need_train: bool = True) -> list[Found]:
    """Return all formats that a file or folder may have; `need_train` as for `recognise`."""
    if not storage.is_folder(path):
        found = recognise_named_file(path)
        return [] if found is None else [found]
    if storage.locate(path) is None:
        layouts = [found for look in (*FOLDERS, *STORED) for found in look(path, need_train)]
    else:
        layouts = list(one_file(path))
        path = _content(path)
    if layouts:
        return layouts
    groups, rest = files_of_splits(_label_files(path), recognise_file, need_train)
    single = [found for file in rest if (found := recognise_file(file)) is not None]
    if groups or single:
        return [*groups, *single]
    folders = class_folders(path, need_train)
    archives = storage.archives_in(path)
    return candidates(archives[0], need_train=need_train) if len(archives) == 1 and not folders else folders


def _label_files(path: Path) -> list[Path]:
    """Return the files of a folder, and of its folders of annotations, that may hold labels."""
    folders = [path / name for name in storage.entries(path)[0] if name.lower() in LABEL_FOLDERS]
    return [
        place / name
        for place in (path, *folders)
        for name in storage.entries(place)[1]
        if name.lower().endswith(LABEL_SUFFIXES) and not name.startswith(".") and storage.is_file(place / name)
    ]


def _content(archive: Path) -> Path:
    """Return the only folder in an archive, or the archive itself if it holds more."""
    folders, files = storage.entries(archive)
    folders = [name for name in folders if not name.startswith(".") and name.lower() not in NO_DATA]
    return _content(archive / folders[0]) if len(folders) == 1 and not files else archive


def _seen(path: Path) -> str:
    """Describe a path for the message."""
    if not storage.is_folder(path):
        with storage.open_text(path, encoding="latin-1") as stream:
            line = stream.readline(200).strip()
        size = storage.state(path).size
        return f"a {path.suffix or 'nameless'} file of {size} bytes that begins with {line[:80]!r}"
    folders, files = storage.entries(path)
    folders = [name for name in folders if name.lower() not in NO_DATA]
    images = sum(name.lower().endswith(SUFFIXES) for name in files)
    return f"it holds {len(folders)} folders, {images} images and {len(files) - images} other files"
