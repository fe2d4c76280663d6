"""Thresholds of a finished run: found on its validation split, kept in its folder, used for all its predictions."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from mltrain.config.rules import MULTI_LABEL
from mltrain.datasets.splits import Splits
from mltrain.engine.evaluator import Evaluation, Predictions
from mltrain.engine.run_folder import THRESHOLDS, WEIGHTS
from mltrain.engine.saved_thresholds import best_identity, read_thresholds
from mltrain.engine.state import TrainState
from mltrain.errors import ConfigError, DataError
from mltrain.files import has_file
from mltrain.labels import LabelSet, LabelStats
from mltrain.metrics.counts import count_at_threshold, overall_and_per_class, words_at_k
from mltrain.metrics.summary import Summary
from mltrain.metrics.thresholds import F1, Criterion, adjust_logits, best_cut, best_cuts, best_tau, crossed, folds
from mltrain.report.tables import text_table
from mltrain.runs.folder import FinishedRun
from mltrain.text import counted

logger = logging.getLogger(__name__)

Method = Literal["threshold", "thresholds", "logit_adjustment"]
Metric = Literal["macro_F1", "CF1", "OF1", "words_F1"]
RANKINGS = ("map", "micro_ap")  # figures that a cut cannot change
FIGURES = ("OF1", "CF1", "macro_F1")
OF = {"threshold": "over all entries", "thresholds": "of each class"}
WAY_OUT = (
    "tune_folds=5 reports on each fifth of the validation split with what the other four gave; or give the dataset a "
    "test split of other images"
)


@dataclass(frozen=True)
class Thresholds:
    """Per-class thresholds; a class is predicted if its probability is strictly above its threshold."""

    values: np.ndarray
    """float64 (C,), probabilities"""
    weights: str
    """those they were found for: "val" raw, or "ema" averaged"""
    chosen_by: str
    tuned_on: dict[str, Any]
    """split, name, images and fingerprint of the labels"""

    @property
    def cuts(self) -> torch.Tensor:
        """The thresholds as logits, float64 (C,)."""
        return torch.logit(torch.from_numpy(self.values))


def load_thresholds(run: FinishedRun, file: str | Path | None = None) -> Thresholds | None:
    """Return the thresholds in the folder of a run (or in `file`); None if there are none.

    Raises:
        ConfigError: they are of other classes, of other weights, or of an earlier epoch; or `file` does not exist.
    """
    path = run.folder / THRESHOLDS if file is None else Path(file)
    if file is None and not has_file(path):
        return None
    found = read_thresholds(path)
    best = found["best"]
    problem = None
    if list(found["class_names"]) != list(run.class_names):
        problem = "of other classes"
    elif file is None and found["weights"] != run.weights:
        asked = WEIGHTS[run.weights]
        problem = f"of the {WEIGHTS[found['weights']]} weights (weights={found['weights']}), not the {asked} weights"
    elif file is None and best != best_identity(run.best):
        problem = f"of the weights of {best}, and the run has gone on since, to {best_identity(run.best)}"
    if problem is not None:
        raise ConfigError(
            f"{path}: its thresholds are {problem}. Tune again: mltrain tune_thresholds {run.folder}"
            f"{f' weights={run.weights}' if run.weights != run.best['weights'] else ''}; or remove the file, and "
            "metrics.threshold holds for all classes"
        )
    return _thresholds(found)


def thresholds_of(run: FinishedRun) -> np.ndarray:
    """Return per-class thresholds, float64 (C,): the run's own, or metrics.threshold for every class."""
    found = load_thresholds(run)
    return np.full(len(run.class_names), float(run.config.metrics.threshold)) if found is None else found.values


