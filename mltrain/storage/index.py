"""The index of an archive: where the bytes of each member lie.

An index is a file of one JSON line, which says what it belongs to, and records of fixed size, sorted by name. It is
mapped into memory, so all processes share it and nothing is parsed. `ARCHIVE.mltrain-index` lies beside the archive
or, if that folder cannot be written, in the user's cache folder. It is made again when the archive has another size or
time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mltrain.errors import DataError
from mltrain.files import atomic_write, locked
from mltrain.text import counted

_LOG = logging.getLogger(__name__)
_VERSION = 1
_SUFFIX = ".mltrain-index"
_announced: set[Path] = set()  # folders, because there may be thousands of archives in one
_LONGEST_HEADER = 4096
_NUMBERS = (("offset", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<i8"), ("method", "<i8"))

STORED, DEFLATED = 0, 8
"""how a member is compressed, in the numbers of the zip format"""
ENCRYPTED, IRREGULAR = -1, -2
"""a member that has a password; a link that leads nowhere, or a device"""
NO_CRC = -1


class Member(NamedTuple):
    """Place of the bytes of a member."""

    name: str
    offset: int
    stored: int
    """number of bytes in the file"""
    size: int
    """number of bytes when decompressed"""
    crc: int = NO_CRC
    """CRC-32 of the decompressed bytes"""
    method: int = STORED

    @property
    def is_regular(self) -> bool:
        """True if it is a file: no device, and no link that leads nowhere."""
        return self.method != IRREGULAR


Builder = Callable[[str, Path | None], Iterable[Member]]
"""Return the members of the archive at a path. If no member can be read in place, write a file of their bytes to the
second argument; the offsets are then those in that file. None: nothing can be written."""


class Index:
    """Members by name.

    Args:
        records: sorted by name.
        data: the file that the offsets belong to.
    """

    def __init__(self, records: np.ndarray, data: str) -> None:
        self.data = data
        self._records = records
        self._names = records["name"]

    def __len__(self) -> int:
        return len(self._records)

    def find(self, name: str) -> Member | None:
        """Return a member, or None if there is none of this name."""
        key = os.fsencode(name)
        at = bisect_left(self._names, key)
        if at == len(self._names) or self._names[at] != key:
            return None
        _, *numbers = self._records[at].item()
        return Member(name, *numbers)

    def has_folder(self, folder: str) -> bool:
        """Return whether a member lies below a folder; "" is the whole archive."""
        prefix = os.fsencode(folder + "/") if folder else b""
        at = bisect_left(self._names, prefix)
        return at < len(self._names) and bool(self._names[at].startswith(prefix))

    def list_folder(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the members directly in a folder, sorted."""
        folders, files = list[str](), list[str]()
        prefix = os.fsencode(folder + "/") if folder else b""
        at = bisect_left(self._names, prefix)
        while at < len(self._names) and (name := self._names[at]).startswith(prefix):
            child, below, _ = name[len(prefix) :].partition(b"/")
            if below:
                folders.append(os.fsdecode(child))
                at = bisect_left(self._names, prefix + child + b"0", at)  # "0" is the character after "/"
            else:
                files.append(os.fsdecode(child))
                at += 1
        return folders, files


def open_index(archive: str, status: os.stat_result, build: Builder) -> Index:
    """Open the index of an archive; make it first if it is missing or the archive has changed.

    If two processes ask at once, one makes the index and the other waits.

    Args:
        archive: path of the archive.
        status: of the open archive.
        build: returns its members.

    Raises:
        DataError: the archive is damaged, or see `build`.
    """
    key = {"version": _VERSION, "size": status.st_size, "time": status.st_mtime_ns}
    for place in _places(archive):
        index = _load(place, archive, key)
        if index is not None:
            return index
    reasons = []
    for place in _places(archive):
        try:
            with locked(place.with_name(f"{_SUFFIX}.lock")):
                return _load(place, archive, key) or _make(place, archive, key, build)
        except OSError as error:
            reasons.append(f"{place.parent}: {error.strerror or error}")
    _LOG.warning("%s: its index cannot be kept (%s), so every process makes it again", archive, "; ".join(reasons))
    return Index(_records(archive, build(archive, None)), archive)


