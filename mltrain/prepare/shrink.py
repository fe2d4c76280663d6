"""Copying a data set with images of training size, so that every epoch reads and decodes less."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image

from mltrain import storage
from mltrain.errors import DataError
from mltrain.files import atomic_write, remove_leftovers, write_json
from mltrain.labels import LabelSet
from mltrain.pipeline.cache import available_cores
from mltrain.pipeline.decode import read_image
from mltrain.pipeline.image_file import open_image
from mltrain.prepare.download import disk_error
from mltrain.progress import Meter
from mltrain.text import counted, first_lines, part_of

log = logging.getLogger(__name__)

SAVED = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "WEBP": "WEBP"}
"""formats that can be saved again under the same name; images of other formats are copied"""
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2")
NOTE = "shrunk.json"
BROKEN = "broken_images.txt"
CLOCK = 2 * 10**9  # nanoseconds: the coarsest clock of a file system


def shrink(sets: Sequence[LabelSet], base: Path, out: Path, *, size: int, quality: int = 90, workers: int = 0) -> None:
    """Copy the images of `sets` from below `base` to below `out`, the shorter side at most `size` pixels.

    Names and formats stay. Every image is decoded: smaller ones are copied byte for byte; larger ones are turned
    upright, converted to RGB, resized (bicubic, antialiased) and saved. Copies are written atomically, with the time of
    their original, so that a repeated call skips them.

    Args:
        sets: the splits.
        base: folder that holds all images.
        out: folder for the copies.
        size: length of the shorter side in pixels.
        quality: quality of JPEG and WebP files, 1 to 100.
        workers: threads; 0: one per core.

    Raises:
        DataError: images cannot be decoded (the others are done first; the message has the first 5,
            ``broken_images.txt`` all), an image is not below `base`, or `out` was made with other options or cannot be
            written.
    """
    if size < 1 or not 1 <= quality <= 100 or workers < 0:
        raise ValueError(f"size={size} >= 1, quality={quality} in 1..100 and workers={workers} >= 0 must hold")
    try:
        _claim(out, {"shorter_side": size, "quality": quality, "from": os.fspath(base.absolute())})
        done: Counter[str] = Counter()
        broken: list[str] = []
        with ThreadPoolExecutor(workers or available_cores()) as pool:
            for labels in sets:
                with Meter(f"{labels.name}, shrinking", len(labels), unit="images") as meter:
                    jobs = _jobs(labels, base, out)
                    while batch := list(itertools.islice(jobs, 256)):
                        for what, reason in pool.map(partial(_shrink, size=size, quality=quality), batch):
                            done[what] += 1
                            if reason:
                                broken.append(reason)
                            meter.add(1)
    except OSError as error:
        raise disk_error(error, out, "out=DIR") from error
    counts = [done[what] for what in ("shrunk", "copied", "before")]
    log.info("%s: %s shrunk, %d copied, %d done before", out, counted(counts[0], "image"), *counts[1:])
    note = out / BROKEN
    note.unlink(missing_ok=True)
    if broken:
        note.write_text("".join(f"{line}\n" for line in broken), encoding="utf-8")
        raise DataError(
            f"{part_of(len(broken), sum(done.values()), 'image')} cannot be decoded (all in "
            f"{note}):{first_lines(broken)}\n"
            "Get these files again, or remove them from the labels, then repeat the command"
        )


def carry(base: Path, out: Path, *, leave: Sequence[str] = ()) -> int:
    """Link or copy all files below `base` that are no images to below `out`; return their number.

    Hidden files and folders, and the folders in `leave` directly below `base`, are left out.
    """
    count = 0
    try:
        for place, folders, files in os.walk(base) if storage.locate(base) is None else storage.walk(base):
            here = Path(place)
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and (here / name).absolute() != out.absolute()
                and not (here == base and name in leave)
            )  # fmt: skip
            for name in files:
                if name.startswith(".") or name.lower().endswith(IMAGES):
                    continue
                source, copy = here / name, out / here.relative_to(base) / name
                if not _same(source, copy):
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.unlink(missing_ok=True)
                    try:
                        copy.hardlink_to(source)
                    except OSError:  # links are impossible, e.g. between two disks or out of an archive
                        with atomic_write(copy, sync=False) as temporary:
                            temporary.write_bytes(storage.read_bytes(source))
                            time = storage.state(source).time
                            os.utime(temporary, ns=(time, time))
                count += 1
    except OSError as error:
        raise disk_error(error, out, "out=DIR") from error
    return count


def _claim(out: Path, options: dict[str, object]) -> None:
    """Note the options in `out`; a copy that is already there must have the same options."""
    note = out / NOTE
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out, below=note.exists())
    if note.exists():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != options:
            raise DataError(
                f"{out}: was made with other options ({found}, now {options}); choose another folder: out=DIR"
            )
        return
    if any(out.iterdir()):
        raise DataError(f"{out}: holds files, and is no folder that this tool made; choose another: out=DIR")
    write_json(note, options)


def _jobs(labels: LabelSet, base: Path, out: Path) -> Iterator[tuple[str, str]]:
    for i in range(len(labels)):
        path = os.path.join(labels.root, labels.file(i))  # noqa: PTH118  millions of them
        below = os.path.relpath(path, base)
        if below.startswith(os.pardir):
            raise DataError(f"{path}: is not below {base}, so it has no place in the copy; all images must be there")
        if storage.locate(base) is None and (inside := storage.locate(path)) is not None:
            raise DataError(
                f"{path}: lies in the archive {inside[0]}, which the copy cannot replace; unpack it, or name it as the "
                "folder of all images: dataset.root=ARCHIVE"
            )
        yield path, os.path.join(out, below)  # noqa: PTH118


def _shrink(job: tuple[str, str], *, size: int, quality: int) -> tuple[str, str]:
    """Shrink or copy one image; return what was done, and why the image cannot be decoded."""
    source, copy = Path(job[0]), Path(job[1])
    if _same_time(source, copy):
        return "before", ""
    try:
        pixels = read_image(source)
    except DataError as error:
        return "broken", str(error)
    copy.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    with open_image(source) as image:
        form = SAVED.get(image.format or "")
    with atomic_write(copy, sync=False) as temporary:
        if scale >= 1 or form is None:
            temporary.write_bytes(storage.read_bytes(source))
        else:
            target = (max(round(width * scale), 1), max(round(height * scale), 1))
            small = Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC)
            small.save(temporary, format=form, quality=quality)
        time = storage.state(source).time
        os.utime(temporary, ns=(time, time))
    return ("copied" if scale >= 1 or form is None else "shrunk"), ""


def _same_time(source: Path, copy: Path) -> bool:
    try:
        return abs(copy.stat().st_mtime_ns - storage.state(source).time) < CLOCK
    except FileNotFoundError:
        return False


def _same(source: Path, copy: Path) -> bool:
    return _same_time(source, copy) and storage.state(source).size == copy.stat().st_size
