"""Vectors of class names, read from a file of label embeddings or made from a file of word vectors."""

from __future__ import annotations

import gzip
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mltrain.errors import ConfigError, DataError
from mltrain.files import atomic_write
from mltrain.text import close_matches, did_you_mean, part_of

FORMATS = ".npz (class_names, vectors), .pt or .pth (the same in a dict, or name -> vector), or word2vec or GloVe text"
SHOWN = 5
SHORTEST = 3
"""minimum number of letters in a suggested part of a compound"""


def label_embeddings(
    path: str | Path, class_names: Sequence[str], *, aliases: Mapping[str, str] | None = None
) -> np.ndarray:
    """Return a vector for each class, float32 `(C, E)`, from a file of label embeddings or of word vectors.

    - `.npz` with `class_names` (N,) and `vectors` (N, E), as mltrain build_label_embeddings writes it.
    - `.pt`, `.pth`: a dict of the same two, or of a vector by class name; none of its code is run.
    - anything else: text in the format of word2vec (with or without its first line of two numbers), GloVe or fastText,
      one word and its numbers per line, also as `.gz`. It is streamed, and only the required words are kept. A class
      has the vector of its whole name (`traffic_light`, `traffic-light`, `trafficlight`), or else the mean over its
      words; the given spelling comes first, then lower case.

    Args:
        path: the file.
        class_names: C names.
        aliases: words to look up instead of a class name; for text only.

    Raises:
        ConfigError: there is no such file.
        DataError: it cannot be read, does not contain finite vectors of one length, or lacks a class; the message
            names the classes and similar words.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file of label embeddings; mltrain build_label_embeddings makes one from word vectors. "
            f"Formats: {FORMATS}"
        )
    if path.suffix not in (".npz", ".pt", ".pth"):
        return _from_words(path, class_names, aliases or {})
    if aliases:
        raise ConfigError(f"{path}: aliases are for word vectors in text; this file has vectors of whole names")
    names, vectors = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise DataError(f"{path}: vectors of shape {vectors.shape} for {len(names)} class names; expected (names, E)")
    row = {name: k for k, name in enumerate(names)}
    missing = [name for name in class_names if name not in row]
    if missing:
        shown = "".join(f"\n  {name}{did_you_mean(name, names, '{!r}')}" for name in missing[:SHOWN])
        more = f"\n  ... and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise DataError(
            f"{path}: {part_of(len(missing), len(class_names), 'class', 'are')} not in it:{shown}{more}\n"
            "Build one for these classes: mltrain build_label_embeddings"
        )
    return _checked(path, vectors[[row[name] for name in class_names]], class_names)


def write_label_embeddings(path: str | Path, class_names: Sequence[str], vectors: np.ndarray) -> None:
    """Write an `.npz` that `label_embeddings` reads, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, class_names=np.array(class_names, dtype=str), vectors=np.float32(vectors))


