"""Find the thresholds of a run on its validation split: RUN/thresholds.json, which evaluate, predict and export use.

    mltrain tune_thresholds RUN                          the best F1 of each class
    mltrain tune_thresholds RUN per=all                  one threshold, the best F1 over all entries
    mltrain tune_thresholds RUN precision=0.9            the highest recall of each class at a precision of 0.9
    mltrain tune_thresholds RUN recall=0.8 per=all       the highest precision at a recall of 0.8

The figures shown are those of the test split; where the dataset has none, those of each fifth of the validation split
with what the other four gave. Never those of images that the thresholds were found on.
    min_positives=5       classes with fewer validation positives share the threshold that is best for all together
    folds=5               figures across folds also where there is a test split
    weights=best          best: those that validation chose; val: raw; ema

KEY=VALUE changes the config that the run folder holds (runner.device=cpu, dataset.root=/elsewhere ...).
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.rules import MULTI_LABEL
from mltrain.config.schema import number
from mltrain.engine.run_folder import THRESHOLDS
from mltrain.errors import ConfigError
from mltrain.files import write_json

if TYPE_CHECKING:
    from mltrain.datasets.splits import Splits
    from mltrain.engine.tuning import Tuner
    from mltrain.metrics.thresholds import Criterion
    from mltrain.runs.thresholds import TuningPlan

logger = logging.getLogger(__name__)

FOLDS = 5
"""of the validation split, where the figures cannot be those of a test split"""


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    per: Literal["class", "all"] = "class"  # a threshold of each class, or one of all
    recall: float | None = number(None, least=0, most=1)  # in place of the best F1: the best precision at this recall
    precision: float | None = number(None, least=0, most=1)  # or the best recall at this precision
    min_positives: int | None = number(None, least=1)  # classes with fewer share one threshold; null: 5
    folds: int | None = number(None, least=2)  # figures across folds of val in place of the test split's
    weights: Literal["best", "val", "ema"] = "best"


def tune_thresholds(cfg: DictConfig, folder: Path, options: Options) -> dict[str, Any] | None:
    """Find thresholds on a run's validation split and write thresholds.json; its content on the main rank.

    The figures in it are those of the test split; without one, or with `folds`, those of each fold of the validation
    split with what the other folds gave: never of images that the thresholds were found on.

    Raises:
        ConfigError: a single-label run, or options that exclude each other.
        DataError: no threshold reaches the precision that is asked for.
    """
    import torch

    from mltrain.engine import distributed
    from mltrain.engine.evaluator import Evaluation, evaluate
    from mltrain.engine.precision import resolve_amp
    from mltrain.engine.runner import check_classes
    from mltrain.engine.tuning import Tuner
    from mltrain.runs.assemble import build_parts, eval_loader, summarizer
    from mltrain.runs.folder import all_weights, choose_weights, read_weights, stats_of
    from mltrain.runs.thresholds import best_identity, tuning_report

    criterion = _criterion(cfg, options)
    with distributed.start(cfg.runner.device) as dist:
        state = read_weights(cfg, folder)
        splits, stats, model = build_parts(cfg, dist, stats_of(state))
        check_classes(state, splits.val.class_names, folder)
        name = choose_weights(state, options.weights, folder)
        weights = {name: all_weights(cfg, state, model)[name]}
        tuner = Tuner(
            method="thresholds" if options.per == "class" else "threshold",
            summarize=summarizer(cfg, stats),
            log_prior_odds=stats.log_prior_odds(),
            min_positives=options.min_positives or 5,
            criterion=criterion,
            threshold=cfg.metrics.threshold,
        )
        plan = _plan(tuner, splits, options.folds)
        evaluations: dict[str, Evaluation] = {}
        for split, labels in (("val", plan.source), ("test", plan.target)):
            if labels is not None:
                with closing(eval_loader(cfg, dist, labels, model)) as loader:
                    evaluation = evaluate(
                        weights,
                        loader,
                        tuner.summarize,
                        dist=dist,
                        amp_dtype=resolve_amp(cfg.runner.amp, dist.device),
                        channels_last=cfg.runner.channels_last,
                        keep_all=True,
                    )
                if evaluation is not None:
                    evaluations[split] = evaluation
        if not dist.is_main:
            return None
        content = plan.run(evaluations)
        found = content["weights"][name]
        written = {
            "class_names": content["class_names"],
            "thresholds": torch.sigmoid(torch.tensor(found["cuts"], dtype=torch.float64)).tolist(),
            "own": found.get("own"),
            "weights": name,
            "best": best_identity(state["best"]),
            **{key: content[key] for key in ("chosen_by", "min_positives", "tuned_on", "reported_on", "folds")},
            "figures_before": found["figures_before"],
            "figures": found["figures"],
        }
        write_json(folder / THRESHOLDS, written)
        logger.info("%s\n%s", tuning_report(content), folder / THRESHOLDS)
        return written


def _criterion(cfg: DictConfig, options: Options) -> Criterion:
    from mltrain.metrics.thresholds import Criterion

    if cfg.task != MULTI_LABEL:
        raise ConfigError(
            f"thresholds are of task={MULTI_LABEL}; with task={cfg.task} the class with the highest probability is "
            "predicted, and there is nothing to tune"
        )
    if options.per == "all" and options.min_positives is not None:
        raise ConfigError(f"min_positives={options.min_positives}: with per=all there is one threshold of all classes")
    try:
        return Criterion(recall=options.recall, precision=options.precision)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _plan(tuner: Tuner, splits: Splits, folds: int | None) -> TuningPlan:
    from mltrain.runs.thresholds import TuningPlan, no_other_split

    problem = no_other_split(splits) if folds is None else None
    if problem is not None:
        logger.info("figures come from %d folds, each with the thresholds of the others; without: %s", FOLDS, problem)
        folds = FOLDS
    if folds is not None and folds > len(splits.val):
        raise ConfigError(f"folds={folds}: {splits.val.name} has {len(splits.val)} images")
    return TuningPlan(tuner, splits.val, splits.test if folds is None else None, folds)


COMMAND = Command(tune_thresholds, about=__doc__, takes="run", options=Options)
