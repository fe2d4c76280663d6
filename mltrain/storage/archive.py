"""Archives that this process has open, and the reading of their members."""

from __future__ import annotations

import os
import shlex
import stat
import threading
import weakref
import zlib
from collections import OrderedDict
from contextlib import suppress

import numpy as np

from mltrain.errors import DataError
from mltrain.storage import tables, tars, zips
from mltrain.storage.index import DEFLATED, ENCRYPTED, IRREGULAR, NO_CRC, STORED, Builder, Member, open_index

KINDS: dict[str, Builder] = {
    ".tar": tars.members,
    ".zip": zips.members,
    ".parquet": tables.parquet_members,
    ".arrow": tables.arrow_members,
}
"""suffix of an archive -> what finds its members"""
TABLES = (".parquet", ".arrow")
"""suffixes of archives whose members are all images"""
COMPRESSED = {
    **dict.fromkeys((".tar.gz", ".tgz"), "gunzip --keep"),
    **dict.fromkeys((".tar.bz2", ".tbz", ".tbz2"), "bunzip2 --keep"),
    **dict.fromkeys((".tar.xz", ".txz"), "unxz --keep"),
    ".tar.zst": "unzstd",
}
"""suffix of a compressed tar archive -> what makes a .tar of it"""
MOST_OPEN = 64
_MOST_INFLATED = 1 << 30  # bytes; a few kilobytes can claim to be terabytes


class Archive:
    """An open archive.

    Raises:
        DataError: it is compressed as a whole, damaged, or no archive.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        suffix = next(end for end in (*COMPRESSED, *KINDS) if path.lower().endswith(end))
        if suffix in COMPRESSED:
            made = path[: -len(suffix)] + ".tar"
            raise DataError(
                f"{path}: a compressed tar archive gives no access to a single file. Decompress it once "
                f"({COMPRESSED[suffix]} {shlex.quote(path)}) and use {made}"
            )
        handle = _open(self, path)
        self.status = os.fstat(handle)
        self.index = open_index(path, self.status, KINDS[suffix])
        if self.index.data != path:
            handle = _open(self, self.index.data)
        self._handle = handle
        self._size = os.fstat(handle).st_size

    def read(self, name: str) -> np.ndarray:
        """Return the bytes of a member, uint8, writable.

        Raises:
            DataError: there is no such member, it is damaged, or stored in a way that is not read.
        """
        member = self.index.find(name)
        if not name:
            raise DataError(f"{self.path}: cannot read the file: it is an archive; name a file in it")
        if member is None:
            missing = f"the archive {self.path} has no member {name!r}"
            raise self._error(name, "it is a folder" if self.index.has_folder(name) else missing)
        if reason := _unreadable(member):
            raise self._error(name, reason)
        try:
            data = self._bytes(member.offset, member.stored)
            if member.method == DEFLATED:
                data = _inflated(data, member.size)
        except (EOFError, zlib.error, ValueError) as error:
            raise self._error(name, f"the archive {self.path} is damaged there ({error})") from error
        except OSError as error:
            raise self._error(name, error.strerror or str(error)) from error
        if member.crc != NO_CRC and member.crc != zlib.crc32(data.data):
            raise self._error(name, f"the archive {self.path} is damaged there (its checksum, CRC-32, is another)")
        return data

    def _error(self, name: str, reason: str) -> DataError:
        return DataError(f"{self.path}/{name}: cannot read the file: {reason}")

    def _bytes(self, offset: int, count: int) -> np.ndarray:
        if not 0 <= offset <= offset + count <= self._size:
            raise EOFError("it ends after the end of the archive")
        data = np.empty(count, dtype=np.uint8)
        done = 0
        while done < count:
            read = _read_at(self._handle, data.data[done:], offset + done)
            if not read:
                raise EOFError("it ends after the end of the archive")
            done += read
        return data


def _open(owner: Archive, path: str) -> int:
    """Open a file until `owner` is gone; a thread may still read from an archive that another one closes."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    weakref.finalize(owner, os.close, handle)
    return handle


def _read_at(handle: int, into: memoryview, offset: int) -> int:
    """Read into a buffer from a position in a file; return the number of bytes, 0 at its end."""
    if hasattr(os, "preadv"):  # no position is shared, so threads and forked workers may read at once
        return os.preadv(handle, [into], offset)
    with _lock:  # Windows; it has no fork
        os.lseek(handle, offset, os.SEEK_SET)
        data = os.read(handle, len(into))
        into[: len(data)] = data
        return len(data)


def _unreadable(member: Member) -> str | None:
    if member.method == ENCRYPTED:
        return "it has a password; make the archive without one"
    if member.method == IRREGULAR:
        return "it is a link that leads nowhere in the archive, or no regular file"
    if member.method not in (STORED, DEFLATED):
        return f"its compression (method {member.method} of zip) is not read; make the archive with zip -r -0"
    if member.method == DEFLATED and member.size > _MOST_INFLATED:
        return f"it would have {member.size:,} bytes; compressed members of at most {_MOST_INFLATED:,} are read"
    return None


def _inflated(data: np.ndarray, size: int) -> np.ndarray:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    made = stream.decompress(data.data, size)
    if len(made) != size or not (stream.eof or not stream.decompress(stream.unconsumed_tail, 1)):
        raise EOFError("it has another size than the archive says")
    return np.frombuffer(made, dtype=np.uint8).copy()


_opened: OrderedDict[str, Archive] = OrderedDict()
_lock = threading.RLock()


def opened(path: str) -> Archive:
    """Return an archive; the `MOST_OPEN` that were used last stay open. One that has changed is opened again.

    Raises:
        DataError: it cannot be opened, or see `Archive`.
    """
    path = os.path.abspath(path)  # noqa: PTH100
    try:
        status = os.stat(path)  # noqa: PTH116  (for every image)
        with _lock:
            archive = _opened.get(path)
            if archive is None or _key(archive.status) != _key(status):
                _opened[path] = archive = Archive(path)
                while len(_opened) > MOST_OPEN:
                    _opened.popitem(last=False)
            with suppress(KeyError):
                _opened.move_to_end(path)
    except OSError as error:
        raise DataError(f"{path}: cannot open the archive: {error.strerror or error}") from error
    return archive


def is_archive(path: str) -> bool:
    """Return whether a path, whose suffix is one of those above, is a regular file."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return False


def _key(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _after_fork() -> None:
    """Replace the lock, which another thread of the parent may hold. Open files are shared with the parent."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
