"""A page of labels that are likely to be wrong, with a box to tick for each correction and a button to save them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mltrain.report.html.gallery import LINES, percent, thumbnail
from mltrain.report.html.page import embed, write_html
from mltrain.report.label_errors import GIVEN, Candidates, HeldOut
from mltrain.text import csv_cell

COLUMNS = ("image", "class", "given", "suggested", "kind", "probability", "score")
_KINDS = {value: kind for kind, value in GIVEN.items()}


@dataclass(frozen=True)
class About:
    """Texts of the page."""

    name: str
    """the data set"""
    images: str
    """note below the number of images: which they are"""
    command: str
    """command line that wrote the page"""


def csv_rows(candidates: Candidates, held_out: HeldOut) -> list[str]:
    """Return the lines of a csv file of candidates: the header, then a line for each, line ends included."""
    given = candidates.given.tolist()
    table = zip(
        (held_out.files[i] for i in candidates.rows),
        (held_out.class_names[k] for k in candidates.columns),
        given,
        candidates.suggested.tolist(),
        (_KINDS[value] for value in given),
        (f"{p:.4g}" for p in held_out.probability[candidates.rows, candidates.columns]),
        (f"{score:.4g}" for score in candidates.scores),
        strict=True,
    )
    return [_line(COLUMNS), *map(_line, table)]


def _line(cells: Iterable[Any]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow([csv_cell(cell) for cell in cells])
    return stream.getvalue()


def write_label_errors(
    path: Path, candidates: Candidates, held_out: HeldOut, root: Path | None, *, count: int, about: About
) -> int:
    """Write the page with the first `count` candidates; an image that cannot be read has no picture.

    Args:
        path: HTML file.
        candidates: all candidates; the tiles count them.
        held_out: the predictions that they are from.
        root: folder of the images; None: no pictures.
        count: how many candidates the page shows, at most.
        about: texts of the page.

    Returns:
        The number of images on the page that could be read.

    Raises:
        ConfigError: Jinja2 is not installed.
        OSError: the file cannot be written.
    """
    shown = candidates.take(slice(count))
    header, *lines = csv_rows(shown, held_out)
    place = {int(i): k for k, i in enumerate(dict.fromkeys(shown.rows.tolist()))}
    images = [_image(held_out, i, root) for i in place]
    entries = [
        {
            "image": place[int(i)],
            "label": int(k),
            "kind": _KINDS[int(given)],
            "probability": percent(float(held_out.probability[i, k])),
            "row": line,
        }
        for i, k, given, line in zip(shown.rows, shown.columns, shown.given, lines, strict=True)
    ]
    tiles = [
        ("images", f"{len(held_out.files):,}", about.images),
        ("candidates", f"{len(candidates):,}", f"{len(shown):,} on this page"),
        *_counts(candidates),
    ]
    data = {
        "names": list(held_out.class_names),
        "images": images,
        "candidates": entries,
        "header": header,
        "fingerprint": hashlib.sha256("".join(lines).encode()).hexdigest()[:16],
    }
    write_html(path, "label_errors.html", about=about, tiles=tiles, data=embed(data))
    return sum(image["picture"] is not None for image in images)


def _counts(candidates: Candidates) -> list[tuple[str, str, str]]:
    notes = {"missing": "negative, likely positive", "wrong": "positive, likely negative", "unknown": "likely positive"}
    return [(kind, f"{n:,}", notes[kind]) for kind, n in candidates.counts().items() if n or kind != "unknown"]


def _image(held_out: HeldOut, index: int, root: Path | None) -> dict[str, Any]:
    positive: Sequence[int] = np.flatnonzero(held_out.targets[index] == 1).tolist()
    file = held_out.files[index]
    return {
        "file": file,
        "labels": positive[:LINES],
        "more": max(0, len(positive) - LINES),
        "picture": None if root is None else thumbnail(root / file),
    }
