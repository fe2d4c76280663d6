"""From the table of sources to files where the readers look for them, and the check that all is there."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from mltrain.datasets.sources import Counts, Source
from mltrain.datasets.splits import Splits, check_files, check_splits
from mltrain.errors import DataError
from mltrain.prepare.download import disk_error, download
from mltrain.prepare.unpack import Damaged, merge, unpack
from mltrain.progress import Meter, amount

try:
    import fcntl
except ImportError:  # Windows: one process at a time is up to the user
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

STORE = "downloads"
"""folder below dataset.root for archives; one that is brought here by hand is used"""
CHECKSUMS = "checksums.sha256"
"""there: the SHA-256 of every file as it was first downloaded, in the format of sha256sum"""
BLOCK = 1 << 20


def is_there(source: Source, root: Path) -> bool:
    """Whether the files of a source are where they go, by their number; no file is opened."""
    return not _unpacking(source, root).exists() and not _lacking(source, root / source.into)


def fetch(name: str, sources: Sequence[Source], root: Path, *, keep_archives: bool = True) -> None:
    """Download, verify and unpack `sources` below `root`; whatever is done already is not done again.

    An archive is unpacked to a folder of its own, its files are counted, then they are moved to their place. So an
    interruption at any point leaves the archive and no half of it, and the same call goes on from there.

    Raises:
        DataError: not enough space, no connection, a wrong checksum, a damaged or suspicious archive, files missing in
            it, or another process is doing the same.
    """
    store = root / STORE
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, store) from error
    with _alone(store):
        _require_space(name, sources, root, keep_archives)
        for number, source in enumerate(sources, 1):
            log.info("%s: %d of %d, %s (about %s)", name, number, len(sources), source.file, amount(source.size))
            _obtain(source, root, keep_archives)


def _obtain(source: Source, root: Path, keep_archives: bool) -> None:
    store = root / STORE
    file = store / source.file
    if not file.exists():
        download(source.urls, file)
    try:
        _check_sums(source, file)
        if source.unpacked is None:
            with file.open("rb") as stream:
                if stream.read(512).lstrip().lower().startswith((b"<!doctype", b"<html")):
                    raise DataError(_set_aside(file, "is a web page: does a proxy ask for a login?"))
            place = root / source.into / source.file
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
            return
        _unpack(source, file, root)
        if not keep_archives:
            file.unlink()
    except OSError as error:
        raise disk_error(error, file) from error


def _unpack(source: Source, file: Path, root: Path) -> None:
    folder = file.with_name(f".{file.name}.unpacked")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        try:
            files = unpack(file, folder)
        except Damaged as error:
            raise DataError(_set_aside(file, f"is not what it should be: {error}")) from error
        lacking = _lacking(source, folder)
        if lacking:
            raise DataError(_set_aside(file, f"is not what it should be: {lacking}"))
        _unpacking(source, root).touch()
        merge(folder, root / source.into)
        _unpacking(source, root).unlink()
        log.info("%s: %d files unpacked", file.name, files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpacking(source: Source, root: Path) -> Path:
    """Exists while the files of an archive are moved to their place."""
    return root / STORE / f"{source.file}.unpacking"


def _lacking(source: Source, folder: Path) -> str:
    """What of a source is not in `folder`; empty: nothing."""
    for path, needed in source.gives:
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
    """The message; the file makes room for another download."""
    wrong = file.with_name(file.name + ".wrong")
    file.replace(wrong)
    return (
        f"{file}: {what}. It is now {wrong.name}, and may be deleted; repeat the command to download it again. If that "
        "ends the same way, the server's file has changed, or something between alters it"
    )


# -- checksums -------------------------------------------------------------------------------------------------------


def _check_sums(source: Source, file: Path) -> None:
    """Compare with the published MD5 where there is one, and with the SHA-256 noted at the first download."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with file.open("rb") as stream, Meter(f"checking {file.name}", file.stat().st_size) as meter:
        while block := stream.read(BLOCK):
            md5.update(block)
            sha256.update(block)
            meter.add(len(block))
    if source.md5 is not None and md5.hexdigest() != source.md5:
        raise DataError(_set_aside(file, f"has the wrong checksum: MD5 {md5.hexdigest()}, published is {source.md5}"))
    notes = file.with_name(CHECKSUMS)
    noted = _noted(notes).get(file.name)
    if noted is None:
        with notes.open("a") as out:
            out.write(f"{sha256.hexdigest()}  {file.name}\n")
        log.info("%s: SHA-256 %s noted, %s", file.name, sha256.hexdigest()[:16], "MD5 as published" if source.md5 else
                 "none is published")  # fmt: skip
    elif noted != sha256.hexdigest():
        raise DataError(
            _set_aside(
                file,
                f"differs from the first download: SHA-256 {sha256.hexdigest()}, {notes} has {noted} (delete that line "
                "if the file is known to have changed)",
            )
        )


def _noted(notes: Path) -> dict[str, str]:
    try:
        lines = [line.split(maxsplit=1) for line in notes.read_text().splitlines()]
    except FileNotFoundError:
        return {}
    return {words[1].lstrip("*"): words[0] for words in lines if len(words) == 2}


# -- space, other processes ------------------------------------------------------------------------------------------


def _require_space(name: str, sources: Sequence[Source], root: Path, keep_archives: bool) -> None:
    free = shutil.disk_usage(root).free
    needed = _space(sources, root, keep_archives)
    if needed <= free:
        log.info("%s: needs about %s below %s, %s are free", name, amount(needed), root, amount(free))
        return
    less = _space(sources, root, keep_archives=False)
    hint = f"; with keep_archives=false {amount(less)} are enough" if keep_archives and less < needed else ""
    raise DataError(
        f"{name}: needs about {amount(needed)} below {root.absolute()}, for downloads and what they unpack to; "
        f"{amount(free)} are free{hint}. Free some space, or choose another disk: dataset.root=FOLDER"
    )


def _space(sources: Sequence[Source], root: Path, keep_archives: bool) -> int:
    """Bytes that must be free: the most that are in use at a time, less what is here."""
    used = most = 0
    for source in sources:
        file = root / STORE / source.file
        part = file.with_name(file.name + ".part")
        have = next((place.stat().st_size for place in (file, part) if place.exists()), 0)
        used += max(source.size - have, 0) + (source.unpacked or 0)
        most = max(most, used)
        if source.unpacked is not None and not keep_archives:
            used -= source.size
    return most


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    with (store / ".lock").open("a") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(f"{store}: another process is downloading to it; let it end") from error
            except OSError as error:
                log.warning("%s: this file system has no locks (%s); start one process only", store, error)
        yield


# -- verification ----------------------------------------------------------------------------------------------------


def verify(splits: Splits, counts: Counts | None) -> None:
    """Check that every image file exists, that no split shares images with train, and the published numbers.

    Raises:
        DataError: one of these does not hold.
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
                f"{labels.name}: {found:,} {what}, but {expected:,} are published; another version of the data, or not "
                "all of it. again=true downloads and unpacks everything anew"
            )
