"""The members of a zip archive."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mltrain.progress import track
from mltrain.storage.index import ENCRYPTED, IRREGULAR, Member, damaged

_HEADER = struct.Struct("<4s22xHH")
"""a local file header: its mark, and the lengths of name and extra field, which lie between it and the data"""


def members(path: str, _copy: Path | None) -> Iterator[Member]:
    r"""Yield the files of a zip archive; a backslash separates folders, too.

    Raises:
        DataError: the archive is damaged, cut short, or no zip archive.
    """
    try:
        with Path(path).open("rb", buffering=_HEADER.size) as raw, zipfile.ZipFile(raw) as packed:
            size = os.fstat(raw.fileno()).st_size
            entries = packed.infolist()
            for entry in track(entries, f"indexing {Path(path).name}", len(entries), unit="files"):
                if entry.is_dir():
                    continue
                raw.seek(entry.header_offset)
                mark, name, extra = _HEADER.unpack(raw.read(_HEADER.size))
                begin = entry.header_offset + _HEADER.size + name + extra
                if mark != b"PK\x03\x04" or begin + entry.compress_size > size:
                    raise damaged(path, f"{entry.filename} is not where the archive says")
                kind = stat.S_IFMT(entry.external_attr >> 16)
                method = entry.compress_type
                if kind not in (0, stat.S_IFREG):
                    method = IRREGULAR
                elif entry.flag_bits & 1:
                    method = ENCRYPTED
                yield Member(
                    entry.filename.replace("\\", "/"),
                    *(begin, entry.compress_size, entry.file_size),
                    crc=entry.CRC,
                    method=method,
                )
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError) as error:
        raise damaged(path, f"as a zip archive: {error}") from error
