"""Unpacking archives that are not trusted: only files and folders, and none outside the target folder.

Whoever made an archive chose the names in it. An archive with an absolute name, a name with `..`, a link or a device is
refused, because none of the public data sets has any.
"""

from __future__ import annotations

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from mltrain.errors import DataError
from mltrain.prepare.download import require_space
from mltrain.progress import Meter

BLOCK = 1 << 20
BROKEN = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, NotImplementedError)


class Damaged(Exception):
    """The archive is incomplete, is no archive, or holds something that no public data set needs."""


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip, tar or tar.gz into `folder`, which exists and is empty; return the number of files.

    Modes and owners are ignored.

    Raises:
        Damaged: the archive is cut short, altered, of another kind, or holds something that no data set needs (see
            above). `folder` then holds a part of it.
        DataError: the archive needs more space than there is.
        OSError: `folder` cannot be written.
    """
    with archive.open("rb") as raw:
        start = raw.read(512)
        raw.seek(0)
        try:
            if start.startswith(b"PK"):
                return _unpack_zip(archive, raw, folder)
            with tarfile.open(fileobj=raw, mode="r:*") as tar:
                return _unpack_tar(archive, raw, tar, folder)
        except BROKEN as error:
            page = start.lstrip()[:1] == b"<"
            reason = "it is a web page: does a proxy ask for a login?" if page else str(error) or type(error).__name__
            raise Damaged(reason) from error


def _unpack_zip(archive: Path, raw: IO[bytes], folder: Path) -> int:
    with zipfile.ZipFile(raw) as packed:
        members = packed.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refusal(member.filename, "a link or a device")
            if member.flag_bits & 1:
                raise _refusal(member.filename, "encrypted")
        total = sum(member.file_size for member in members)
        require_space(f"{archive}: unpacking it", folder.parent, total)
        files = 0
        with Meter(f"unpacking {archive.name}", total) as meter:
            for member in members:
                place = _place(folder, member.filename)
                if member.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                else:
                    with packed.open(member) as stream:
                        _write(stream, place, meter)
                    files += 1
    return files


def _unpack_tar(archive: Path, raw: IO[bytes], tar: tarfile.TarFile, folder: Path) -> int:
    free = shutil.disk_usage(folder).free
    files = total = 0
    with Meter(f"unpacking {archive.name}", archive.stat().st_size) as meter:
        for member in tar:
            place = _place(folder, member.name)
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            if not member.isreg():
                raise _refusal(member.name, "a link or a device")
            total += member.size
            if total > free:
                require_space(f"{archive}: unpacking it", folder.parent, total)
            stream = tar.extractfile(member)
            assert stream is not None
            before = raw.tell()
            written = _write(stream, place, None)
            if written != member.size:
                raise Damaged(f"{member.name} is cut short")
            meter.add(max(raw.tell() - before, 0))
            files += 1
    return files


def _place(folder: Path, name: str) -> Path:
    """Return the path of a member. It is inside `folder`: its parts are plain names, and `folder` holds no link."""
    parts = PurePosixPath(name).parts
    odd = name.startswith("/") or "\\" in name or "\0" in name or ":" in (parts[0] if parts else "")
    if odd or ".." in parts:
        raise _refusal(name, "a path that leads outside the folder")
    return folder.joinpath(*parts)


def _refusal(name: str, what: str) -> Damaged:
    return Damaged(f"it holds {what}, {name[:200]!r}; no public data set needs that")


def _write(stream: IO[bytes], place: Path, meter: Meter | None) -> int:
    place.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with place.open("wb") as out:
        while block := stream.read(BLOCK):
            out.write(block)
            size += len(block)
            if meter is not None:
                meter.add(len(block))
    return size


def merge(source: Path, target: Path) -> None:
    """Move the content of the folder `source` into the folder `target`, replacing files and joining folders.

    Raises:
        DataError: a folder has the name of a file, or a file that of a folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir():
            if place.is_dir():
                merge(entry, place)
                continue
            if place.exists() or place.is_symlink():
                raise DataError(f"{place}: this file has the name of a folder to unpack; move it away and repeat")
        elif place.is_dir():
            raise DataError(f"{place}: this folder has the name of a file to unpack; move it away and repeat")
        entry.replace(place)
