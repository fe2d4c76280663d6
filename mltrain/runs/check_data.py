"""Check before training that the data can be evaluated as configured."""

from __future__ import annotations

import logging

import numpy as np
from omegaconf import DictConfig

from mltrain.config.rules import SINGLE_LABEL
from mltrain.datasets.splits import Splits, check_files, check_one_label, check_splits
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet, LabelStats
from mltrain.text import counted, first_few, part_of

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
        _check_evaluable(labels, cfg, len(splits.train))
    if training:
        for labels in given[1:]:
            _warn_of_untrained(splits.train, labels)
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
            f"{labels.name}: all targets of {counted(len(labels), 'image')} are unknown (-1), so there is "
            "nothing to learn; "
            "check the labels, dataset.unlabelled and partial"
        )


def _check_evaluable(labels: LabelSet, cfg: DictConfig, trained: int) -> None:
    """Refuse a split whose metrics would be refused after training, or say nothing; `trained`: images of train."""
    metrics, absent, classes = cfg.metrics, cfg.metrics.absent, labels.num_classes
    positives, unknowns, negatives = (np.bincount(labels.pairs(v)[1], minlength=classes) for v in (1, -1, 0))
    empty = np.flatnonzero(positives == 0)
    if not len(labels) or (absent != "zero" and len(empty) == labels.num_classes):
        raise DataError(
            f"{labels.name}: {counted(len(labels), 'image')}, none with a positive label: there is nothing to evaluate."
            f" {_how_to_hold_out(labels, trained)}"
        )
    if labels.fill == 0:
        negatives = len(labels) - positives - unknowns
    if not ((positives > 0) & (negatives > 0)).any():
        _refuse_unranked(labels, trained, single_label=cfg.task == SINGLE_LABEL)
    # A partially labelled class needs a known negative: without one every ranking is perfect.
    partial = positives + negatives < len(labels)
    least_negatives = max(int(partial.any()), metrics.min_negatives)
    enough = (positives >= metrics.min_positives) & (negatives >= metrics.min_negatives) & ((negatives > 0) | ~partial)
    if not (enough | (positives == 0) if absent == "zero" else enough & (positives > 0)).any():
        raise DataError(
            f"{labels.name}: no class has {counted(metrics.min_positives, 'known positive')} and "
            f"{counted(least_negatives, 'known negative')}, so there is nothing to evaluate: without a negative "
            "every ranking is perfect. Add verified "
            "negatives, or lower metrics.min_positives or metrics.min_negatives if they are above 1"
        )
    if absent == "error" and len(empty):
        names = ", ".join(labels.class_names[k] for k in empty[:5])
        raise DataError(
            f"{labels.name}: {part_of(len(empty), labels.num_classes, 'class', 'have')} no positive ({names}"
            f"{', ...' if len(empty) > 5 else ''}), and metrics.absent=error; metrics.absent=exclude leaves them out"
        )


def _warn_of_untrained(train: LabelSet, labels: LabelSet) -> None:
    """Say which classes have images in a held-out split and none in train; those unknown in train are so on purpose."""
    occurs, trained = (set(found.positive_pairs()[1].tolist()) for found in (labels, train))
    unknown = np.bincount(train.pairs(-1)[1], minlength=train.num_classes)
    missing = [k for k in sorted(occurs - trained) if train.fill == 0 and unknown[k] < len(train)]
    if missing:
        logger.warning(
            "%s: %d of its classes %s no training image, so they cannot be learnt and lower the mean: %s. Add training "
            "images, or set dataset.stratify=true where the split is drawn",
            *(labels.name, len(missing), "has" if len(missing) == 1 else "have"),
            first_few([labels.class_names[k] for k in missing]),
        )


def _refuse_unranked(labels: LabelSet, trained: int, *, single_label: bool) -> None:
    """Refuse a split in which no class has both a positive and a negative image: any ranking is perfect there.

    Accuracy needs no ranking, so where an image has a single label this is only a warning.
    """
    fix = _how_to_hold_out(labels, trained)
    if single_label:
        only = {labels.class_names[k] for k in labels.positive_pairs()[1].tolist()}
        logger.warning(
            "%s: all %d images are of the class %s, so figures say nothing of the others. %s",
            *(labels.name, len(labels), first_few(sorted(only)), fix),
        )
        return
    why = f"each class is that of every image ({len(labels)}) or of none"
    if not labels.fully_labelled:
        why, fix = "because targets are unknown", "Add known negatives, or evaluate on another split"
    else:
        fix += ", or correct the labels"
    raise DataError(
        f"{labels.name}: no class has both a positive and a negative image, {why}, so there is nothing to evaluate: "
        f"every ranking would look perfect (mAP 100). {fix}"
    )


def _how_to_hold_out(labels: LabelSet, trained: int) -> str:
    """Return the advice to draw a larger split."""
    share = min(0.5, max(0.2, round(2 * len(labels) / max(1, trained + len(labels)), 1)))
    option = "test_fraction" if labels.name.endswith("/test") else "val_fraction"
    return f"Hold out more images, e.g. dataset.{option}={share:g} dataset.stratify=true"


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
