"""Labels in any known format: the format is recognised, said in one line, and read by its own reader."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mltrain.datasets.celeba import celeba
from mltrain.datasets.chestxray14 import chestxray14
from mltrain.datasets.class_lists import class_lists
from mltrain.datasets.coco import coco
from mltrain.datasets.coco_files import coco_files
from mltrain.datasets.csv import csv_file
from mltrain.datasets.cvat import cvat
from mltrain.datasets.folder import folder
from mltrain.datasets.found import Found
from mltrain.datasets.hf import hf
from mltrain.datasets.json_file import json_file
from mltrain.datasets.labelme import labelme
from mltrain.datasets.lists import list_files
from mltrain.datasets.lvis import lvis
from mltrain.datasets.parquet import parquet
from mltrain.datasets.reading import require_paths
from mltrain.datasets.recognise import recognise
from mltrain.datasets.shards import webdataset
from mltrain.datasets.splits import Splits, Undivided, check_fraction
from mltrain.datasets.voc import voc
from mltrain.datasets.voc_files import voc_files
from mltrain.datasets.yolo import yolo
from mltrain.errors import DataError

log = logging.getLogger(__name__)

READERS: dict[str, tuple[Callable[..., Splits], dict[str, Any]]] = {
    "celeba": (celeba, {}),
    "chestxray14": (chestxray14, {}),
    "class_lists": (class_lists, {}),
    "coco": (coco, {}),
    "coco2017": (coco, {"year": 2017, "keep_unlabelled": True}),
    "coco_files": (coco_files, {}),
    "csv": (csv_file, {}),
    "cvat": (cvat, {}),
    "folder": (folder, {}),
    "hf": (hf, {}),
    "json": (json_file, {}),
    "labelme": (labelme, {}),
    "list": (list_files, {}),
    "lvis": (lvis, {}),
    "parquet": (parquet, {}),
    "voc0712": (voc, {"year": "07+12"}),
    "voc2007": (voc, {"year": 2007}),
    "voc2012": (voc, {"year": 2012}),
    "voc_files": (voc_files, {}),
    "webdataset": (webdataset, {}),
    "yolo": (yolo, {}),
}
"""reader of each config that `recognise` names, with the options that the config sets"""


def auto(
    *,
    name: str = "auto",
    path: str,
    root: str | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    need_val: bool = True,
    need_train: bool = True,
    drawn: str = "",
) -> Splits:
    """Train, val and optionally test of a file or folder in any known format.

    The log says which format it is, and the options that read it without `auto`.

    Args:
        name: name of the LabelSets and the run folder.
        path: the file or folder.
        root: folder or archive of the images, where a file of labels does not lie beside them; None: they are found.
        val_fraction: share of train that becomes val; None: 0.2 if the labels name no validation images, else 0.
        split_seed: seed of that choice, independent of the run's.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.
        need_train: the program sets it to False to evaluate; train may then be empty.
        drawn: the program sets it to the options that draw splits after this reader (`division`), for the log.

    Raises:
        DataError: no format or several formats fit, or the labels break a rule of their format.
    """
    if val_fraction is not None:
        check_fraction(val_fraction)
    require_paths(name, [path], "A file or folder with labels in a known format (docs/datasets.md): dataset.path=PATH")
    found = explicit(Path(path), val_fraction, split_seed, need_train=need_train)
    if root is not None:
        if "file" not in found.options:
            raise DataError(
                f"dataset.root={root}: {path} is {found.title}, which says where its images are; leave dataset.root out"
            )
        found = replace(found, options=found.options | {"root": root})
    shown = found
    if isinstance(val_fraction, Undivided):  # dataset.folds and others draw val, whatever the reader
        own = {key: value for key, value in found.options.items() if key not in ("val_fraction", "split_seed")}
        shown = replace(found, options=own)
    note = f" ({found.note})" if found.note else ""
    log.info("%s is %s%s; without auto: %s%s", path, found.title, note, shown.command, f" {drawn}" if drawn else "")
    reader, options = READERS[found.group]
    needs = {"need_train": need_train, "need_val": need_val}
    given = {key: value for key, value in needs.items() if key in inspect.signature(reader).parameters}
    return reader(name=name, **{**options, **found.options, **given})


def explicit(path: Path, val_fraction: float | None = None, split_seed: int = 0, *, need_train: bool = True) -> Found:
    """Return the format of a path with the options that read it; arguments as for `auto`. Raises DataError."""
    found = recognise(path, need_train=need_train)
    options = dict(found.options)
    if val_fraction is not None:
        options.pop("val_fraction", None)
        if val_fraction > 0:
            options["val_fraction"] = val_fraction
    if split_seed and options.get("val_fraction"):
        options["split_seed"] = split_seed
    return Found(found.title, found.group, options, found.note)
