"""Images that show nearly the same picture: copies in another size, format or quality. Imports no torch.

An image is shrunk to 9 x 9 grey pixels; 64 bits say where brightness rises to the right, 64 where it rises downwards (a
difference hash in both directions). Two images are near-duplicates if few of the 128 bits differ and their 8 x 8
thumbnails are nearly equally bright; the second tells apart plain surfaces, whose bits mean little. Crops, mirror
images and rotations are not found.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mltrain.errors import DataError
from mltrain.pipeline.image_file import open_image

MOST_DISTANCE = 7
"""bits up to which `near_pairs` finds every pair: of eight parts of a hash one must then be equal"""
BRIGHTNESS = 10.0
"""mean difference of the thumbnails up to which two images are near-duplicates, grey levels of 255"""
_AT_ONCE = 4_000_000  # candidates compared at once
_BITS = np.array([value.bit_count() for value in range(1 << 16)], dtype=np.uint8)
T = TypeVar("T")
R = TypeVar("R")


class Sketches(NamedTuple):
    """Facts of N images that are compared."""

    hashes: np.ndarray
    """uint16 (N, 8), 128 bits of each image"""
    thumbnails: np.ndarray
    """uint8 (N, 64)"""


class Pairs(NamedTuple):
    """P pairs of near-duplicates."""

    first: np.ndarray
    """int64 (P,), index of one image"""
    second: np.ndarray
    """int64 (P,), index of the other, above that of the first"""
    distance: np.ndarray
    """int64 (P,), bits that differ"""


def sketch(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return hash, uint16 (8,), and thumbnail, uint8 (64,), of an image file.

    Raises:
        DataError: the file cannot be read or decoded.
    """
    try:
        with open_image(path) as image:
            image.draft("L", (72, 72))  # lets libjpeg decode fewer pixels; other formats ignore it
            with contextlib.suppress(Exception):  # damaged metadata; the pixels are fine
                ImageOps.exif_transpose(image, in_place=True)
            if "transparency" in image.info or "A" in image.mode:
                opaque = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", opaque.size, (255, 255, 255, 255)), opaque)
            grey = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX, reducing_gap=3.0), np.int16)
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise DataError(f"{os.fspath(path)}: cannot decode the image: {error or type(error).__name__}") from error
    across, down = grey[:8, 1:] > grey[:8, :-1], grey[1:, :8] > grey[:-1, :8]
    bits = np.packbits(np.concatenate([across.ravel(), down.ravel()]))
    return bits.view(np.uint16), grey[:8, :8].astype(np.uint8).ravel()


def in_threads(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield `work` of each item in order; a few items per thread are ahead, so memory does not grow with them."""
    remaining = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(work, item) for item in islice(remaining, 4 * threads)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(work, item) for item in islice(remaining, 1)]


def near_pairs(sketches: Sketches, distance: int) -> Pairs:
    """Return all pairs with at most `distance` differing bits (0 to `MOST_DISTANCE`) and equal brightness."""
    if not 0 <= distance <= MOST_DISTANCE:
        raise ValueError(f"distance must be 0 to {MOST_DISTANCE}, got {distance}")
    found = [_of_part(sketches, part, distance) for part in range(sketches.hashes.shape[1])]
    first, second, bits = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    order = np.lexsort((second, first, bits))
    return Pairs(first[order], second[order], bits[order])


def groups_of_pairs(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the group of each of `count` images, int64: images that pairs connect, directly or not, share one."""
    graph = sparse.coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _of_part(sketches: Sketches, part: int, distance: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs that agree in one part of the hash and in none before it."""
    hashes, thumbnails = sketches
    order = np.argsort(hashes[:, part], kind="stable")
    keys = hashes[order, part]
    partners = np.searchsorted(keys, keys, side="right") - np.arange(len(keys)) - 1  # those behind with an equal key
    ends = np.cumsum(partners)
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(np.empty(0, np.int64),) * 3]
    start = 0
    while start < len(keys):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
        counts = partners[start:stop]
        left = np.repeat(np.arange(start, stop), counts)
        right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        a, b = order[left], order[right]
        equal = hashes[a] == hashes[b]
        bits = _BITS[hashes[a] ^ hashes[b]].sum(axis=1, dtype=np.int64)
        near = (bits <= distance) & ~equal[:, :part].any(axis=1)
        a, b, bits = a[near], b[near], bits[near]
        difference = np.abs(thumbnails[a].astype(np.int16) - thumbnails[b]).mean(axis=1)
        same = difference <= BRIGHTNESS
        kept.append((np.minimum(a, b)[same], np.maximum(a, b)[same], bits[same]))
        start = stop
    return tuple(np.concatenate(arrays) for arrays in zip(*kept, strict=True))  # type: ignore[return-value]


def sketches_of(paths: Sequence[str], results: Iterable[tuple[np.ndarray, np.ndarray]]) -> Sketches:
    """Collect the results of `sketch`."""
    hashes, thumbnails = np.zeros((len(paths), 8), np.uint16), np.zeros((len(paths), 64), np.uint8)
    for k, (bits, grey) in enumerate(results):
        hashes[k], thumbnails[k] = bits, grey
    return Sketches(hashes, thumbnails)
