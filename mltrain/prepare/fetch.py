"""Fetching the files of a data set to where the readers expect them, and verifying that it is complete."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from mltrain.datasets.sources import PublishedCounts, RemoteFile
from mltrain.datasets.splits import Splits, check_files, check_splits
from mltrain.errors import DataError
from mltrain.files import LockedError, locked, write_text
from mltrain.prepare.download import disk_error, download, forget_part
from mltrain.prepare.unpack import Damaged, merge, unpack
from mltrain.progress import Meter, amount

log = logging.getLogger(__name__)

STORE = "downloads"
"""folder below dataset.root for archives; an archive that the user puts there is used"""
CHECKSUMS = "checksums.sha256"
"""file in STORE with the SHA-256 of every first download, in the format of sha256sum"""
BLOCK = 1 << 20


def is_there(remote: RemoteFile, root: Path) -> bool:
    """Return whether the content of a file is in its place, judged by the number of files; no file is opened."""
    return not is_interrupted(remote, root) and not _lacking(remote, root / remote.into)


def is_interrupted(remote: RemoteFile, root: Path) -> bool:
    """Return whether the files of an archive were being moved to their place when `fetch` was killed."""
    return _unpacking(remote, root).exists()


def fetch(name: str, files: Sequence[RemoteFile], root: Path, *, keep_archives: bool = True) -> None:
    """Download, verify and unpack `files` below `root`; finished steps are not repeated.

    An archive is unpacked to a folder of its own and its files are counted; then they are moved to their place. So an
    interruption at any point leaves the archive or all its files, and the same call continues from there.

    Raises:
        DataError: there is not enough space, no connection, a wrong checksum, a damaged or suspicious archive, an
            archive that lacks files, or another process that does the same.
    """
    store = root / STORE
    try:
        with locked(store / ".lock", patience=0):
            _require_space(name, files, root, keep_archives)
            for number, remote in enumerate(files, 1):
                log.info("%s: %d of %d, %s (about %s)", name, number, len(files), remote.name, amount(remote.size))
                try:
                    _obtain(remote, root, keep_archives)
                except OSError as error:
                    raise disk_error(error, store / remote.name) from error
    except LockedError as error:
        raise DataError(f"{store}: {error} is downloading to it; let it end") from error
    except OSError as error:
        raise disk_error(error, store) from error


def remove_archives(files: Sequence[RemoteFile], root: Path) -> None:
    """Delete the archives whose files are in their place: `fetch` may have been killed before it did."""
    for remote in files:
        if remote.unpacked is not None and is_there(remote, root):
            (root / STORE / remote.name).unlink(missing_ok=True)


def _obtain(remote: RemoteFile, root: Path, keep_archives: bool) -> None:
    store = root / STORE
    file = store / remote.name
    if file.exists():
        forget_part(file)
    else:
        download(remote.urls, file)
    _check_sums(remote, file)
    if remote.unpacked is None:
        with file.open("rb") as stream:
            if stream.read(512).lstrip().lower().startswith((b"<!doctype", b"<html")):
                raise DataError(_set_aside(file, "is a web page: does a proxy ask for a login?"))
        place = root / remote.into / remote.name
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
        return
    _unpack(remote, file, root)
    if not keep_archives:
        file.unlink()


def _unpack(remote: RemoteFile, file: Path, root: Path) -> None:
    folder = file.with_name(f".{file.name}.unpacked")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        try:
            files = unpack(file, folder)
        except Damaged as error:
            raise DataError(_set_aside(file, f"is not the expected archive: {error}")) from error
        lacking = _lacking(remote, folder)
        if lacking:
            raise DataError(_set_aside(file, f"is not the expected archive: {lacking}"))
        _unpacking(remote, root).touch()
        merge(folder, root / remote.into)
        shutil.rmtree(folder, ignore_errors=True)  # while the mark is there: a kill after it would leave the folder
        _unpacking(remote, root).unlink()
        log.info("%s: %d files unpacked", file.name, files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpacking(remote: RemoteFile, root: Path) -> Path:
    """Return the path of a mark that exists while the files of an archive are moved to their place."""
    return root / STORE / f"{remote.name}.unpacking"


def _lacking(remote: RemoteFile, folder: Path) -> str:
    """Describe what `folder` lacks of the content of a file; empty if nothing."""
    for path, needed in remote.gives:
        place = folder / path
        if needed == 1 and place.is_file():
            continue
        if not place.is_dir():
            return f"there is no {path}"
        with os.scandir(place) as entries:
            found = sum(1 for entry in entries if not entry.is_dir())
        if found < needed:
            return f"{path} has {found:,} files, expected are {needed:,}"
    return ""


def _set_aside(file: Path, what: str) -> str:
    """Rename a bad file, so that it can be downloaded again, and return the message."""
    wrong = file.with_name(file.name + ".wrong")
    file.replace(wrong)
    return (
        f"{file}: {what}. It is now {wrong.name}, and may be deleted; repeat the command to download it again. If that "
        "ends the same way, the server's file has changed, or a proxy alters it"
    )


def _check_sums(remote: RemoteFile, file: Path) -> None:
    """Compare with the published MD5, if any, and with the SHA-256 noted at the first download."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with file.open("rb") as stream, Meter(f"checking {file.name}", file.stat().st_size) as meter:
        while block := stream.read(BLOCK):
            md5.update(block)
            sha256.update(block)
            meter.add(len(block))
    if remote.md5 is not None and md5.hexdigest() != remote.md5:
        raise DataError(_set_aside(file, f"has the wrong checksum: MD5 {md5.hexdigest()}, published is {remote.md5}"))
    notes = file.with_name(CHECKSUMS)
    noted = _noted(notes).get(file.name)
    if noted is None:
        before = notes.read_text(encoding="utf-8") if notes.exists() else ""
        if not before.endswith("\n") and before:
            before += "\n"  # earlier versions appended to the file, so that a kill could cut a line short
        write_text(notes, f"{before}{sha256.hexdigest()}  {file.name}\n")
        published = "MD5 as published" if remote.md5 else "no checksum is published"
        log.info("%s: SHA-256 %s noted, %s", file.name, sha256.hexdigest()[:16], published)
    elif noted != sha256.hexdigest():
        different = f"SHA-256 {sha256.hexdigest()}, {notes} has {noted}"
        advice = "delete that line if the file is known to have changed"
        raise DataError(_set_aside(file, f"differs from the first download: {different} ({advice})"))


