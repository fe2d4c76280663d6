"""The link `latest` beside the runs: it leads to the run folder that was trained last."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from mltrain.engine.run_folder import is_run_folder
from mltrain.files import replace_link

LATEST = "latest"


def point_to(link: Path, folder: Path) -> None:
    """Let a link lead to a run folder, by a relative path; it may replace another link, nothing else.

    Where the system or the file system knows no symbolic links, nothing happens.
    """
    if link.exists() and not link.is_symlink():
        return  # the folder of a data set of this name
    with suppress(OSError):
        replace_link(link, os.path.relpath(folder, link.parent))


def is_latest(path: Path) -> bool:
    """Return whether a path is the link to a run, or the run that a copy of the folder of runs has in its place."""
    return path.name == LATEST and is_run_folder(path)


def followed(folder: Path) -> Path:
    """Return the run folder that a link leads to, so that messages, locks and tables have its own name."""
    if folder.name != LATEST or not folder.is_symlink():
        return folder
    return Path(os.path.normpath(folder.parent / folder.readlink()))
