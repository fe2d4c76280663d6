"""Check before training that the data can be evaluated as configured."""

from __future__ import annotations

import logging

import numpy as np
from omegaconf import DictConfig

from mltrain.config.rules import SINGLE_LABEL
from mltrain.datasets.splits import Splits, check_files, check_one_label, check_splits
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet, LabelStats
from mltrain.text import counted

logger = logging.getLogger(__name__)


def check_data(cfg: DictConfig, splits: Splits, *, training: bool = True) -> None:
    """Refuse splits that overlap, cannot be evaluated as the config says, or lack image files.

    Without `training`, the training images are looked at by path only: they need not be there.

    Raises:
        DataError: what is wrong, and where.
    """
    check_splits(splits)
    given = [labels for labels in splits if labels is not None]
    if cfg.task == SINGLE_LABEL:
        for labels in given if training else given[1:]:
            check_one_label(labels)
    for labels in given[1:]:  # all but those of training
        _check_evaluable(labels, cfg.metrics)
    if cfg.data.check_files:
        for labels in given if training else given[1:]:
            check_files(labels)


def check_trainable(labels: LabelSet) -> None:
    """Refuse a training set without a known target or without a positive label."""
    _check_known(labels)
    if not len(labels.positive_pairs()[0]):
        raise DataError(
            f"{labels.name}: no training image has a label ({counted(len(labels), 'image')}, "
            f"{counted(labels.num_classes, 'class')}), so there is nothing to learn; check the annotations of the "
            "training split"
        )


def _check_known(labels: LabelSet) -> None:
    """Refuse a training set without a known target: its loss would be 0."""
    listed = {value: len(labels.pairs(value)[0]) for value in (1, 0, -1)}
    known = len(labels) * labels.num_classes - listed[-1] if labels.fill == 0 else listed[1] + listed[0]
    if len(labels) and not known:
        raise DataError(
            f"{labels.name}: all targets of the {len(labels)} images are unknown (-1), so there is nothing to learn; "
            "check the labels, dataset.unlabelled and partial"
        )


def _check_evaluable(labels: LabelSet, metrics: DictConfig) -> None:
    """Refuse a split whose metrics would be refused after training."""
    absent, classes = metrics.absent, labels.num_classes
    positives, unknowns, negatives = (np.bincount(labels.pairs(v)[1], minlength=classes) for v in (1, -1, 0))
    empty = np.flatnonzero(positives == 0)
    if not len(labels) or (absent != "zero" and len(empty) == labels.num_classes):
        raise DataError(
            f"{labels.name}: {counted(len(labels), 'image')}, none with a positive label: there is nothing to evaluate"
        )
    if labels.fill == 0:
        negatives = len(labels) - positives - unknowns
    # A partially labelled class needs a known negative: without one every ranking is perfect.
    partial = positives + negatives < len(labels)
    least_negatives = max(int(partial.any()), metrics.min_negatives)
    enough = (positives >= metrics.min_positives) & (negatives >= metrics.min_negatives) & ((negatives > 0) | ~partial)
    ranked = ((positives > 0) & (negatives > 0)).any()
    if labels.fully_labelled and not ranked:
        logger.warning(
            "%s: no class has both a positive and a negative image, so every ranking looks perfect (mAP 100), and "
            "figures of these %d images say nothing; hold more images out, e.g. dataset.val_fraction=0.2",
            *(labels.name, len(labels)),
        )
    if not labels.fully_labelled and not ranked:
        raise DataError(
            f"{labels.name}: no class has both a positive and a negative image, because targets are unknown, so there "
            "is nothing to evaluate: every ranking would look perfect (mAP 100); add known negatives, or evaluate on "
            "another split"
        )
    if not (enough | (positives == 0) if absent == "zero" else enough & (positives > 0)).any():
        raise DataError(
            f"{labels.name}: no class has {metrics.min_positives} known positives and {least_negatives} known "
            "negatives, so there is nothing to evaluate: without a negative every ranking is perfect. Add verified "
            "negatives, or lower metrics.min_positives or metrics.min_negatives if they are above 1"
        )
    if absent == "error" and len(empty):
        names = ", ".join(labels.class_names[k] for k in empty[:5])
        raise DataError(
            f"{labels.name}: {len(empty)} of {labels.num_classes} classes have no positive ({names}"
            f"{', ...' if len(empty) > 5 else ''}), and metrics.absent=error; metrics.absent=exclude leaves them out"
        )


def check_unseen(labels: LabelSet, stats: LabelStats, least: int) -> None:
    """Refuse to choose by the mAP of unseen classes if none can be evaluated."""
    unseen = stats.group_indices().get("unseen", np.empty(0, dtype=np.int64))
    positives = np.bincount(labels.positive_pairs()[1], minlength=labels.num_classes)
    if not (positives[unseen] >= least).any():
        found = (
            f"none of the {len(unseen)} unseen classes has {least} positives" if len(unseen) else "no class is unseen"
        )
        raise ConfigError(
            f"metrics.best=map_unseen: {found} in {labels.name}; dataset=nuswide_zsl and partial=unseen have unseen "
            "classes"
        )
