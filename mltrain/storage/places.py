"""Paths of files and folders, some of which lead through an archive."""

# Paths are text here: there may be millions.
# ruff: noqa: PTH112, PTH113, PTH116, PTH118, PTH123, PTH208

from __future__ import annotations

import io
import os
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

from mltrain import files
from mltrain.storage.archive import COMPRESSED, KINDS, TABLES, is_archive, opened

Path = str | os.PathLike[str]
_SUFFIX = re.compile(f"(?:{'|'.join(map(re.escape, (*COMPRESSED, *KINDS)))})(?=$|/|{re.escape(os.sep)})", re.IGNORECASE)


class State(NamedTuple):
    """Size in bytes, and time of the last change in nanoseconds; a member has the time of its archive."""

    size: int
    time: int


def locate(path: Path) -> tuple[str, str] | None:
    """Return the archive that a path leads through, and the path inside it; None if it leads through none."""
    text = os.fspath(path)
    for found in _SUFFIX.finditer(text):
        archive = text[: found.end()]
        if is_archive(archive):
            inner = text[found.end() :].lstrip("/" + os.sep)
            if os.sep != "/":
                inner = inner.replace(os.sep, "/")
            inner = posixpath.normpath(inner) if inner else ""
            return archive, "" if inner == "." else inner
    return None


def is_table(path: Path) -> bool:
    """Return whether a path leads through a Parquet or Arrow file, whose members are all images, without a suffix."""
    inside = locate(path)
    return inside is not None and inside[0].lower().endswith(TABLES)


def read_member(archive: str, name: str) -> np.ndarray:
    """Return the bytes of a member, uint8. DataError: it cannot be read; the message names archive and member."""
    return opened(archive).read(name)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file. OSError, DataError: it cannot be read."""
    inside = locate(path)
    if inside is not None:
        return read_member(*inside).tobytes()
    with open(path, "rb") as file:
        return file.read()


def open_text(path: Path, *, encoding: str, newline: str | None = None) -> IO[str]:
    """Open a text file for reading. OSError, DataError: it cannot be opened."""
    inside = locate(path)
    if inside is None:
        return open(path, encoding=encoding, newline=newline)
    return io.TextIOWrapper(io.BytesIO(read_member(*inside).tobytes()), encoding=encoding, newline=newline)


def exists(path: Path) -> bool:
    """Return whether there is a file, a folder, or a link that may lead nowhere."""
    inside = locate(path)
    if inside is None:
        return os.path.lexists(path)
    index = opened(inside[0]).index
    return not inside[1] or index.find(inside[1]) is not None or index.has_folder(inside[1])


def is_file(path: Path) -> bool:
    """Return whether there is a regular file."""
    inside = locate(path)
    if inside is None:
        return os.path.isfile(path)
    return opened(inside[0]).index.find(inside[1]) is not None


def is_folder(path: Path) -> bool:
    """Return whether there is a folder; an archive is one."""
    inside = locate(path)
    if inside is None:
        return os.path.isdir(path)
    return not inside[1] or opened(inside[0]).index.has_folder(inside[1])


def names_in(folder: Path) -> list[str]:
    """Return the names of the files and folders in a folder. OSError: it cannot be listed."""
    inside = locate(folder)
    if inside is None:
        return os.listdir(folder)
    folders, names = opened(inside[0]).index.list_folder(inside[1])
    if not folders and not names and inside[1]:
        raise FileNotFoundError(2, "No such folder in the archive", os.fspath(folder))
    return [*folders, *names]


def archives_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the tar and zip archives in a folder on disk, sorted."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / name for name in names if name.lower().endswith(tuple(KINDS.keys() - set(TABLES)))]


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of the files in a folder, sorted; none if it cannot be listed."""
    _, folders, names = next(walk(folder), ("", [], []))
    return sorted(folders), sorted(names)


class ArchiveFolder(NamedTuple):
    """A folder in an archive."""

    path: str
    """symbolic links resolved"""
    device: int
    """a number of the archive, which no device has"""
    files: dict[str, int]
    """name -> where its bytes begin; hard links begin at the same place"""
    irregular: list[str]
    """names of links that lead nowhere, and of devices"""


def archive_folder(folder: Path) -> ArchiveFolder | None:
    """Return the files in a folder of an archive; None if the path leads through none."""
    inside = locate(folder)
    if inside is None:
        return None
    archive, name = opened(inside[0]), inside[1]
    found, irregular = dict[str, int](), list[str]()
    for file in archive.index.list_folder(name)[1]:
        member = archive.index.find(f"{name}/{file}" if name else file)
        assert member is not None
        if member.is_regular:
            found[file] = member.offset
        else:
            irregular.append(file)
    place = os.path.join(os.path.realpath(inside[0]), name) if name else os.path.realpath(inside[0])
    return ArchiveFolder(place, ~hash((archive.status.st_dev, archive.status.st_ino)), found, irregular)


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths are one file: links, or members whose bytes lie at one place."""
    first, second = locate(one), locate(other)
    if first is None or second is None:
        return first is None and second is None and pathlib.Path(one).samefile(other)
    found, member = opened(first[0]).index.find(first[1]), opened(second[0]).index.find(second[1])
    same = found is not None and member is not None and found.offset == member.offset
    return same and pathlib.Path(first[0]).samefile(second[0])


def state(path: Path) -> State:
    """Return size and time of a file. OSError: there is no such file."""
    inside = locate(path)
    if inside is None:
        status = os.stat(path)
        return State(status.st_size, status.st_mtime_ns)
    archive = opened(inside[0])
    member = archive.index.find(inside[1])
    if member is None:
        raise FileNotFoundError(2, f"the archive {inside[0]} has no member {inside[1]!r}", os.fspath(path))
    return State(member.size, archive.status.st_mtime_ns)


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk down a folder as `files.walk` does, which may lie in an archive."""
    inside = locate(folder)
    if inside is None:
        yield from files.walk(folder)
        return
    folders, names = opened(inside[0]).index.list_folder(inside[1])
    place = os.fspath(folder)
    yield place, folders, names
    for below in folders:
        yield from walk(f"{place}/{below}")
