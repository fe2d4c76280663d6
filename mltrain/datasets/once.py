"""A folder of images that is generated once, atomically, by one process while others wait."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

from mltrain.errors import DataError
from mltrain.files import atomic_folder, locked

_THREADS = threading.Lock()  # `locked` excludes other processes, not other threads of this one


def make_folder(folder: Path, *, complete: Callable[[], bool], write: Callable[[Path], None], what: str) -> None:
    """Generate a folder unless it is complete.

    Args:
        folder: the folder.
        complete: returns whether the folder exists and is complete.
        write: fills the temporary folder that it is given.
        what: the data set, for the message.

    Raises:
        DataError: the folder cannot be written.
    """
    if complete():
        return
    try:
        with _THREADS, locked(folder.parent / f".{folder.name}.lock"):
            if not complete():  # else another process or thread has made it meanwhile
                with atomic_folder(folder, sync=False) as temporary:
                    write(temporary)
    except OSError as error:
        raise DataError(
            f"{what}: cannot write below {folder.parent} ({error.strerror or error}); point paths.data or dataset.root "
            "to a folder that can be written"
        ) from error


def make_versioned(folder: Path, note: str, version: int, write: Callable[[Path], int], what: str) -> None:
    """Generate a folder unless its file `note` has this version; `write` fills it and returns the number of images."""

    def write_all(place: Path) -> None:
        content = {"version": version, "images": write(place)}
        (place / note).write_text(json.dumps(content), encoding="utf-8")  # last: it marks the folder as complete

    make_folder(folder, complete=lambda: has_version(folder / note, version), write=write_all, what=what)


def has_version(note: Path, version: int) -> bool:
    """Return whether the note of `make_versioned` exists and has this version."""
    try:
        return bool(json.loads(note.read_text(encoding="utf-8"))["version"] == version)
    except (OSError, ValueError, KeyError, TypeError):
        return False
