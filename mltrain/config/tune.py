"""Tuning after training, as tools/evaluate.py offers it: which split it may learn from, and what is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from mltrain.config.schema import Tuning
from mltrain.config.task import MULTI_LABEL
from mltrain.datasets.splits import Splits
from mltrain.engine.evaluator import Evaluation
from mltrain.engine.run_folder import WEIGHTS
from mltrain.engine.tuning import Tuner
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet, LabelStats
from mltrain.metrics.summary import Summary
from mltrain.report.tables import text_table

FIGURES = ("OF1", "CF1", "macro_F1")
OF = {"threshold": "over all entries", "thresholds": "of each class"}
WAY_OUT = (
    "tune_folds=5 reports on each fifth of the validation split with what the other four gave; or give the dataset a "
    "test split of other images"
)


@dataclass(frozen=True)
class Plan:
    """Tuning that was found possible: on `source`, reported on `target`, or across `folds` of the source."""

    tuner: Tuner
    source: LabelSet
    target: LabelSet | None
    folds: int | None

    def run(self, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
        """The content of tuning.json, from the evaluations of "val" and "test"."""
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


def plan(
    cfg: DictConfig, tuning: Tuning, splits: Splits, stats: LabelStats, summarize: Callable[..., Summary]
) -> Plan | None:
    """What `tuning` asks for, None where nothing; `summarize` has its settings bound.

    Raises:
        ConfigError: an option that its method does not use, or no split to report on: nothing is ever reported on the
            images it was tuned on.
    """
    if tuning.tune == "off":
        for key in ("tune_metric", "tune_min_positives", "tune_folds"):
            if getattr(tuning, key) is not None:
                raise ConfigError(f"{key}={getattr(tuning, key)}: nothing is tuned; add e.g. tune=thresholds")
        return None
    if cfg.task != MULTI_LABEL:
        raise ConfigError(
            f"tune={tuning.tune}: thresholds and logit adjustment are of task={MULTI_LABEL}; with task={cfg.task} "
            "the class with the highest logit is predicted, and there is nothing to tune"
        )
    if tuning.tune_metric is not None and tuning.tune != "logit_adjustment":
        raise ConfigError(
            f"tune_metric={tuning.tune_metric}: tune={tuning.tune} chooses by F1 {OF[tuning.tune]}; only "
            "tune=logit_adjustment takes a metric"
        )
    if tuning.tune_min_positives is not None and tuning.tune != "thresholds":
        raise ConfigError(f"tune_min_positives={tuning.tune_min_positives}: only tune=thresholds tunes classes apart")
    if tuning.tune_metric == "words_F1" and not 1 <= (cfg.metrics.words_k or 0) <= len(stats.class_names):
        raise ConfigError(f"tune_metric=words_F1: metrics.words_k={cfg.metrics.words_k} gives no such figure")
    if tuning.tune_folds is not None and tuning.tune_folds > len(splits.val):
        raise ConfigError(f"tune_folds={tuning.tune_folds}: {splits.val.name} has {len(splits.val)} images")
    if tuning.tune_folds is None and (problem := no_other_split(splits)) is not None:
        raise ConfigError(f"tune: {problem}. {WAY_OUT}")
    tuner = Tuner(
        method=tuning.tune,
        summarize=summarize,
        log_prior_odds=stats.log_prior_odds(),
        metric=tuning.tune_metric or "macro_F1",
        min_positives=tuning.tune_min_positives or 5,
        threshold=cfg.metrics.threshold,
        words_k=cfg.metrics.words_k or 5,
    )
    return Plan(tuner, splits.val, splits.test if tuning.tune_folds is None else None, tuning.tune_folds)


def no_other_split(splits: Splits) -> str | None:
    """Why the test split cannot report what was tuned on the validation split; None where it can."""
    if splits.test is None:
        return (
            f"{splits.val.name} would be tuned on and reported on, for the dataset has no test split; such figures are "
            "too good"
        )
    held = {os.path.realpath(path) for path in splits.val.image_paths}
    shared = sorted(held & {os.path.realpath(path) for path in splits.test.image_paths})
    if shared:
        return (
            f"{len(shared)} of the {len(splits.test)} images of {splits.test.name} are in {splits.val.name} too, "
            f"e.g. {shared[0]}: what is tuned on one must not be reported on the other"
        )
    return None


def _described(labels: LabelSet, split: str) -> dict[str, Any]:
    return {"split": split, "name": labels.name, "images": len(labels), "fingerprint": labels.fingerprint()}


def report(content: dict[str, Any]) -> str:
    """The figures before and after, in words and a table (percent)."""
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
    values = "; ".join(f"{WEIGHTS[name]}: {_in_words(content, found)}" for name, found in content["weights"].items())
    head = f"{content['method']} by {content['chosen_by']}, {where}\n{values}\n"
    return head + text_table(["weights", *figures], rows)


def _in_words(content: dict[str, Any], found: dict[str, Any]) -> str:
    if "tau" in found:
        return f"tau {found['tau']:g}"
    cuts = 1 / (1 + np.exp(-np.asarray(found["cuts"])))
    if "own" not in found:
        return f"threshold {cuts[0]:.3f}"
    few = len(cuts) - sum(found["own"])
    reached = ", or that reach it nowhere," if "recall at a" in content["chosen_by"] else ""
    shared = f", {few} classes with fewer than {content['min_positives']} positives{reached} share one" if few else ""
    return f"thresholds {cuts.min():.3f} to {cuts.max():.3f}{shared}"
