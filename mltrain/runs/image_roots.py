"""The folders that the images of a run lie in, for the pictures of its report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mltrain import storage
from mltrain.config.build import instantiate
from mltrain.config.compose import load_run
from mltrain.engine.run_folder import SPLITS, RunFolder
from mltrain.errors import MltrainError

logger = logging.getLogger(__name__)


def image_roots(folder: Path, imports: Sequence[str] = ()) -> dict[str, Path]:
    """Return the folder of a run's images for each split: that of its config, else that which its data set reads.

    The result is empty if the data set cannot be read; pages then have no pictures.

    Args:
        folder: of the run.
        imports: packages that the run's config may name, see docs/security.md.
    """
    run, files = RunFolder(folder), dict[str, str]()
    for split in SPLITS:
        path = run.predictions_file(split)
        if path is not None:
            with np.load(path, allow_pickle=False) as arrays:
                files[split] = str(next(iter(arrays["files"]), ""))
    if not files:
        return {}
    section: Mapping[str, Any] = run.config.get("dataset") or {}
    named = [section.get("root"), section.get("file") and Path(str(section["file"])).parent]
    found = {
        split: Path(root)
        for split, file in files.items()
        for root in named
        if root and storage.is_file(Path(root) / file)
    }
    if len(found) == len(files):
        return found
    try:
        splits = instantiate(load_run(folder, allow_targets=imports).dataset, "dataset")
    except (MltrainError, OSError) as error:
        logger.info("no pictures: the data set cannot be read: %s", str(error).splitlines()[0])
        return found
    labels = {"val": splits.val, "test": splits.test}
    return {split: Path(labels[split].root) for split in files if labels[split] is not None}
