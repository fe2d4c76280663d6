"""The same images as files, in a tar, a zip and a Parquet file."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def make_tar(path: Path, folder: Path, files: Sequence[str]) -> Path:
    with tarfile.open(path, "w") as packed:
        for file in files:
            packed.add(folder / file, f"./{file}")
    return path


def make_zip(path: Path, folder: Path, files: Sequence[str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for file in files:
            packed.write(folder / file, file)
    return path


def make_parquet(
    path: Path, images: Sequence[bytes | None], columns: dict[str, Any] | None = None, **options: Any
) -> Path:
    """Write a file as Hugging Face's `datasets` does: structs of bytes and path."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    structs = [{"bytes": image, "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"number": list(range(len(images))), "image": pa.array(structs, kind), **(columns or {})})
    pq.write_table(table, path, **{"compression": "none", "row_group_size": 5, **options})
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def row(k: int) -> str:
    return f"image/{k:08d}"