def report_thresholds(
    folder: Path,
    state: TrainState,
    splits: Splits,
    evaluations: Mapping[str, Evaluation],
    summarize: Callable[..., Summary],
) -> dict[str, Any] | None:
    """Return figures of the test split with the run's own thresholds; None without thresholds or a fair split.

    They are not used on the validation split, where they were found, nor where the test split shares images with it.
    """
    if not has_file(folder / THRESHOLDS):
        return None
    found = read_thresholds(folder / THRESHOLDS)
    best = found["best"]
    reason = no_other_split(splits)
    if tuple(found["class_names"]) != splits.val.class_names or best != best_identity(state.best):
        reason = "they are of other classes or of an earlier epoch; tune again"
    elif found["tuned_on"]["fingerprint"] != splits.val.fingerprint():
        reason = f"they were found on {found['tuned_on']['name']}, which is not the validation split here"
    predictions = evaluations["test"].predictions if "test" in evaluations else None
    if reason is not None or predictions is None:
        logger.info("%s: not used for these figures: %s", folder / THRESHOLDS, reason)
        return None
    name = found["weights"]
    cuts = _thresholds(found).cuts
    scalars = summarize(predictions.logits[name], predictions.targets, cuts=cuts).scalars
    before = evaluations["test"].summaries[name].scalars
    shown = ", ".join(f"{key} {scalars[key]:.2f} ({before[key]:.2f} without)" for key in ("OF1", "CF1", "macro_F1"))
    logger.info("test %s with the thresholds of %s: %s", WEIGHTS[name], folder / THRESHOLDS, shown)
    return {"chosen_by": found["chosen_by"], "weights": name, "tuned_on": found["tuned_on"], "test": scalars}


def _thresholds(found: Mapping[str, Any]) -> Thresholds:
    return Thresholds(found["thresholds"], found["weights"], found["chosen_by"], found["tuned_on"])


