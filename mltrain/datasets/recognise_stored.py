"""Recognise data sets that keep images and labels together: Hugging Face's, Parquet files and WebDataset shards."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any

from mltrain.datasets.found import HELD_OUT, Found, held_out_unless, split_of
from mltrain.datasets.names import SUFFIXES
from mltrain.datasets.shards import SIDES

USUAL = {"split": "train", "val_split": "validation", "test_split": None}


def hugging_face(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise what `save_to_disk` of Hugging Face's datasets wrote."""
    if (path / "dataset_dict.json").is_file():
        names = _json(path / "dataset_dict.json").get("splits", [])
    elif (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        names = [_json(path / "state.json").get("_split") or "train"]
    else:
        return
    found = {split: name for name in names if (split := split_of(name)) is not None}
    if len(names) == 1:
        found = {"train": names[0]}
    keys = {"split": found.get("train"), "val_split": found.get("val"), "test_split": found.get("test")}
    if keys["split"] is None:
        return
    options: dict[str, Any] = {"path": str(path)}
    options |= {key: name for key, name in keys.items() if name is not None and name != USUAL[key]}
    yield Found("a data set of Hugging Face on disk", "hf", options | held_out_unless("val" in found))


def parquet_files(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise Parquet files, by split if their names say so."""
    files = [file.name for file in sorted(path.glob("*.parquet"))]
    yield from _by_split(path, files, ".parquet", "Parquet files with images", "parquet")


def web_shards(path: Path, need_train: bool) -> Iterator[Found]:
    """Recognise tar files in which samples have an image and labels beside it."""
    files = [file for file in sorted(path.glob("*.tar")) if _is_shard(file)]
    yield from _by_split(path, [file.name for file in files], ".tar", "WebDataset shards", "webdataset")


STORED = (hugging_face, parquet_files, web_shards)


def one_file(path: Path) -> Iterator[Found]:
    """Recognise one Parquet file with images, or one shard."""
    if path.suffix.lower() == ".parquet" and path.is_file():
        title, group = "a Parquet file with images", "parquet"
    elif path.suffix.lower() == ".tar" and path.is_file() and _is_shard(path):
        title, group = "a WebDataset shard", "webdataset"
    else:
        return
    yield Found(title, group, {"root": str(path.parent), "train": path.name, "val_fraction": HELD_OUT})


def _by_split(path: Path, files: list[str], suffix: str, title: str, group: str) -> Iterator[Found]:
    """Yield the format with a pattern for the files of each split; those of no split are train, if all are."""
    splits = {split_of(file) for file in files}
    if not files or (None in splits and len(splits) > 1):
        return
    options: dict[str, Any] = {"root": str(path)}
    for split in ("train", "val", "test") if None not in splits else (None,):
        own = [file for file in files if split_of(file) == split]
        if not own:
            continue
        pattern = own[0] if len(own) == 1 else f"{os.path.commonprefix(own)}*{suffix}"  # noqa: RUF071
        if [file for file in files if fnmatchcase(file, pattern)] != own:
            return
        options[split or "train"] = pattern
    if "train" in options:
        yield Found(title, group, options | held_out_unless("val" in options))


def _is_shard(file: Path) -> bool:
    try:
        with tarfile.open(file, "r:") as archive:
            names = [member.name.lower() for member in islice(archive, 20)]
    except (tarfile.TarError, OSError):
        return False
    sides = tuple(f".{side}" for side in SIDES)
    return any(name.endswith(SUFFIXES) for name in names) and any(name.endswith(sides) for name in names)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
