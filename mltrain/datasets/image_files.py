"""Image files of data sets as the folders list them: which are missing, and which are the same file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mltrain import storage
from mltrain.errors import DataError
from mltrain.files import kind_of
from mltrain.labels import LabelSet
from mltrain.progress import track
from mltrain.text import counted, first_lines, part_of

log = logging.getLogger(__name__)


def check_files(labels: LabelSet) -> None:
    """Check that every image is a regular file, before hours of training depend on it.

    Raises:
        DataError: see `missing_files`.
    """
    if (found := missing_files(labels)) is not None:
        raise DataError(found)


def warn_of_files(labels: LabelSet) -> None:
    """Log which images are not there, for commands that read labels only."""
    if (found := missing_files(labels)) is not None:
        log.warning("%s", found)


def missing_files(labels: LabelSet) -> str | None:
    """Say which images are missing, or are folders, pipes, devices or links that lead nowhere; None: all are files.

    The text has the first 5, their number, the folder they should be in, and what to do. Each folder is listed once, so
    there is no `stat` for each image.
    """
    title = f"{labels.name}: looking for files"
    missing: list[str] = []
    others: list[str] = []
    alike: tuple[str, str] | None = None
    for file, name, folder in _with_folders(labels, title):
        if name in folder.others:
            others.append(f"{file}: {folder.others[name]}")
        elif name not in folder.inodes:
            missing.append(file)
            if alike is None and (other := _alike(name, folder.inodes)) is not None:
                alike = (name, other)
    if others:
        return (
            f"{labels.name}: of {counted(len(labels), 'image')} under {Path(labels.root).absolute()}, "
            f"{len(others)} cannot be read as a "
            f"regular file; remove them, or copy the images there:{first_lines(others)}"
        )
    if not missing:
        return None
    root = Path(labels.root).absolute()
    advice = "check dataset.root" if storage.is_folder(root) else "the folder does not exist: check dataset.root"
    if 2 * len(missing) <= len(labels):
        one = len(missing) == 1
        advice = f"add {'it, or remove its row' if one else 'them, or remove their rows'} from the labels"
    elif held := _archive_with(missing, root):
        advice = f"{held} has them: dataset.root={held}"
    absolute = sum(file.startswith("/") for file in missing)
    if absolute:
        advice += f"; {absolute} paths begin with / and so are not below dataset.root: remove the / if they should be"
    if alike is not None:
        advice += f"; for {alike[0]} there is {alike[1]}"
    return (
        f"{labels.name}: {part_of(len(missing), len(labels), 'image file', 'are')} missing, expected under "
        f"{root} ({advice}):"
        f"{first_lines(missing)}"
    )


def _archive_with(files: Sequence[str], root: Path) -> Path | None:
    """Return the archive in a folder, or beside it, that holds the first of some files; None: there is none."""
    for archive in (*storage.archives_in(root), *storage.archives_in(root.parent)):
        try:
            if storage.exists(archive / files[0]):
                return archive
        except DataError:  # damaged
            continue
    return None


def _alike(name: str, found: Iterable[str]) -> str | None:
    """Return a file that has the same name up to its suffix, up to upper and lower case."""
    stem = PurePosixPath(name).stem.lower()
    return next((other for other in sorted(found) if PurePosixPath(other).stem.lower() == stem), None)


class Image(NamedTuple):
    """A file of a data set."""

    file: str
    """as listed"""
    path: str
    """symbolic links resolved"""
    inode: tuple[int, int] | None
    """(device, inode) as the folder lists it; None if there is no such file"""


def located(labels: LabelSet) -> Iterator[Image]:
    """Yield every image with its place on disk, in order; no image is opened."""
    for file, name, folder in _with_folders(labels, f"{labels.name}: images in other splits"):
        path = folder.links.get(name) or f"{folder.path}{os.sep}{name}"
        inode = folder.inodes.get(name)
        device = folder.devices.get(name, folder.device)
        yield Image(file, path, None if inode is None else (device, inode))


def _with_folders(labels: LabelSet, title: str) -> Iterator[tuple[str, str, _Folder]]:
    """Yield (file as listed, its name, its folder) of every image; each folder is listed once."""
    folders: dict[str, _Folder] = {}
    for i in track(range(len(labels)), title, len(labels), unit="images"):
        file = labels.file(i)
        parent, slash, name = file.rpartition("/")
        if slash and not parent:
            parent = "/"
        folder = folders.get(parent)
        if folder is None:
            folder = folders[parent] = _Folder(Path(labels.root, parent))
        yield file, name, folder


class _Folder:
    """Regular files in a folder: their inodes by name, and the targets of the symbolic links among them."""

    def __init__(self, folder: Path) -> None:
        self.path = os.path.realpath(folder)
        self.device = 0
        self.inodes: dict[str, int] = {}
        self.links: dict[str, str] = {}
        self.devices: dict[str, int] = {}
        """devices of the targets of links"""
        self.others: dict[str, str] = {}
        """what each other entry is: a folder, a pipe, a link that leads nowhere"""
        inside = storage.archive_folder(folder)
        if inside is not None:
            self.path, self.device, self.inodes = inside.path, inside.device, inside.files
            self.others = dict.fromkeys(inside.irregular, "a link that leads nowhere, or a device")
            return
        try:
            self.device = folder.stat().st_dev
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        self._follow(entry)
                    elif entry.is_file():
                        self.inodes[entry.name] = entry.inode()
                    else:
                        self.others[entry.name] = kind_of(entry.path) or "no file"
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise DataError(f"{folder.absolute()}: cannot be listed ({error.strerror})") from error

    def _follow(self, link: os.DirEntry[str]) -> None:
        """Add a symbolic link."""
        self.links[link.name] = os.path.realpath(link.path)
        try:
            if link.is_file():
                status = link.stat()
                self.inodes[link.name], self.devices[link.name] = status.st_ino, status.st_dev
            elif (kind := kind_of(link.path)) is not None:
                self.others[link.name] = f"a link to {kind}"
        except OSError as error:
            self.others[link.name] = f"a symbolic link that cannot be followed ({error.strerror})"
