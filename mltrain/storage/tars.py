"""The members of a tar archive."""

from __future__ import annotations

import posixpath
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mltrain.errors import DataError
from mltrain.progress import Meter
from mltrain.storage.index import IRREGULAR, Member, damaged

_MOST_LINKS = 32
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", ".gz", "gunzip"),
    b"BZ": ("bzip2", ".bz2", "bunzip2"),
    b"\xfd7": ("xz", ".xz", "unxz"),
}
"""first bytes of a compressed file -> its kind, its suffix, and what decompresses it"""


def members(path: str, _copy: Path | None) -> Iterator[Member]:
    """Yield the files of a tar archive; a link is the file that it leads to.

    Raises:
        DataError: the archive is compressed, damaged, cut short, or no tar archive.
    """
    links: list[tarfile.TarInfo] = []
    with Path(path).open("rb") as raw:
        size = Path(path).stat().st_size
        if (found := _COMPRESSED.get(raw.read(2))) is not None:
            kind, suffix, program = found
            packed = shlex.quote(path + suffix)
            raise DataError(
                f"{path}: is compressed ({kind}), although its name does not say so, and a compressed archive gives no "
                f"access to a single file. Decompress it once: mv {shlex.quote(path)} {packed} && {program} {packed}"
            )
        raw.seek(0)
        try:
            with tarfile.open(fileobj=raw, mode="r:") as tar, Meter(f"indexing {Path(path).name}", size) as meter:
                done = 0
                while (entry := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                    meter.add(entry.offset_data - done)
                    done = entry.offset_data
                    if entry.islnk() or entry.issym():
                        links.append(entry)
                    elif entry.isreg() and not entry.issparse():
                        if entry.offset_data + entry.size > size:
                            raise damaged(path, f"{entry.name} ends after the end of the archive")
                        yield Member(entry.name, entry.offset_data, entry.size, entry.size)
                    elif not entry.isdir():
                        yield Member(entry.name, 0, 0, 0, method=IRREGULAR)
                raw.seek(tar.offset)
                if any(raw.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
                    raise damaged(path, f"no header at byte {tar.offset}")
        except tarfile.TarError as error:
            raise damaged(path, f"as a tar archive: {error}") from error
    if links:
        yield from _linked(path, links)


def _linked(path: str, links: list[tarfile.TarInfo]) -> Iterator[Member]:
    """Yield the links of an archive as the files that they lead to; few archives have any, so it is read again."""
    targets = {}
    for entry in links:
        below = posixpath.dirname(entry.name) if entry.issym() else ""
        targets[posixpath.normpath(entry.name)] = posixpath.normpath(posixpath.join(below, entry.linkname))
    with tarfile.open(path, mode="r:") as tar:
        files = {posixpath.normpath(e.name): e for e in tar if e.isreg() and not e.issparse()}
    for name, target in targets.items():
        for _ in range(_MOST_LINKS):
            if target not in targets:
                break
            target = targets[target]
        found = files.get(target)
        if found is None:
            yield Member(name, 0, 0, 0, method=IRREGULAR)
        else:
            yield Member(name, found.offset_data, found.size, found.size)
