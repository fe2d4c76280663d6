"""Thresholds of a finished run: found on its validation split, kept in its folder, used wherever its labels are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from mltrain.config.assemble import build_parts, eval_loader, summarizer
from mltrain.config.finished import FinishedRun, all_weights, choose_weights, read_weights
from mltrain.config.schema import TuneThresholds
from mltrain.config.task import MULTI_LABEL
from mltrain.config.tune import Plan, no_other_split, report
from mltrain.datasets.splits import Splits
from mltrain.engine import distributed
from mltrain.engine.evaluator import Evaluation, Inference, evaluate
from mltrain.engine.precision import resolve_amp
from mltrain.engine.state import TrainState
from mltrain.engine.tuning import Tuner
from mltrain.errors import ConfigError
from mltrain.metrics.summary import Summary
from mltrain.metrics.thresholds import Criterion
from mltrain.report.outcome import write_json
from mltrain.report.tables import WEIGHTS

logger = logging.getLogger(__name__)

FILE = "thresholds.json"
FOLDS = 5
"""of the validation split, where the figures cannot be those of a test split"""


@dataclass(frozen=True)
class Thresholds:
    """A class is predicted where its probability is strictly above its threshold."""

    values: np.ndarray
    """float64 (C,), probabilities"""
    weights: str
    """those they were found for: "val" raw, or "ema" averaged"""
    chosen_by: str
    tuned_on: dict[str, Any]
    """split, name, images and fingerprint of the labels"""

    @property
    def cuts(self) -> torch.Tensor:
        """The same as logits, float64 (C,)."""
        return torch.logit(torch.from_numpy(self.values))


def load_thresholds(run: FinishedRun, file: str | Path | None = None) -> Thresholds | None:
    """The thresholds in the folder of a run (or in `file`); None where there are none.

    Raises:
        ConfigError: they are of other classes, of other weights, or of an earlier epoch; or `file` does not exist.
    """
    path = run.folder / FILE if file is None else Path(file)
    if file is None and not path.exists():
        return None
    found, best = _read(path)
    problem = None
    if list(found["class_names"]) != list(run.class_names):
        problem = "of other classes"
    elif file is None and found["weights"] != run.weights:
        asked = WEIGHTS[run.weights]
        problem = f"of the {WEIGHTS[found['weights']]} weights (weights={found['weights']}), not the {asked} weights"
    elif file is None and best != _identity(run.best):
        problem = f"of the weights of {best}, and the run has gone on since, to {_identity(run.best)}"
    if problem is not None:
        raise ConfigError(
            f"{path}: its thresholds are {problem}. Tune again: python tools/tune_thresholds.py {run.folder}"
            f"{f' weights={run.weights}' if run.weights != run.best['weights'] else ''}; or remove the file, and "
            "metrics.threshold holds for all classes"
        )
    return _thresholds(found)


def thresholds_of(run: FinishedRun) -> np.ndarray:
    """The probability that each class has to exceed, float64 (C,): the run's own thresholds, else metrics.threshold."""
    found = load_thresholds(run)
    return np.full(len(run.class_names), float(run.config.metrics.threshold)) if found is None else found.values


def tune_thresholds(cfg: DictConfig, folder: Path, options: TuneThresholds) -> dict[str, Any] | None:
    """Find thresholds on a run's validation split and write thresholds.json; its content on the main rank.

    The figures in it are those of the test split; without one, or with `folds`, those of each fold of the validation
    split with what the other folds gave: never of images that the thresholds were found on.

    Raises:
        ConfigError: a single-label run, or options that exclude each other.
        DataError: no threshold reaches the precision that is asked for.
    """
    criterion = _criterion(cfg, options)
    with distributed.start(cfg.runner.device) as dist:
        state = read_weights(cfg, folder)
        splits, stats, model = build_parts(cfg, dist, state.stats)
        state.check_classes(splits.val.class_names, folder)
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
                    inference = Inference(dist, resolve_amp(cfg.runner.amp, dist.device), cfg.runner.channels_last)
                    evaluation = evaluate(weights, loader, tuner.summarize, inference, keep_all=True)
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
            "best": _identity(state.best),
            **{key: content[key] for key in ("chosen_by", "min_positives", "tuned_on", "reported_on", "folds")},
            "figures_before": found["figures_before"],
            "figures": found["figures"],
        }
        write_json(folder / FILE, written)
        logger.info("%s\n%s", report(content), folder / FILE)
        return written


