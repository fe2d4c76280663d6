"""The file `latest` beside the runs: it names the run folder that was trained last.

It is a file of one line and no symbolic link, because TensorBoard follows links and would show that run twice. Commands
take `runs/latest` for the folder that the file names. Earlier versions made a link, which is still followed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mltrain.engine.run_folder import is_run_folder
from mltrain.files import write_text

LATEST = "latest"
_LONGEST = 4096
"""bytes of the file"""


def point_to(pointer: Path, folder: Path) -> None:
    """Let the file name a run folder, by a relative path; it may replace an earlier one or a link, nothing else.

    Where the folder of runs cannot be written to, nothing happens.
    """
    if pointer.exists() and not pointer.is_symlink() and _named(pointer) is None:
        return  # the folder of a data set of this name, or a file of somebody else
    with suppress(OSError):
        write_text(pointer, f"{Path(os.path.relpath(folder, pointer.parent)).as_posix()}\n")


def is_latest(path: Path) -> bool:
    """Return whether a folder is the link to a run of earlier versions, or a copy that was made through the link."""
    return path.name == LATEST and is_run_folder(path)


def followed(path: Path) -> Path:
    """Return the run folder that `latest` names, or what lies in it: `runs/latest/best.pt`; other paths as they are."""
    for part in (path, *path.parents):
        if part.name == LATEST and (target := _named(part)) is not None:
            return Path(os.path.normpath(part.parent / target)) / path.relative_to(part)
    return path


def _named(pointer: Path) -> str | None:
    """Return the folder that a file or link names, relative to where it lies; None: it is something else."""
    with suppress(OSError, ValueError):
        if pointer.is_symlink():
            return str(pointer.readlink())
        if pointer.is_file() and pointer.stat().st_size <= _LONGEST:
            line, end, rest = pointer.read_text(encoding="utf-8").partition("\n")
            return line if line.strip() and end and not rest else None
    return None
