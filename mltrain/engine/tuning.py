"""Thresholds or logit adjustment found on one split of a run and reported on another, or by cross-fitting on one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mltrain.engine.evaluator import Predictions
from mltrain.metrics.counts import count_at_threshold, overall_and_per_class, words_at_k
from mltrain.metrics.summary import Summary
from mltrain.metrics.thresholds import F1, Criterion, adjust_logits, best_cut, best_cuts, best_tau, crossed, folds

Method = Literal["threshold", "thresholds", "logit_adjustment"]
Metric = Literal["macro_F1", "CF1", "OF1", "words_F1"]
RANKINGS = ("map", "micro_ap")  # figures that a cut cannot change


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
