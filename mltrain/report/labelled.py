"""Predicted labels of images as a table, CSV or JSON lines, and copies of the images with their labels."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mltrain.report.pictures import captioned, write_picture
from mltrain.text import csv_cell, printable

Format = Literal["table", "csv", "jsonl"]
Labels = Sequence[tuple[str, float]]  # name and probability, best first

MIN_WIDTH, MAX_WIDTH = 320, 1024
"""width of annotated copies in pixels"""


class Output(Protocol):
    """A text stream, or the part of one that is needed."""

    def write(self, text: str, /) -> object:
        """Write text."""


class LabelWriter:
    """Writer of the labels of one image after the other.

    - ``table``: a line for each image, its file and then its labels with their scores, control characters escaped;
    - ``csv``: columns image, label, score, a row for each label; an image without a label has one row without; text
      that a spreadsheet would run as a formula has a quote in front (`csv_cell`);
    - ``jsonl``: a line for each image, ``{"image": ..., "labels": [{"label": ..., "score": ...}]}``; an image that
      could not be read has ``"error"`` instead of ``"labels"``. The other formats leave it out.

    Args:
        stream: text stream; a CSV file must be opened with ``newline=""``.
        form: format, see above.
        width: width of the first column of a table.
    """

    def __init__(self, stream: Output, form: Format, *, width: int = 0) -> None:
        self._stream = stream
        self._form = form
        self._width = width
        self._csv = csv.writer(stream, lineterminator="\n")
        if form == "csv":
            self._csv.writerow(["image", "label", "score"])

    def write(self, image: str, labels: Labels) -> None:
        """Write the labels of an image."""
        if self._form == "table":
            text = "  ".join(f"{name} {score:.2f}" for name, score in labels)
            self._stream.write(printable(f"{image:<{self._width}}  {text or '-'}".replace("\n", "\\n")) + "\n")
        elif self._form == "csv":
            self._csv.writerows([csv_cell(image), csv_cell(name), f"{score:.6g}"] for name, score in labels)
            if not labels:
                self._csv.writerow([csv_cell(image), "", ""])
        else:
            self._json({"image": image, "labels": [{"label": n, "score": float(f"{s:.6g}")} for n, s in labels]})

    def write_error(self, image: str, error: str) -> None:
        """Write that an image could not be read."""
        if self._form == "jsonl":
            self._json({"image": image, "error": error})

    def _json(self, record: dict[str, Any]) -> None:
        self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def annotate(image: np.ndarray, labels: Labels, path: Path) -> None:
    """Write a copy of an image, uint8 (H, W, 3), with its labels below it; a JPEG file, or PNG if the name ends so."""
    width = min(max(image.shape[1], MIN_WIDTH), MAX_WIDTH)
    lines = [("title", f"{score:.2f}  {name}") for name, score in labels] or [("text", "no label")]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, captioned(image, lines, width=width))


def copies(files: Sequence[str], folder: Path) -> list[Path]:
    """Return the paths of the annotated copies, in subfolders as below the folder that the files share.

    Copies of files that are neither JPEG nor PNG get the ending ``.png``.
    """
    places = [Path.cwd() / os.path.normpath(file) for file in files]
    shared = Path(os.path.commonpath([place.parent for place in places])) if places else Path()
    found = []
    for place in places:
        relative = place.relative_to(shared)
        known = place.suffix.lower() in (".jpg", ".jpeg", ".png")
        found.append(folder / (relative if known else relative.with_name(relative.name + ".png")))
    return found