def _noted(notes: Path) -> dict[str, str]:
    try:
        lines = [line.split(maxsplit=1) for line in notes.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return {}
    return {words[1].lstrip("*"): words[0] for words in lines if len(words) == 2}


def _require_space(name: str, files: Sequence[RemoteFile], root: Path, keep_archives: bool) -> None:
    free = shutil.disk_usage(root).free
    needed = _space(files, root, keep_archives)
    if needed <= free:
        log.info("%s: needs about %s below %s, %s are free", name, amount(needed), root, amount(free))
        return
    less = _space(files, root, keep_archives=False)
    hint = f"; with keep_archives=false {amount(less)} are enough" if keep_archives and less < needed else ""
    raise DataError(
        f"{name}: needs about {amount(needed)} below {root.absolute()}, for downloads and what they unpack to; "
        f"{amount(free)} are free{hint}. Free some space, or choose another disk: dataset.root=FOLDER"
    )


def _space(files: Sequence[RemoteFile], root: Path, keep_archives: bool) -> int:
    """Return the bytes that must be free: the most that are in use at a time, less those downloaded already."""
    used = most = 0
    for remote in files:
        file = root / STORE / remote.name
        part = file.with_name(file.name + ".part")
        have = next((place.stat().st_size for place in (file, part) if place.exists()), 0)
        used += max(remote.size - have, 0) + (remote.unpacked or 0)
        most = max(most, used)
        if remote.unpacked is not None and not keep_archives:
            used -= remote.size
    return most


def verify(splits: Splits, counts: PublishedCounts | None) -> None:
    """Check that every image file exists, that no split shares images with train, and that published counts match.

    Raises:
        DataError: a check fails.
    """
    check_splits(splits)
    for labels in splits:
        if labels is not None:
            check_files(labels)
    if counts is None:
        return
    test = splits.val if splits.test is None else splits.test
    for labels, what, found, expected in (
        (splits.train, "classes", splits.train.num_classes, counts.classes),
        (splits.train, "images", len(splits.train), counts.train),
        (splits.val, "images", len(splits.val), counts.val),
        (test, "images", len(test), counts.test),
    ):
        if expected is not None and found != expected:
            raise DataError(
                f"{labels.name}: {found:,} {what}, but {expected:,} are published; this is another version of "
                "the data, or it is incomplete. again=true downloads and unpacks everything again"
            )
