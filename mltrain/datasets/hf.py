"""Data sets of Hugging Face's library `datasets`, local or from their hub.

The library stores them as Arrow files; images are read from these, or from the files that they name. Labels are a
ClassLabel, a sequence of them, names, or a 1 or 0 per class.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from mltrain.datasets.parquet import Layout, Table, table_labels
from mltrain.datasets.reading import read_class_names, require_paths
from mltrain.datasets.splits import Splits, check_fraction, make_splits
from mltrain.errors import DataError
from mltrain.storage.tables import count_rows

log = logging.getLogger(__name__)

HOW = (
    "Expected a folder that save_to_disk of Hugging Face's datasets wrote, or one that its load_dataset reads: "
    "dataset.path=FOLDER, or the name of a data set of the hub: dataset.path=OWNER/NAME"
)
SECONDS = 10
"""within which the hub must answer, while the library alone would retry for minutes"""
_HUB = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")


def hf(
    *,
    name: str = "hf",
    path: str,
    subset: str | None = None,
    revision: str | None = None,
    split: str = "train",
    val_split: str = "validation",
    test_split: str | None = None,
    image_column: str | None = None,
    labels_column: str | None = None,
    classes: str | None = None,
    separator: str = ";",
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_train: bool = True,
) -> Splits:
    """Train, val and optionally test of a data set of Hugging Face. Classes that a row does not list are negative.

    Args:
        name: name of the LabelSets and the run folder.
        path: a local folder, or the name of a data set of the hub, such as ``OWNER/NAME``, which is downloaded.
        subset: configuration of the data set, where it has several.
        revision: commit, tag or branch on the hub; None: the newest.
        split: split of train; a part of it as the library writes it: ``train[:90%]``.
        val_split: split of val.
        test_split: split of test; None: no test set.
        image_column: column of the images; None: the only one, or "image".
        labels_column: column of the labels; None: "labels" or "label".
        classes: file with one class name per line, in the order of the indices; None: the names of the data set.
        separator: separates names in one text.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; `val_split` is
            then not used.
        split_seed: seed of that choice, independent of the run's: runs with several seeds share their val set.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: the data set cannot be loaded, or has no such split or column.
    """
    check_fraction(val_fraction)
    require_paths(name, [classes] if classes else [], HOW)
    if not Path(path).exists() and not _HUB.fullmatch(path):
        require_paths(name, [path], HOW)
    specs = {"train": split, "val": None if val_fraction > 0 else val_split, "test": test_split}
    parts = {}
    for part, spec in specs.items():
        try:
            if spec is not None:
                parts[part] = _tables(path, subset, revision, spec, part)
        except DataError:
            if part != "train" or need_train or val_fraction > 0:
                raise
    layout = Layout(image_column, labels_column, list(read_class_names(classes)) if classes else None, separator)
    made = table_labels(name, parts, layout)
    return make_splits(name, made, val_fraction=val_fraction, split_seed=split_seed)


def _tables(path: str, subset: str | None, revision: str | None, spec: str, part: str) -> tuple[str, list[Table]]:
    """Return the Arrow files of a split, or of parts of some: their common folder, and the rows in each."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{path}: needs Hugging Face's datasets: pip install 'mltrain-vision[hf]'") from error
    option = "split" if part == "train" else f"{part}_split"
    try:
        names = {text.strip().partition("[")[0] for text in spec.split("+")}
        loaded = {name: _load(datasets, path, subset, revision, name) for name in names}
        sizes = {name: len(found) for name, found in loaded.items()}
        pieces = datasets.ReadInstruction.from_spec(spec).to_absolute(sizes)
    except Exception as error:  # the library raises many types, and passes on those of others
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = " or dataset.val_fraction=0.1" if part == "val" else ""
        raise DataError(
            f"dataset.path={path}, dataset.{option}={spec}: cannot be loaded: {reason[:500]}\n"
            f"Set dataset.{option}=SPLIT{advice}, and where there are several subsets dataset.subset=NAME. {HOW}"
        ) from error
    tables: list[Table] = []
    for piece in pieces:
        tables += _rows(path, loaded[piece.splitname], piece.from_, piece.to)
    if not tables:
        raise DataError(f"dataset.path={path}, dataset.{option}={spec}: has no row")
    return os.path.commonpath([Path(table.path).parent for table in tables]), tables


def _rows(path: str, found: Any, first: int, last: int) -> list[Table]:
    """Return where the rows `first` to `last` of a loaded split lie."""
    files = [str(entry["filename"]) for entry in found.cache_files]
    counts = [count_rows(file) for file in files]
    if sum(counts) != len(found):
        raise DataError(
            f"{path}: the {len(found)} rows of {found.split} are a choice among those of its Arrow files; write them "
            "to files of their own, FOUND.save_to_disk(FOLDER), and set dataset.path=FOLDER"
        )
    begins = [sum(counts[:k]) for k in range(len(files))]
    tables = [
        Table(file, max(first - begin, 0), min(last - begin, count))
        for file, begin, count in zip(files, begins, counts, strict=True)
    ]
    return [table for table in tables if table.end is not None and table.begin < table.end]


def _load(datasets: Any, path: str, subset: str | None, revision: str | None, split: str) -> Any:
    saved = Path(path)
    if not any((saved / file).is_file() for file in ("dataset_dict.json", "state.json")):
        if not saved.exists():
            _use_cache_alone_if_unreachable(datasets)
        return datasets.load_dataset(path, name=subset, revision=revision, split=split)
    found = datasets.load_from_disk(path)
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise ValueError(f"no split {split!r}; found {', '.join(found)}")
        return found[split]
    own = str(found.split or "train")
    if split != own:
        raise ValueError(f"no split {split!r}; the folder holds {own} alone")
    return found


def _use_cache_alone_if_unreachable(datasets: Any) -> None:
    """Let the library read only what it downloaded before, if the hub does not answer."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # noqa: BLE001  # the hub's client has had requests, httpx and its own exceptions
        log.warning("%s does not answer (%s): only data sets downloaded before can be read", constants.ENDPOINT, error)
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
