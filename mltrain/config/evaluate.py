"""Evaluation of a finished run, from its folder alone."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mltrain.config.assemble import build_data, chosen, eval_loader, keeps_predictions, summarizer
from mltrain.config.finished import all_weights, build_model, on_device, read_weights, stats_of
from mltrain.config.identity import component_name
from mltrain.config.schema import Tuning
from mltrain.config.thresholds import FILE as THRESHOLDS
from mltrain.config.thresholds import report_thresholds
from mltrain.config.tune import plan, report
from mltrain.config.zoo import compare, needs_predictions
from mltrain.engine import distributed, evaluator
from mltrain.engine.precision import resolve_amp
from mltrain.engine.run_folder import (
    EVALUATION,
    EVALUATION_CONFUSION,
    EVALUATION_PER_CLASS,
    PREDICTIONS,
    TUNING,
)
from mltrain.engine.runner import check_classes
from mltrain.files import write_json
from mltrain.report.outcome import write_confusion, write_per_class
from mltrain.report.predictions import write_predictions
from mltrain.report.tables import metrics_table

logger = logging.getLogger(__name__)


def evaluate(cfg: DictConfig, folder: Path, tuning: Tuning | None = None) -> dict[str, Any] | None:
    """Evaluate a run's best weights again, from its folder; writes evaluation.json beside result.json.

    With `tuning`, thresholds or a logit adjustment are found on the validation split and reported on the test split, or
    by cross-fitting; tuning.json says which and how, and holds the figures. Thresholds that tools/tune_thresholds.py
    left in the folder give further figures of the test split.

    Raises:
        CheckpointError: the folder has no best.pt, or it does not fit the model or the dataset's classes.
        ConfigError: tuning without a split to report on.
    """
    with distributed.start(cfg.runner.device) as dist:
        cfg.rerun = False
        state = read_weights(cfg, folder)
        bounds = {key: cfg.metrics[key] for key in ("head_min", "medium_min")}
        trained = stats_of(state)
        splits, stats = build_data(cfg, dist, trained and replace(trained, **bounds), state["class_names"])
        check_classes(state, splits.val.class_names, folder)
        model = on_device(build_model(cfg, stats.class_names, stats), cfg, dist.device)
        tuner = plan(cfg, tuning or Tuning(), splits, stats, summarizer(cfg, stats))
        weights = all_weights(cfg, state, model)
        settings = {
            "dist": dist,
            "amp_dtype": resolve_amp(cfg.runner.amp, dist.device),
            "channels_last": cfg.runner.channels_last,
            "progress": cfg.logger.progress,
            "keep_all": tuner is not None
            or keeps_predictions(cfg, stats)
            or (folder / THRESHOLDS).exists()
            or needs_predictions(folder),
        }
        result: dict[str, Any] = {"best": state["best"]}
        evaluations: dict[str, evaluator.Evaluation] = {}
        for name, labels in (("val", splits.val), ("test", splits.test)):
            if labels is None:
                continue
            with closing(eval_loader(cfg, dist, labels, model)) as loader:
                evaluation = evaluator.evaluate(weights, loader, summarizer(cfg, stats), **settings)
            if evaluation is None:
                continue
            evaluations[name] = evaluation
            scalars = {k: summary.scalars for k, summary in evaluation.summaries.items()}
            result |= scalars if name == "val" else {"test": scalars}
            write_per_class(folder / EVALUATION_PER_CLASS[name], evaluation, stats)
            best_weights = state["best"]["weights"]
            write_confusion(folder / EVALUATION_CONFUSION[name], evaluation, best_weights, stats.class_names)
            if cfg.metrics.save_predictions:
                write_predictions(folder / PREDICTIONS[name][1], evaluation, labels)
        if not dist.is_main:
            return None
        logger.info("%s\n%s", metrics_table(result), chosen(result) if "epoch" in state["best"] else "")
        result |= compare(folder, component_name(cfg.dataset), evaluations["val"], len(splits.val))
        thresholds = report_thresholds(folder, state, splits, evaluations, summarizer(cfg, stats))
        write_json(folder / EVALUATION, result | ({} if thresholds is None else {"thresholds": thresholds}))
        if tuner is not None:
            content = tuner.run(evaluations)
            write_json(folder / TUNING, content)
            logger.info("\n%s\n%s", report(content), folder / TUNING)
        return result
