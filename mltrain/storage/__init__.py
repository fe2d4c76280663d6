"""Image files, wherever they lie: in folders, or in tar, zip, Parquet and Arrow files.

A path may lead through such a file as if it was a folder: ``photos.zip/cat/1.jpg``, ``train.parquet/image/00000017``.
An index says where the bytes of each member lie, so a member is read directly, whatever the order.
"""

from mltrain.storage.places import (
    archive_folder,
    archives_in,
    entries,
    exists,
    is_file,
    is_folder,
    is_table,
    locate,
    names_in,
    open_text,
    read_bytes,
    read_member,
    same_file,
    state,
    walk,
)

__all__ = [
    "archive_folder",
    "archives_in",
    "entries",
    "exists",
    "is_file",
    "is_folder",
    "is_table",
    "locate",
    "names_in",
    "open_text",
    "read_bytes",
    "read_member",
    "same_file",
    "state",
    "walk",
]
