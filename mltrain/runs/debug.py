"""Presets of `debug=`: a part of the data, and what an overfitted run says about itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from omegaconf import DictConfig

from mltrain.datasets.splits import Splits
from mltrain.labels import LabelSet
from mltrain.report.tables import title

logger = logging.getLogger(__name__)

LEARNT = 99.9
"""percent from which an overfitted figure counts as perfect"""


def limited(cfg: DictConfig, splits: Splits) -> Splits:
    """Return the splits with at most `data.limit` images each: labelled ones, spread evenly over the split."""
    most: int | None = cfg.data.limit
    if most is None:
        return splits
    test = None if splits.test is None else _spread(splits.test, most)
    return Splits(_spread(splits.train, most), _spread(splits.val, most), test)


def _spread(labels: LabelSet, most: int) -> LabelSet:
    if len(labels) <= most:
        return labels
    labelled = np.unique(labels.positive_pairs()[0])
    chosen = labelled if len(labelled) >= most else np.arange(len(labels))
    return labels.select(chosen[np.linspace(0, len(chosen) - 1, most).round().astype(np.int64)])


def with_validation(cfg: DictConfig, splits: Splits) -> Splits:
    """Return the splits that are evaluated: with `data.validate_on=train`, the training images alone."""
    if cfg.data.validate_on == "val":
        return splits
    logger.info("data.validate_on=train: the %d training images are evaluated too", len(splits.train))
    return splits._replace(val=splits.train, test=None)


def verdict(cfg: DictConfig, result: Mapping[str, Any]) -> None:
    """Log what a run of a preset has shown."""
    if cfg.debug is None:
        return
    if cfg.debug == "overfit":
        best = result["best"]
        name, value = title(best["by"]), best[best["by"]]
        if value >= LEARNT:
            logger.info("debug=overfit: %s %.2f on the training images, as it should be", name, value)
        else:
            logger.warning(
                "debug=overfit: %s is only %.2f on the training images. Look at the labels (mltrain browse_dataset), "
                "the loss, and optimizer.lr (mltrain find_lr); or give it longer: runner.epochs=400",
                name, value,
            )  # fmt: skip
    logger.info("debug=%s: a try, not a result; mltrain results leaves it out", cfg.debug)
