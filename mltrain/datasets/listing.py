"""Images and their labels by name, collected from annotation files of any format.

A reader adds images and labels as it meets them. Several entries of one image in one split become one image with all
of their labels; a label with two values and an image in two splits are errors.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mltrain.datasets.names import ImageFinder, Spellings, distinct_spellings, of_address, one_spelling
from mltrain.datasets.reading import read_class_names
from mltrain.errors import DataError
from mltrain.labels import LabelSet, compress
from mltrain.text import did_you_mean

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A place in an annotation file, for messages."""

    path: Path
    entry: str
    """such as "line 3" """

    def __str__(self) -> str:
        return f"{self.path}, {self.entry}"

    def seen_from(self, other: Place) -> str:
        """Return this place as a message about `other` names it: without the file if that is the same."""
        return self.entry if self.path == other.path else str(self)


@dataclass
class Row:
    """Split and labels of one image."""

    file: str
    place: Place
    """of its first entry"""
    split: str | None
    labels: dict[str, int] = field(default_factory=dict)
    """label without its mark, in its one spelling -> 1, 0 or -1"""


class Listing:
    """Images and their labels by name.

    Args:
        source: the annotation file, for messages.
        root: folder that the images are relative to.
        classes: file with one class name per line; a label that it does not list is an error. None: the labels that
            are added, sorted.
    """

    def __init__(self, source: Path, root: Path, classes: str | os.PathLike[str] | None = None) -> None:
        self.source, self.root, self.classes = source, root, classes
        self.known = list(read_class_names(classes)) if classes else None
        self.allowed = None if self.known is None else distinct_spellings(self.known, classes)
        self.rows: dict[str, Row] = {}
        """by place of the image on disk, in the order of the entries"""
        self.partial = False
        """whether what an image does not list is unknown"""
        self.places: dict[str, str] = {}
        """paths of images that are listed by their bare name"""
        self._finder = ImageFinder(root)
        self._names = Spellings()
        self._addresses: dict[str, str] = {}
        self._class_names: list[str] | None = None

    def image(self, image: str, split: str | None, place: Place) -> Row:
        """Return the row of an image; several entries of one image share it.

        Raises:
            DataError: the image is of another split, or its name without a suffix fits several files.
        """
        file = self._finder.find(self.places.get(image, image), str(place))
        if of_address(image) and self._addresses.setdefault(file, image) != image:
            raise DataError(
                f"{place}: {image} and {self._addresses[file]} are both found as {file}, by their name; give each "
                "image its path relative to dataset.root"
            )
        row = self.rows.setdefault(self._finder.key(file), Row(file, place, split))
        if row.split != split:
            raise DataError(
                f"{place}: {image} is of split {split!r} here and {row.split!r} in {row.place.seen_from(place)}; an "
                "image belongs to one split"
            )
        return row

    def label(self, row: Row, label: str, value: int, place: Place, image: str | None = None) -> None:
        """Add a label with its value (1, 0 or -1) to an image.

        Raises:
            DataError: the classes file does not list the label, or the image has it with another value.
        """
        key = self._names.add(label)
        if self.allowed is not None and key not in self.allowed:
            hint = did_you_mean(label, self.known or (), "'{}'") or "."
            raise DataError(
                f"{place}: label {label!r} is not in the classes file {self.classes}{hint} Correct it, or add it there"
            )
        if row.labels.setdefault(key, value) != value:
            raise DataError(
                f"{place}: {image or row.file} has {label!r} twice, with two values (plain, ! and ?); keep one"
            )

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in order: those of the classes file, those that were set, or all labels, sorted."""
        if self.known is not None:
            return self.known
        if self._class_names is not None:
            return self._class_names
        return sorted(self._names[key] for key in {label for row in self.rows.values() for label in row.labels})

    @class_names.setter
    def class_names(self, names: list[str]) -> None:
        self._class_names = names

    def by_split(self, default: str) -> dict[str, list[str]]:
        """Return the images of each split; `default` is the split of images without one."""
        found: dict[str, list[str]] = {}
        for image, row in self.rows.items():
            found.setdefault(default if row.split is None else row.split, []).append(image)
        return found

    def label_set(self, images: Sequence[str], name: str) -> LabelSet:
        """Return some of the images as a LabelSet."""
        class_names = self.class_names
        index = {one_spelling(label): k for k, label in enumerate(class_names)}
        fill = -1 if self.partial else 0
        listed = [
            (row, index[label], value)
            for row, image in enumerate(images)
            for label, value in self.rows[image].labels.items()
            if value != fill
        ]
        rows, columns, values = np.array(listed, dtype=np.int64).reshape(-1, 3).T
        pairs = compress(rows, columns, values, len(images))
        files = [self.rows[image].file for image in images]
        return LabelSet(name=name, root=self.root, files=files, class_names=class_names, fill=fill, **pairs)
