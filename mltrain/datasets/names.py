"""Names that people write in more than one way: class names in other code points, image files without their suffix."""

# Paths are text here: they stay as the user wrote them, and there may be millions.
# ruff: noqa: PTH100, PTH118, PTH122

from __future__ import annotations

import logging
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Sequence

from mltrain import storage
from mltrain.errors import DataError
from mltrain.text import first_few

log = logging.getLogger(__name__)

_UPLOADED = re.compile(r"/?(data/)?upload/[0-9]+/")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|/?(?:data/)?upload/[0-9]+/|/data/local-files/")
_HASH = re.compile(r"^[0-9a-f]{8}-")
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".jfif", ".jp2", ".avif"),
)
"""suffixes of image files, in lower case"""
NO_DATA = frozenset({"@eadir", "#recycle", "$recycle.bin", "__macosx", "__pycache__", "lost+found"})
"""folders, in lower case, that file servers and programs leave beside images"""


def one_spelling(name: str) -> str:
    """Return a name in NFC, with every run of white space as one space; equal for names that look the same."""
    return unicodedata.normalize("NFC", " ".join(name.split()))


def distinct_spellings(names: Iterable[str], where: object) -> set[str]:
    """Return the one spelling of each name. DataError: two of them are the same."""
    found: dict[str, str] = {}
    for name in names:
        if one_spelling(name) in found:
            raise DataError(f"{where}: {name!r} is there twice, with other code points or white space; keep one")
        found[one_spelling(name)] = name
    return set(found)


class Spellings:
    """Class names as they are written, found by their one spelling."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, name: str) -> str:
        """Add a name and return its key; a name in two spellings is kept in NFC."""
        key = one_spelling(name)
        folded = " ".join(name.split())
        if self._names.setdefault(key, folded) != folded:
            self._names[key] = key
        return key

    def __getitem__(self, key: str) -> str:
        return self._names[key]


def warn_of_case(names: Sequence[str], where: object) -> None:
    """Log the class names that differ in upper and lower case only."""
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault(one_spelling(name).casefold(), []).append(name)
    alike = [" and ".join(map(repr, same)) for same in by_key.values() if len(same) > 1]
    if alike:
        log.warning(
            "%s: classes that differ in upper and lower case only are kept apart: %s", where, first_few(sorted(alike))
        )


def of_address(image: str) -> list[str]:
    """Return where the image of an address may lie below the root, the most likely place first; [] for a plain path.

    Addresses are those of the web and of cloud storage (``https://host/a/1.jpg``, ``s3://bucket/a/1.jpg``), and those
    that Label Studio writes: ``/data/local-files/?d=a/1.jpg``, and ``/data/upload/7/0123abcd-1.jpg`` for an uploaded
    file ``1.jpg``.
    """
    if not _ADDRESS.match(image):
        return []
    address = urllib.parse.urlsplit(image)
    if image.startswith("/data/local-files/"):
        path = "".join(urllib.parse.parse_qs(address.query).get("d", [""]))
    else:
        path = urllib.parse.unquote(address.path)
    path = path.lstrip("/")
    name = path.rpartition("/")[2]
    short = _HASH.sub("", name) if _UPLOADED.match(image) else name
    return list(dict.fromkeys([path, name, f"images/{name}", short, f"images/{short}"]))


class ImageFinder:
    r"""Finds image files by names that are not written as on disk.

    A backslash may separate folders (``photos\1.jpg``), the suffix may be missing (``1``), and accents may have other
    code points. A name that is written as usual is returned without a look at the disk. One that is not found is
    returned, too: `check_files` reports it. The image of an address (`of_address`) is looked for by its path and name.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(root)
        self._folders: dict[str, dict[str, str] | None] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, image: str, where: str = "") -> str:
        """Return the normalized path of an image, relative to the root unless it is absolute.

        Raises:
            DataError: the name has no suffix, and several images have this stem.
        """
        if places := of_address(image):
            return self._at_address(places, where)
        return self._find_path(image, where)

    def _find_path(self, image: str, where: str) -> str:
        if "\\" in image and not storage.exists(os.path.join(self.root, image)):
            image = image.replace("\\", "/")
        path = os.path.normpath(image)
        complete = path.lower().endswith(SUFFIXES)
        if complete and path.isascii():
            return path
        found = self._on_disk(path)
        if complete or found is not None:
            return found or path
        same = self._with_suffix(path)
        if len(same) > 1:
            raise DataError(f"{where}: {image!r} has no suffix, and there are {first_few(same)}; name one of them")
        return same[0] if same else path

    def _at_address(self, places: list[str], where: str) -> str:
        found = [self._find_path(place, where) for place in places if place]
        return next((path for path in found if storage.exists(os.path.join(self.root, path))), found[0])

    def find_suffix(self, path: str, suffix: str, where: str) -> str:
        """Return `path` with `suffix`, or with the suffix of the file that is there instead.

        Raises:
            DataError: several images have other suffixes.
        """
        parent, name = os.path.split(path)
        if one_spelling(name) + suffix in (self._entries(parent) or {}):
            return self._on_disk(path + suffix) or path + suffix
        same = self._with_suffix(path)
        if len(same) > 1:
            raise DataError(f"{where}: there are {first_few(same)} for {name!r}; keep one of them")
        return same[0] if same else path + suffix

    def _with_suffix(self, path: str) -> list[str]:
        """Return the images whose path up to the suffix is `path`, sorted."""
        parent, name = os.path.split(path)
        place = self._on_disk(parent) if parent else ""
        if place is None or self._entries(place) is None:
            return []
        if place not in self._stems:
            stems = self._stems[place] = {}
            for key, entry in (self._entries(place) or {}).items():
                if entry.lower().endswith(SUFFIXES):
                    stems.setdefault(os.path.splitext(key)[0], []).append(entry)
        return sorted(os.path.join(place, entry) for entry in self._stems[place].get(one_spelling(name), []))

    def key(self, path: str) -> str:
        """Return the same text for a path below the root, whether it is absolute or relative."""
        if not path.startswith(("/", "..")):
            return path
        full = os.path.normpath(os.path.join(self.root, path))
        inside = self.root.rstrip("/") + "/"
        return full[len(inside) :] if full.startswith(inside) else full

    def _on_disk(self, path: str) -> str | None:
        """Return the path with every part as it is on disk, or None if there is no such file or folder."""
        if storage.exists(os.path.join(self.root, path)):
            return path
        if path.isascii():
            return None
        place = "/" if path.startswith("/") else ""
        for part in path.strip("/").split("/"):
            entries = self._entries(place)
            if entries is None or one_spelling(part) not in entries:
                return None
            place = os.path.join(place, entries[one_spelling(part)])
        return place

    def _entries(self, folder: str) -> dict[str, str] | None:
        """Return the entries of a folder by their one spelling, or None if it cannot be listed."""
        if folder not in self._folders:
            try:
                names = sorted(storage.names_in(os.path.join(self.root, folder)))
                self._folders[folder] = {one_spelling(name): name for name in names}
            except OSError:
                self._folders[folder] = None
        return self._folders[folder]