def _places(archive: str) -> Iterator[Path]:
    """Yield where an index may be kept."""
    yield Path(archive + _SUFFIX)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    key = hashlib.sha256(os.fsencode(os.path.realpath(archive))).hexdigest()[:16]
    yield caches / "mltrain" / "indexes" / f"{key}-{Path(archive).name}{_SUFFIX}"


def copy_of(place: Path) -> Path:
    """Return the file for bytes that cannot be read in place, beside the index at `place`."""
    return place.with_suffix(".mltrain-images")


def _load(place: Path, archive: str, key: dict[str, int]) -> Index | None:
    try:
        with place.open("rb") as file:
            line = file.readline(_LONGEST_HEADER)
            header = json.loads(line)
            dtype = np.dtype([("name", f"S{int(header['width'])}"), *_NUMBERS])
            count, size = int(header["count"]), os.fstat(file.fileno()).st_size
            if {name: header[name] for name in key} != key or size != len(line) + count * dtype.itemsize:
                return None
            data = archive
            if header["copied"] is not None:
                data = os.fspath(copy_of(place))
                if os.stat(data).st_size != header["copied"]:  # noqa: PTH116
                    return None
            records = np.memmap(file, dtype, "r", len(line), (count,)) if count else np.empty(0, dtype)
            return Index(records, data)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(place: Path, archive: str, key: dict[str, int], build: Builder) -> Index:
    """Make the index and keep it at `place`; the caller holds the lock."""
    copy = copy_of(place)
    place.unlink(missing_ok=True)
    copy.unlink(missing_ok=True)
    with atomic_write(place) as temporary:
        temporary.touch()  # first find out whether the folder can be written
        records = _records(archive, build(archive, copy))
        copied = copy.stat().st_size if copy.exists() else None
        header: dict[str, Any] = {**key, "count": len(records), "width": records.dtype["name"].itemsize}
        with temporary.open("wb") as out:
            out.write(json.dumps({**header, "copied": copied}).encode() + b"\n")
            out.write(records.tobytes())
    if place.parent not in _announced:
        _announced.add(place.parent)
        _LOG.info(
            "%s: %s; its index is kept, and so are those of other archives: %s",
            *(archive, counted(len(records), "file"), place),
        )
    index = _load(place, archive, key)
    return index or Index(records, archive if copied is None else os.fspath(copy))


def _records(archive: str, members: Iterable[Member]) -> np.ndarray:
    """Return the records of members, sorted by name; of members that share a name, the last counts."""
    names, numbers = list[bytes](), array("q")
    outside = list[str]()
    for member in members:
        name = _inside(member.name)
        if name is None:
            outside.append(member.name)
        else:
            names.append(os.fsencode(name))
            numbers.extend(member[1:])
    width = max(map(len, names), default=1)
    records = np.empty(len(names), np.dtype([("name", f"S{width}"), *_NUMBERS]))
    records["name"] = names
    for column, (field, _) in zip(
        np.array(numbers, dtype=np.int64).reshape(-1, len(_NUMBERS)).T, _NUMBERS, strict=True
    ):
        records[field] = column
    records = records[np.argsort(records["name"], kind="stable")]
    last = np.ones(len(records), dtype=bool)
    last[:-1] = records["name"][1:] != records["name"][:-1]
    if outside:
        _LOG.warning(
            "%s: %d members left out, because their names lead outside the archive, such as %r",
            *(archive, len(outside), outside[0][:200]),
        )
    if not last.all():
        twice = os.fsdecode(records["name"][~last][0])
        _LOG.warning(
            "%s: %s there more than once, such as %r; the last member of each counts, as for tar and unzip",
            *(archive, counted(int((~last).sum()), "name", "are"), twice),
        )
    return records[last]


def _inside(name: str) -> str | None:
    """Return a member's name without "." and doubled slashes, or None if it leads outside the archive."""
    if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
        return None
    return posixpath.normpath(name)


def damaged(archive: str, reason: object) -> DataError:
    """Return the error for an archive that cannot be indexed."""
    return DataError(f"{archive}: the archive is damaged or cut short ({reason}); get it again")
