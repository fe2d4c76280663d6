"""Evaluation of a finished run, from its folder alone."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mltrain.config.assemble import build_data, chosen, eval_loader, keeps_predictions, summarizer
from mltrain.config.finished import all_weights, build_model, on_device, read_weights
from mltrain.config.identity import component_name
from mltrain.config.schema import Tuning
from mltrain.config.thresholds import FILE as THRESHOLDS
from mltrain.config.thresholds import report_thresholds
from mltrain.config.tune import plan, report
from mltrain.config.zoo import compare, needs_predictions
from mltrain.engine import distributed
from mltrain.engine.evaluator import Evaluation, Inference
from mltrain.engine.evaluator import evaluate as evaluate_split
from mltrain.engine.precision import resolve_amp
from mltrain.report.outcome import write_confusion, write_json, write_per_class
from mltrain.report.predictions import FILES, write_predictions
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
        trained = state.stats
        splits, stats = build_data(cfg, dist, trained and replace(trained, **bounds), state.class_names)
        state.check_classes(splits.val.class_names, folder)
        model = on_device(build_model(cfg, stats.class_names, stats), cfg, dist.device)
        tuner = plan(cfg, tuning or Tuning(), splits, stats, summarizer(cfg, stats))
        weights = all_weights(cfg, state, model)
        amp_dtype = resolve_amp(cfg.runner.amp, dist.device)
        inference = Inference(dist, amp_dtype, cfg.runner.channels_last, progress=cfg.logger.progress)
        keep_all = (
            tuner is not None
            or keeps_predictions(cfg, stats)
            or (folder / THRESHOLDS).exists()
            or needs_predictions(folder)
        )
        result: dict[str, Any] = {"best": state.best}
        evaluations: dict[str, Evaluation] = {}
        for name, labels in (("val", splits.val), ("test", splits.test)):
            if labels is None:
                continue
            with closing(eval_loader(cfg, dist, labels, model)) as loader:
                evaluation = evaluate_split(weights, loader, summarizer(cfg, stats), inference, keep_all=keep_all)
            if evaluation is None:
                continue
            evaluations[name] = evaluation
            scalars = {k: summary.scalars for k, summary in evaluation.summaries.items()}
            result |= scalars if name == "val" else {"test": scalars}
            write_per_class(folder / f"evaluation_{name}.csv", evaluation, stats)
            best_weights = state.chosen
            write_confusion(folder / f"evaluation_{name}_confusion.csv", evaluation, best_weights, stats.class_names)
            if cfg.metrics.save_predictions:
                write_predictions(folder / FILES[name][1], evaluation, labels)
        if not dist.is_main:
            return None
        logger.info("%s\n%s", metrics_table(result), chosen(result) if "epoch" in result["best"] else "")
        result |= compare(folder, component_name(cfg.dataset), evaluations["val"], len(splits.val))
        thresholds = report_thresholds(folder, state, splits, evaluations, summarizer(cfg, stats))
        write_json(folder / "evaluation.json", result | ({} if thresholds is None else {"thresholds": thresholds}))
        if tuner is not None:
            content = tuner.run(evaluations)
            write_json(folder / "tuning.json", content)
            logger.info("\n%s\n%s", report(content), folder / "tuning.json")
        return result