# -- tuning ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuner:
    """A method of tuning, and the figures that judge it.

    `threshold` chooses one cut by micro F1, `thresholds` a cut per class by its F1, with one for all classes that have
    fewer than `min_positives`; another `criterion` can replace F1. Classes above their cut are predicted.
    `logit_adjustment` subtracts tau times the prior log-odds of the training set, and chooses tau by `metric` at the
    usual threshold.
    """

    method: Method
    summarize: Callable[..., Summary]
    """that of the evaluation: (logits, targets, *, cuts) with groups and settings bound"""
    log_prior_odds: np.ndarray
    """(C,), of the training set"""
    metric: Metric = "macro_F1"
    min_positives: int = 5
    criterion: Criterion = F1
    threshold: float = 0.5
    words_k: int = 5

    def across(self, source: Predictions, target: Predictions) -> dict[str, dict[str, Any]]:
        """Tune on `source`, report on `target`: settings and figures by the name of the weights."""
        result = {}
        for name, logits in source.logits.items():
            found = self.find(logits, source.targets)
            summary = self.apply(found, target.logits[name], target.targets)
            result[name] = found | {"figures": summary.scalars, "f1": summary.per_class["f1"].tolist()}
        return result

    def within(self, predictions: Predictions, count: int) -> dict[str, dict[str, Any]]:
        """Tune by cross-fitting.

        Returns, by the name of the weights, the settings found on all images, and figures for which each image has the
        settings found on the other folds.
        """
        fold = folds(len(predictions.targets), count)
        result = {}
        for name, logits in predictions.logits.items():
            targets = predictions.targets
            found = self.find(logits, targets)
            learn = functools.partial(self._learn, logits, targets)
            cuts = crossed(learn, fold)
            if self.method == "logit_adjustment":
                summary = self.summarize(logits.double() - cuts, targets)
                plain = self.summarize(logits, targets).scalars
                # Folds with different shifts have no common ranking; within a fold, the order of a class is unchanged.
                for key in [key for key in summary.scalars if key.startswith(RANKINGS)]:
                    summary.scalars[key] = plain[key]
            else:
                summary = self.summarize(logits, targets, cuts=cuts)
            result[name] = found | {"figures": summary.scalars, "f1": summary.per_class["f1"].tolist()}
        return result

    def find(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        """Find `cuts` (C,), the logits to exceed, and `tau`, or `own` (C,): whether each cut is the class's own."""
        if self.method == "threshold":
            return {"cuts": [best_cut(logits, targets, self.criterion).cut] * logits.shape[1]}
        if self.method == "thresholds":
            found = best_cuts(logits, targets, self.criterion, min_positives=self.min_positives)
            return {"cuts": found.cuts.tolist(), "own": found.own.tolist()}
        tau, _ = best_tau(logits, self.log_prior_odds, functools.partial(self._score, targets))
        return {"cuts": (tau * self.log_prior_odds).tolist(), "tau": tau}

    def apply(self, found: dict[str, Any], logits: Tensor, targets: Tensor) -> Summary:
        """Compute the figures of other predictions with the result of `find`."""
        if self.method == "logit_adjustment":
            return self.summarize(adjust_logits(logits, self.log_prior_odds, found["tau"]), targets)
        return self.summarize(logits, targets, cuts=torch.tensor(found["cuts"], dtype=torch.float64))

    def _learn(self, logits: Tensor, targets: Tensor, chosen: np.ndarray) -> Tensor:
        rows = torch.from_numpy(np.flatnonzero(chosen))
        return torch.tensor(self.find(logits[rows], targets[rows])["cuts"], dtype=torch.float64)

    def _score(self, targets: Tensor, logits: Tensor) -> float:
        if self.metric == "words_F1":
            return words_at_k(logits, targets, k=self.words_k)["F1"]
        counts = count_at_threshold(logits, targets, threshold=self.threshold)
        return overall_and_per_class(counts, counts.positives > 0)[self.metric]


@dataclass(frozen=True)
class TuningPlan:
    """A possible tuning: learnt on `source` and reported on `target`, or across `folds` of the source."""

    tuner: Tuner
    source: LabelSet
    target: LabelSet | None
    folds: int | None

    def run(self, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
        """Return the content of tuning.json, from the evaluations of "val" and "test"."""
        source = evaluations["val"]
        reported = source if self.folds is not None else evaluations["test"]
        method = self.tuner.method
        assert source.predictions is not None and reported.predictions is not None
        try:
            if self.folds is not None:
                weights = self.tuner.within(source.predictions, self.folds)
            else:
                weights = self.tuner.across(source.predictions, reported.predictions)
        except ValueError as error:
            raise DataError(f"tune={method} on {self.source.name}: {error}") from error
        for name, found in weights.items():
            found["figures_before"] = reported.summaries[name].scalars
        return {
            "method": method,
            "chosen_by": f"{self.tuner.criterion} {OF[method]}" if method in OF else self.tuner.metric,
            "min_positives": self.tuner.min_positives if method == "thresholds" else None,
            "tuned_on": _described(self.source, "val"),
            "reported_on": _described(self.source, "val") if self.target is None else _described(self.target, "test"),
            "folds": self.folds,
            "class_names": list(self.source.class_names),
            "weights": weights,
        }


def plan_tuning(
    cfg: DictConfig,
    splits: Splits,
    stats: LabelStats,
    summarize: Callable[..., Summary],
    *,
    tune: Method | Literal["off"],
    tune_metric: Metric | None = None,
    tune_min_positives: int | None = None,
    tune_folds: int | None = None,
) -> TuningPlan | None:
    """Return the plan of the tuning that these options of `mltrain evaluate` ask for, or None.

    Raises:
        ConfigError: an option that its method does not use, or no split to report on: nothing is ever reported on the
            images it was tuned on.
    """
    given = {"tune_metric": tune_metric, "tune_min_positives": tune_min_positives, "tune_folds": tune_folds}
    if tune == "off":
        for key, value in given.items():
            if value is not None:
                raise ConfigError(f"{key}={value}: nothing is tuned; add e.g. tune=thresholds")
        return None
    if cfg.task != MULTI_LABEL:
        raise ConfigError(
            f"tune={tune}: thresholds and logit adjustment are of task={MULTI_LABEL}; with task={cfg.task} "
            "the class with the highest logit is predicted, and there is nothing to tune"
        )
    if tune_metric is not None and tune != "logit_adjustment":
        raise ConfigError(
            f"tune_metric={tune_metric}: tune={tune} chooses by F1 {OF[tune]}; only "
            "tune=logit_adjustment takes a metric"
        )
    if tune_min_positives is not None and tune != "thresholds":
        raise ConfigError(f"tune_min_positives={tune_min_positives}: only tune=thresholds tunes classes apart")
    if tune_metric == "words_F1" and not 1 <= (cfg.metrics.words_k or 0) <= len(stats.class_names):
        raise ConfigError(f"tune_metric=words_F1: metrics.words_k={cfg.metrics.words_k} gives no such figure")
    if tune_folds is not None and tune_folds > len(splits.val):
        raise ConfigError(f"tune_folds={tune_folds}: {splits.val.name} has {counted(len(splits.val), 'image')}")
    if tune_folds is None and (problem := no_other_split(splits)) is not None:
        raise ConfigError(f"tune: {problem}. {WAY_OUT}")
    tuner = Tuner(
        method=tune,
        summarize=summarize,
        log_prior_odds=stats.log_prior_odds(),
        metric=tune_metric or "macro_F1",
        min_positives=tune_min_positives or 5,
        threshold=cfg.metrics.threshold,
        words_k=cfg.metrics.words_k or 5,
    )
    return TuningPlan(tuner, splits.val, splits.test if tune_folds is None else None, tune_folds)


def no_other_split(splits: Splits) -> str | None:
    """Return why the test split cannot report what was tuned on the validation split, or None."""
    if splits.test is None:
        return (
            f"{splits.val.name} would be tuned on and reported on, because the dataset has no test split; such figures "
            "are too good"
        )
    held = {os.path.realpath(path) for path in splits.val.image_paths}
    shared = sorted(held & {os.path.realpath(path) for path in splits.test.image_paths})
    if shared:
        return (
            f"of {counted(len(splits.test), 'image')} of {splits.test.name}, {len(shared)} can be found in "
            f"{splits.val.name} too, "
            f"e.g. {shared[0]}: what is tuned on one must not be reported on the other"
        )
    return None


def _described(labels: LabelSet, split: str) -> dict[str, Any]:
    return {"split": split, "name": labels.name, "images": len(labels), "fingerprint": labels.fingerprint()}


def tuning_report(content: dict[str, Any]) -> str:
    """Return the figures before and after tuning, as a table (percent) with a heading."""
    chosen_by = content["chosen_by"]
    own = ["words_F1"] if chosen_by == "words_F1" else ["OP", "OR", "CP", "CR"] if " at a " in chosen_by else []
    figures = [*FIGURES, *own]
    rows = []
    for name, found in content["weights"].items():
        for label, scalars in (("", found["figures_before"]), (", tuned", found["figures"])):
            rows.append([WEIGHTS[name] + label, *(f"{scalars[key]:.2f}" for key in figures)])
    source, target = content["tuned_on"], content["reported_on"]
    where = f"found on {source['name']} ({source['images']} images), reported on {target['name']} ({target['images']})"
    if content["folds"] is not None:
        where = f"found and reported across {content['folds']} folds of {source['name']} ({source['images']} images)"
    values = "; ".join(f"{WEIGHTS[name]}: {_found_text(content, found)}" for name, found in content["weights"].items())
    head = f"{content['method']} by {content['chosen_by']}, {where}\n{values}\n"
    return head + text_table(["weights", *figures], rows)


def _found_text(content: dict[str, Any], found: dict[str, Any]) -> str:
    if "tau" in found:
        return f"tau {found['tau']:g}"
    cuts = 1 / (1 + np.exp(-np.asarray(found["cuts"])))
    if "own" not in found:
        return f"threshold {cuts[0]:.3f}"
    few = len(cuts) - sum(found["own"])
    reached = ", or that reach it nowhere," if "recall at a" in content["chosen_by"] else ""
    shared = f", {few} classes with fewer than {content['min_positives']} positives{reached} share one" if few else ""
    return f"thresholds {cuts.min():.3f} to {cuts.max():.3f}{shared}"