def _read_npz(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [str(name) for name in arrays["class_names"]], np.asarray(arrays["vectors"])
    except KeyError as error:
        raise DataError(f"{path}: expected the arrays class_names and vectors ({error})") from error
    except (ValueError, OSError, zipfile.BadZipFile, TypeError) as error:
        raise DataError(f"{path}: not a readable .npz of plain arrays ({error})") from error


def _read_torch(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a readable file of tensors, or it has other content") from error
    if isinstance(content, Mapping) and {"class_names", "vectors"} <= content.keys():
        names, vectors = list(content["class_names"]), content["vectors"]
    elif isinstance(content, Mapping) and content and all(isinstance(v, torch.Tensor) for v in content.values()):
        names, shapes = list(content), {tuple(v.shape) for v in content.values()}
        if len(shapes) > 1:
            raise DataError(f"{path}: vectors of different shapes: {', '.join(map(str, sorted(shapes)[:SHOWN]))}")
        vectors = torch.stack(list(content.values()))
    else:
        what = f"a tensor {tuple(content.shape)}" if isinstance(content, torch.Tensor) else type(content).__name__
        raise DataError(
            f"{path}: holds {what}, which does not name the class of each vector; expected a dict with "
            "class_names (a list) and vectors (N, E), or with a vector for each name"
        )
    if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point():
        raise DataError(f"{path}: vectors must be a tensor of floating point numbers")
    return [str(name) for name in names], vectors.float().numpy()


def _checked(path: Path, vectors: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(bad):
        raise DataError(f"{path}: the vector of {class_names[bad[0]]!r} holds NaN or infinite numbers")
    return vectors


# -- word vectors ----------------------------------------------------------------------------------------------------


def _from_words(path: Path, class_names: Sequence[str], aliases: Mapping[str, str]) -> np.ndarray:
    unknown = [name for name in aliases if name not in class_names]
    if unknown:
        raise ConfigError(f"aliases: there is no class {unknown[0]!r}{did_you_mean(unknown[0], class_names, '{!r}')}")
    spellings = {name: _spellings(aliases.get(name, name)) for name in class_names}
    wanted = {word for tries in spellings.values() for words in tries for word in words}
    found = _read_words(path, wanted)
    rows, missing = [], {}
    for name, tries in spellings.items():
        words = next((words for words in tries if all(word in found for word in words)), None)
        if words is None:
            missing[name] = [word for word in tries[-1] if word not in found] or [aliases.get(name, name)]
        else:
            rows.append(np.mean([found[word] for word in words], axis=0, dtype=np.float64))
    if missing:
        raise DataError(_missing_words(path, missing, len(class_names)))
    return _checked(path, np.array(rows), class_names)


def _spellings(name: str) -> list[tuple[str, ...]]:
    """Return groups of words to look up for a name, the best first; the vectors of a group are averaged."""
    words = [word for word in re.split(r"[\s_\-/,.;:()&]+", name) if word]
    phrases = [name, *(mark.join(words) for mark in "_-"), "".join(words)]
    tries: list[tuple[str, ...]] = [(phrase,) for phrase in phrases if phrase and not re.search(r"\s", phrase)]
    if words:
        tries.append(tuple(words))
    return list(dict.fromkeys([*tries, *(tuple(word.lower() for word in words) for words in tries)]))


def _read_words(path: Path, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the vectors (E,) of the wanted words in one pass; the first line of a word counts."""
    keys = {word.encode() for word in wanted}
    found: dict[str, np.ndarray] = {}
    size = 0
    for number, word, rest in _lines(path):
        if (
            number == 1 and word.isdigit() and len(rest.split()) == 1
        ):  # the first line of word2vec: numbers of words and of values
            size = int(rest)
            continue
        size = size or len(rest.split())
        if word not in keys or word.decode() in found:
            continue
        numbers = rest.split()
        if len(numbers) > size:  # GloVe has words that contain a space
            continue
        try:
            vector = np.array(numbers, dtype=np.float32)
        except ValueError:
            vector = np.empty(0, dtype=np.float32)
        if len(vector) != size or not size:
            raise DataError(
                f"{path}, line {number}: expected a word and {size or 'some'} numbers, found {len(numbers)} fields "
                f"after {word.decode()!r}; is the file whole, and text?"
            )
        found[word.decode()] = vector
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield (number, word, the rest) of each line."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(65536)
            if b"\0" in head:
                raise DataError(f"{path}: a binary file; formats: {FORMATS}")
            mark = b"\t" if b"\t" in head.split(b"\n", 1)[0] else b" "
            stream.seek(0)
            for number, line in enumerate(stream, 1):
                word, _, rest = line.partition(mark)
                yield number, word, rest
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _missing_words(path: Path, missing: Mapping[str, Sequence[str]], classes: int) -> str:
    """Return the message with similar words, for which the file is read again."""
    asked = list(dict.fromkeys(word for words in islice(missing.values(), SHOWN) for word in words))
    lowered = [word.lower() for word in asked]
    cuts = {(word[:k], word[k:]) for word in lowered for k in range(SHORTEST, len(word) - SHORTEST + 1)}
    parts = {part for cut in cuts for part in cut}
    starts = {(word[0], length) for word in lowered for length in range(len(word) - 2, len(word) + 3)}
    near: set[str] = set()
    known: set[str] = set()
    for _, key, _ in _lines(path):
        word = key.decode(errors="replace")
        if word in parts:
            known.add(word)
        if (word[:1].lower(), len(word)) in starts:
            near.add(word)
    lines = []
    for name, words in islice(missing.items(), SHOWN):
        hints = []
        for word in words:
            split = [f"{a} {b}" for a, b in sorted(cuts) if a + b == word.lower() and known >= {a, b}]
            hints += split or close_matches(word.lower(), near, 2, 0.75)
        what = "" if list(words) == [name] else f": no {', '.join(map(repr, words))}"
        lines.append(f"  {name}{what}" + (f" (there is {', '.join(map(repr, hints))})" if hints else ""))
    if len(missing) > SHOWN:
        lines.append(f"  ... and {len(missing) - SHOWN} more: {', '.join(islice(missing, SHOWN, SHOWN + 20))}")
    return "\n".join(
        [
            f"{path}: {part_of(len(missing), classes, 'class', 'have')} no vector:",
            *lines,
            "Name other words for them: mltrain build_label_embeddings aliases=FILE, one line class=words per class",
        ]
    )
