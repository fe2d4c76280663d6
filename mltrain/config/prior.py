"""Class priors of a run: the probability its model gives each class on average over the training images."""

from __future__ import annotations

import csv
import logging
from contextlib import closing
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from mltrain.config.assemble import build_parts, eval_loader
from mltrain.config.finished import all_weights, read_weights
from mltrain.engine import distributed
from mltrain.engine.evaluator import Inference, mean_probabilities
from mltrain.engine.precision import resolve_amp
from mltrain.labels import LabelStats

logger = logging.getLogger(__name__)


def class_prior(cfg: DictConfig, folder: Path) -> None:
    """Write class_prior.csv in a run folder: what the run's best weights make of the training set.

    Raises:
        CheckpointError: the folder has no best.pt, or it does not fit the model or the dataset's classes.
        NonFiniteError: the weights give NaN.
    """
    with distributed.start(cfg.runner.device) as dist:
        state = read_weights(cfg, folder)
        splits, stats, model = build_parts(cfg, dist, state.stats)
        state.check_classes(splits.train.class_names, folder)
        weights = all_weights(cfg, state, model)
        with closing(eval_loader(cfg, dist, splits.train, model)) as loader:
            amp_dtype = resolve_amp(cfg.runner.amp, dist.device)
            inference = Inference(dist, amp_dtype, cfg.runner.channels_last, progress=cfg.logger.progress)
            prior = mean_probabilities(weights[state.chosen], loader, inference)
        if not dist.is_main:
            return
        file = folder / "class_prior.csv"
        write_prior(file, stats, prior)
        top = ", ".join(f"{stats.class_names[c]} {prior[c]:.3f}" for c in np.argsort(-prior, kind="stable")[:5])
        logger.info("%s: mean probability over %d training images; highest: %s", file, len(splits.train), top)


def write_prior(file: Path, stats: LabelStats, prior: np.ndarray) -> None:
    """A row per class: its prior and, to compare, the share of positives among the known training labels."""
    known = np.maximum(stats.positives + stats.negatives, 1)
    temporary = file.with_name(file.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["class", "prior", "known_positive_share"])
        for name, value, share in zip(stats.class_names, prior, stats.positives / known, strict=True):
            writer.writerow([name, f"{value:.8g}", f"{share:.8g}"])
    temporary.replace(file)
