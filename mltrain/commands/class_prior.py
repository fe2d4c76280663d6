"""Estimate the frequency of each class from a run's predictions, for loss=csl on partially labelled data.

    mltrain train dataset=openimages loss=csl loss.mode=ignore       first a run on the known labels alone
    mltrain class_prior RUN                                          its mean probabilities: RUN/class_prior.csv
    mltrain train dataset=openimages loss=csl loss.prior=RUN/class_prior.csv

The command predicts the training images with the best weights of the run, resized as for evaluation. Under torchrun the
processes share the images.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.files import atomic_write

if TYPE_CHECKING:
    import numpy as np

    from mltrain.labels import LabelStats

logger = logging.getLogger(__name__)


def class_prior(cfg: DictConfig, folder: Path) -> None:
    """Write class_prior.csv in a run folder: the mean probability of each class over the training images.

    Raises:
        CheckpointError: the folder has no best.pt, or it does not fit the model or the dataset's classes.
        NonFiniteError: the weights give NaN.
    """
    import numpy as np

    from mltrain.runs.evaluation import open_on_data

    with open_on_data(cfg, folder) as run:
        prior = run.mean_probabilities(run.splits.train)
        if not run.dist.is_main:
            return
        file = folder / "class_prior.csv"
        write_prior(file, run.stats, prior)
        names, most_likely = run.stats.class_names, np.argsort(-prior, kind="stable")[:5]
        top = ", ".join(f"{names[c]} {prior[c]:.3f}" for c in most_likely)
        logger.info("%s: mean probability over %d training images; highest: %s", file, len(run.splits.train), top)


def write_prior(file: Path, stats: LabelStats, prior: np.ndarray) -> None:
    """Write a row per class: its prior and, to compare, the share of positives among the known training labels."""
    import numpy as np

    known = np.maximum(stats.positives + stats.negatives, 1)
    with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["class", "prior", "known_positive_share"])
        for name, value, share in zip(stats.class_names, prior, stats.positives / known, strict=True):
            writer.writerow([name, f"{value:.8g}", f"{share:.8g}"])


COMMAND = Command(class_prior, about=__doc__, takes="run")
