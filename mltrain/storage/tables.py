"""Images in the columns of Parquet and Arrow files: the member ``image/00000017`` is row 17 of the column `image`.

Where the bytes of an image lie is found by looking for them in the file. A compressed file does not hold them as they
are: then they are copied once, into a file beside the index.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from mltrain.errors import DataError
from mltrain.files import atomic_write, remove_leftovers
from mltrain.progress import Meter, amount
from mltrain.storage.index import Member, damaged
from mltrain.text import first_few

if TYPE_CHECKING:
    import pyarrow as pa

_LOG = logging.getLogger(__name__)
_ROWS = 64  # read at once
_START = 64  # bytes of an image that are looked for; the rest is then compared
_REACH = 1 << 26  # bytes between an image and the next: other columns of an Arrow file


class _Image(NamedTuple):
    column: str
    row: int
    start: int
    """where the bytes of its column chunk begin"""
    value: Any
    """a scalar of pyarrow"""


Images = Callable[[], Iterator[_Image]]


class _NotInPlace(Exception):
    """The file does not hold the bytes of an image as they are."""


def member_name(column: str, row: int) -> str:
    """Return the name of the image in a row of a column."""
    return f"{column}/{row:08d}"


def require_pyarrow(what: str) -> Any:
    """Return the module pyarrow.

    Raises:
        DataError: it is not installed; the message begins with `what`.
    """
    try:
        import pyarrow
        import pyarrow.compute  # noqa: F401
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise DataError(f"{what}: reading it needs pyarrow: pip install 'mltrain-vision[parquet]'") from error
    return pyarrow


def image_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that hold images: structs with a field `bytes`, else binary ones."""
    import pyarrow as pa

    def is_binary(kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

    structs = [
        column.name
        for column in schema
        if pa.types.is_struct(column.type)
        and (at := column.type.get_field_index("bytes")) >= 0
        and is_binary(column.type.field(at).type)
    ]
    return structs or [column.name for column in schema if is_binary(column.type)]


def bytes_of(column: pa.Array) -> pa.Array:
    """Return the bytes of the images in a column, which may be a struct."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def read_schema(path: str) -> pa.Schema:
    """Return the columns of a Parquet or Arrow file. DataError: it cannot be read."""
    pyarrow = require_pyarrow(path)
    with _errors(path):
        if path.lower().endswith(".parquet"):
            return pyarrow.parquet.read_schema(path)
        with _reader(pyarrow, path) as reader:
            return reader.schema


def read_table(path: str, column: str) -> pa.ChunkedArray:
    """Return a column of a Parquet or Arrow file; ``a.b`` is the field `b` of a column of structs."""
    pyarrow = require_pyarrow(path)
    with _errors(path):
        name, _, field = (column, "", "") if column in read_schema(path).names else column.rpartition(".")
        if path.lower().endswith(".parquet"):
            with pyarrow.parquet.ParquetFile(path) as file:
                found = file.read(columns=[column]).column(0)
        else:
            parts = [batch.column(name) for batch in _batches(pyarrow, path)]
            found = pyarrow.chunked_array(parts, type=read_schema(path).field(name).type)
        return pyarrow.compute.struct_field(found, field) if field else found


def count_rows(path: str) -> int:
    """Return the number of rows of an Arrow file."""
    with _errors(path):
        return sum(batch.num_rows for batch in _batches(require_pyarrow(path), path))


def parquet_members(path: str, copy: Path | None) -> list[Member]:
    """Return the images of a Parquet file. DataError: it is damaged, or its images cannot be copied."""
    pyarrow = require_pyarrow(path)
    with _errors(path), pyarrow.parquet.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.metadata.schema
        leaves = {schema.column(k).path: k for k in range(len(schema))}
        names = image_columns(file.schema_arrow)
        columns = [(name, leaves.get(f"{name}.bytes", leaves.get(name, -1))) for name in names]
        chunks = [metadata.row_group(k).column(leaf) for _, leaf in columns for k in range(metadata.num_row_groups)]

        def images() -> Iterator[_Image]:
            for name, leaf in columns:
                row = 0
                for group in range(metadata.num_row_groups):
                    chunk = metadata.row_group(group).column(leaf)
                    start = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0)
                    only = {"row_groups": [group], "columns": [schema.column(leaf).path]}
                    for batch in file.iter_batches(_ROWS, use_threads=False, **only):
                        for value in bytes_of(batch.column(0)):
                            yield _Image(name, row, start, value)
                            row += 1

        total = sum(chunk.total_uncompressed_size for chunk in chunks)
        compressed = first_few(sorted({chunk.compression for chunk in chunks} - {"UNCOMPRESSED"}))
        return _members(path, copy, images, total, compressed=compressed)


def arrow_members(path: str, copy: Path | None) -> list[Member]:
    """Return the images of an Arrow file, as Hugging Face's `datasets` keeps them. DataError: see `parquet_members`."""
    pyarrow = require_pyarrow(path)

    def images() -> Iterator[_Image]:
        rows = Counter[str]()
        for batch in _batches(pyarrow, path):
            for name in image_columns(batch.schema):
                for value in bytes_of(batch.column(name)):
                    yield _Image(name, rows[name], 0, value)
                    rows[name] += 1

    with _errors(path):
        return _members(path, copy, images, os.stat(path).st_size, compressed="")  # noqa: PTH116


@contextmanager
def _reader(pyarrow: Any, path: str) -> Iterator[Any]:
    """Open a file in Arrow's stream or file format; what is read from it refers to a memory map."""
    with ExitStack() as opened:
        source = opened.enter_context(pyarrow.memory_map(path))
        try:
            reader = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            source.seek(0)
            reader = pyarrow.ipc.open_file(source)
        yield opened.enter_context(reader)


def _batches(pyarrow: Any, path: str) -> Iterator[Any]:
    with _reader(pyarrow, path) as reader:
        count = getattr(reader, "num_record_batches", None)
        yield from reader if count is None else (reader.get_batch(k) for k in range(count))


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """Raise errors of pyarrow as DataError."""
    pyarrow = require_pyarrow(path)
    try:
        yield
    except pyarrow.ArrowException as error:
        kind = "a Parquet" if path.lower().endswith(".parquet") else "an Arrow"
        raise damaged(path, f"as {kind} file: {error}") from error


def _members(path: str, copy: Path | None, images: Images, total: int, *, compressed: str) -> list[Member]:
    """Return the members of a file.

    Args:
        path: the file.
        copy: file for bytes that cannot be read in place.
        images: returns an iterator of all images, in the order in which the file holds them.
        total: about how many bytes all images have.
        compressed: how the columns are compressed; "": they are not.
    """
    why = f"compressed ({compressed})"
    if not compressed:
        try:
            return list(_found(path, images(), total))
        except _NotInPlace:
            why = "encoded or compressed"
    if copy is None or shutil.disk_usage(copy.parent).free < total:
        room = "no folder for a copy can be written" if copy is None else f"{copy.parent} has no room for a copy"
        raise DataError(
            f"{path}: its images are {why}, so none can be read by itself, and {room} of {amount(total)}; free some "
            "space, or write the file again without compression (pyarrow: compression='none', use_dictionary=False)"
        )
    remove_leftovers(copy.parent, copy.name)
    with atomic_write(copy) as temporary, temporary.open("wb") as out:
        made = list(_copied(path, images(), total, out))
    _LOG.info(
        "%s: its images are %s, so none can be read by itself: they are copied once to %s, %s",
        *(path, why, copy, amount(total)),
    )
    return made


def _found(path: str, images: Iterable[_Image], total: int) -> Iterator[Member]:
    """Yield where the bytes of each image lie. _NotInPlace: they are not found."""
    size = os.stat(path).st_size  # noqa: PTH116
    if not size:
        return
    with (
        Path(path).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw,
        Meter(f"indexing {Path(path).name}", total) as meter,
    ):
        at = chunk = 0
        earlier: dict[bytes, int] = {}
        for column, row, start, value in images:
            if not value.is_valid:
                continue
            data = value.as_py()
            if chunk != start:  # within a chunk, images follow each other
                chunk = at = start
                earlier.clear()
            digest = hashlib.blake2b(data, digest_size=16).digest()
            place = earlier.get(digest)
            if place is None:  # a dictionary holds equal values once
                place = earlier[digest] = _find(raw, data, at)
                at = place + len(data)
            meter.add(len(data))
            yield Member(member_name(column, row), place, len(data), len(data))


def _find(raw: mmap.mmap, data: bytes, at: int) -> int:
    """Return where some bytes lie at or after a position. _NotInPlace: nowhere near."""
    end = at + len(data) + _REACH
    while (at := raw.find(data[:_START], at, end)) >= 0:
        if raw[at : at + len(data)] == data:
            return at
        at += 1
    raise _NotInPlace


def _copied(path: str, images: Iterable[_Image], total: int, out: BinaryIO) -> Iterator[Member]:
    """Write the bytes of each image to a file, and yield where they lie there."""
    at = 0
    with Meter(f"copying the images of {Path(path).name}", total) as meter:
        for column, row, _, value in images:
            if value.is_valid:
                data = value.as_py()
                out.write(data)
                yield Member(member_name(column, row), at, len(data), len(data))
                at += len(data)
                meter.add(len(data))
