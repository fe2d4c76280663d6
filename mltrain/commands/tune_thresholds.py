"""Find the thresholds of a run on its validation split and write RUN/thresholds.json, which other commands use.

    mltrain tune_thresholds RUN                          the best F1 of each class
    mltrain tune_thresholds RUN per=all                  one threshold, the best F1 over all entries
    mltrain tune_thresholds RUN precision=0.9            the highest recall of each class at a precision of 0.9
    mltrain tune_thresholds RUN recall=0.8 per=all       the highest precision at a recall of 0.8

The figures shown are those of the test split or, without one, those of each fifth of the validation split with the
thresholds of the other four: figures never come from images on which the thresholds were found. The commands predict,
explain, evaluate, export and push use the thresholds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.rules import MULTI_LABEL
from mltrain.config.schema import number
from mltrain.engine.run_folder import THRESHOLDS
from mltrain.engine.saved_thresholds import best_identity
from mltrain.errors import ConfigError
from mltrain.files import write_json
from mltrain.text import counted

if TYPE_CHECKING:
    from mltrain.datasets.splits import Splits
    from mltrain.engine.evaluator import Evaluation
    from mltrain.metrics.thresholds import Criterion
    from mltrain.runs.thresholds import Tuner, TuningPlan

logger = logging.getLogger(__name__)

FOLDS = 5
"""folds of the validation split, if there is no test split to report on"""


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    per: Literal["class", "all"] = "class"
    """class: a threshold for each class; all: one threshold for all classes"""
    recall: float | None = number(None, least=0, most=1)
    """choose the highest precision at this recall, not the best F1"""
    precision: float | None = number(None, least=0, most=1)
    """choose the highest recall at this precision, not the best F1"""
    min_positives: int | None = number(None, least=1)
    """classes with fewer validation positives share the threshold that is best for all classes together; null: 5"""
    folds: int | None = number(None, least=2)
    """report across this many folds of the validation split, even if there is a test split"""
    weights: Literal["best", "val", "ema"] = "best"
    """best: weights that validation chose; val: raw weights; ema: averaged weights"""


def tune_thresholds(cfg: DictConfig, folder: Path, options: Options) -> dict[str, Any] | None:
    """Find thresholds on a run's validation split and write thresholds.json.

    Its figures are those of the test split; without one, or with `folds`, those of each fold of the validation split
    with the thresholds of the other folds. They never come from images on which the thresholds were found.

    Returns:
        The content of thresholds.json on the main rank, None on others.

    Raises:
        ConfigError: the run is single-label, or options exclude each other.
        DataError: no threshold reaches the requested precision.
    """
    import torch

    from mltrain.runs.evaluation import open_on_data
    from mltrain.runs.thresholds import Tuner, tuning_report

    criterion = _criterion(cfg, options)
    with open_on_data(cfg, folder) as run:
        tuner = Tuner(
            method="thresholds" if options.per == "class" else "threshold",
            summarize=run.summarize,
            log_prior_odds=run.stats.log_prior_odds(),
            min_positives=options.min_positives or 5,
            criterion=criterion,
            threshold=cfg.metrics.threshold,
        )
        plan = _plan(tuner, run.splits, options.folds)
        evaluations: dict[str, Evaluation] = {}
        for split, labels in (("val", plan.source), ("test", plan.target)):
            evaluation = None if labels is None else run.evaluate(labels, options.weights, keep_all=True)
            if evaluation is not None:
                evaluations[split] = evaluation
        if not run.dist.is_main:
            return None
        content = plan.run(evaluations)
        ((weights, found),) = content["weights"].items()
        written = {
            "class_names": content["class_names"],
            "thresholds": torch.sigmoid(torch.tensor(found["cuts"], dtype=torch.float64)).tolist(),
            "own": found.get("own"),
            "weights": weights,
            "best": best_identity(run.best),
            **{key: content[key] for key in ("chosen_by", "min_positives", "tuned_on", "reported_on", "folds")},
            "figures_before": found["figures_before"],
            "figures": found["figures"],
        }
        write_json(folder / THRESHOLDS, written)
        logger.info("%s\n%s", tuning_report(content), folder / THRESHOLDS)
        return written


def _criterion(cfg: DictConfig, options: Options) -> Criterion:
    """Return what a good threshold is. Raises ConfigError if the options contradict each other or the task."""
    from mltrain.metrics.thresholds import Criterion

    if cfg.task != MULTI_LABEL:
        raise ConfigError(
            f"thresholds are for task={MULTI_LABEL}; with task={cfg.task} the class with the highest probability is "
            "predicted, and there is nothing to tune"
        )
    if options.per == "all" and options.min_positives is not None:
        raise ConfigError(f"min_positives={options.min_positives}: with per=all there is one threshold for all classes")
    try:
        return Criterion(recall=options.recall, precision=options.precision)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _plan(tuner: Tuner, splits: Splits, folds: int | None) -> TuningPlan:
    """Return the splits to tune and to report on: the test split if it fits, else folds of the validation split."""
    from mltrain.runs.thresholds import TuningPlan, no_other_split

    problem = no_other_split(splits) if folds is None else None
    if problem is not None:
        logger.info("figures come from %d folds, each with the thresholds of the others; without: %s", FOLDS, problem)
        folds = FOLDS
    if folds is not None and folds > len(splits.val):
        raise ConfigError(f"folds={folds}: {splits.val.name} has {counted(len(splits.val), 'image')}")
    return TuningPlan(tuner, splits.val, splits.test if folds is None else None, folds)


COMMAND = Command(tune_thresholds, about=__doc__, takes="run", options=Options)