def report_thresholds(
    folder: Path,
    state: TrainState,
    splits: Splits,
    evaluations: Mapping[str, Evaluation],
    summarize: Callable[..., Summary],
) -> dict[str, Any] | None:
    """Figures of the test split with the run's own thresholds; None where there are none, or they cannot be judged.

    They are not used on the validation split, where they were found, nor where the test split shares images with it.
    """
    if not (folder / FILE).exists():
        return None
    found, best = _read(folder / FILE)
    reason = no_other_split(splits)
    if tuple(found["class_names"]) != splits.val.class_names or best != _identity(state.best):
        reason = "they are of other classes or of an earlier epoch; tune again"
    elif found["tuned_on"]["fingerprint"] != splits.val.fingerprint():
        reason = f"they were found on {found['tuned_on']['name']}, which is not the validation split here"
    predictions = evaluations["test"].predictions if "test" in evaluations else None
    if reason is not None or predictions is None:
        logger.info("%s: not used for these figures: %s", folder / FILE, reason)
        return None
    name = found["weights"]
    cuts = _thresholds(found).cuts
    scalars = summarize(predictions.logits[name], predictions.targets, cuts=cuts).scalars
    before = evaluations["test"].summaries[name].scalars
    shown = ", ".join(f"{key} {scalars[key]:.2f} ({before[key]:.2f} without)" for key in ("OF1", "CF1", "macro_F1"))
    logger.info("test %s with the thresholds of %s: %s", WEIGHTS[name], folder / FILE, shown)
    return {"chosen_by": found["chosen_by"], "weights": name, "tuned_on": found["tuned_on"], "test": scalars}


def _criterion(cfg: DictConfig, options: TuneThresholds) -> Criterion:
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


def _plan(tuner: Tuner, splits: Splits, folds: int | None) -> Plan:
    problem = no_other_split(splits) if folds is None else None
    if problem is not None:
        logger.info("figures come from %d folds, each with the thresholds of the others; without: %s", FOLDS, problem)
        folds = FOLDS
    if folds is not None and folds > len(splits.val):
        raise ConfigError(f"folds={folds}: {splits.val.name} has {len(splits.val)} images")
    return Plan(tuner, splits.val, splits.test if folds is None else None, folds)


def _identity(best: Mapping[str, Any]) -> dict[str, Any]:
    """What tells one best epoch from another; nothing for weights that were trained elsewhere."""
    return {key: best[key] for key in ("epoch", "step") if key in best}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content, and the epoch it is of."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        values, names = np.asarray(found["thresholds"], dtype=np.float64), found["class_names"]
        wrong = _wrong(values, names)
        keys: Sequence[str] = [key for key in ("weights", "best", "chosen_by", "tuned_on") if key not in found]
        if wrong or keys:
            raise ValueError(wrong or f"has no {', '.join(keys)}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: no file of thresholds ({error}); tools/tune_thresholds.py writes one") from error
    return found, found["best"]


def _wrong(values: np.ndarray, names: Sequence[str]) -> str:
    if values.shape != (len(names),):
        return f"{values.size} thresholds for {len(names)} classes"
    return "" if ((values >= 0) & (values <= 1)).all() else "a threshold is no probability"


def _thresholds(found: Mapping[str, Any]) -> Thresholds:
    values = np.asarray(found["thresholds"], dtype=np.float64)
    return Thresholds(values, found["weights"], found["chosen_by"], found["tuned_on"])
