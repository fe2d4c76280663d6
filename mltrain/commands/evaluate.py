"""Evaluate a run again, from its folder alone.

    mltrain evaluate runs/shapes/small-gap-asl/0a1b2c3d
    mltrain evaluate RUN runner.device=cpu runner.eval_batch_size=16     another device, a smaller batch
    mltrain evaluate RUN metrics.save_predictions=true                   write logits and targets
    mltrain evaluate RUN dataset.root=/elsewhere/coco                    the data have moved
    mltrain evaluate RUN dataset=coco2017                                another data set of the same classes
    mltrain evaluate zoo:mld_tresnet_m_coco dataset=coco                 a published model, against its figure
    mltrain evaluate RUN tune=thresholds           F1 with the best threshold of each class
    mltrain evaluate RUN tune=threshold            with one threshold
    mltrain evaluate RUN tune=logit_adjustment tune_metric=CF1           logits - tau * prior log-odds

KEY=VALUE changes the config that the run folder holds. What is tuned is found on the validation split and reported on
the test split; without one, tune_folds=5 reports each fifth of the validation split with what the others gave. It goes
to tuning.json in the run folder.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.schema import number
from mltrain.engine.run_folder import (
    EVALUATION,
    EVALUATION_CONFUSION,
    EVALUATION_PER_CLASS,
    PREDICTIONS,
    THRESHOLDS,
    TUNING,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    tune: Literal["off", "threshold", "thresholds", "logit_adjustment"] = "off"  # found on val, reported on test
    tune_metric: Literal["macro_F1", "CF1", "OF1", "words_F1"] | None = None  # of logit_adjustment; null: macro_F1
    tune_min_positives: int | None = number(None, least=1)  # of thresholds: fewer share one threshold; null: 5
    tune_folds: int | None = number(None, least=2)  # cross-fit on val in place of reporting on test


def evaluate(cfg: DictConfig, folder: Path, options: Options | None = None) -> dict[str, Any] | None:
    """Evaluate a run's best weights again, from its folder; writes evaluation.json beside result.json.

    With `options.tune`, thresholds or a logit adjustment are found on the validation split and reported on the test
    split, or by cross-fitting; tuning.json says which and how, and holds the figures. Thresholds that
    `mltrain tune_thresholds` left in the folder give further figures of the test split.

    Raises:
        CheckpointError: the folder has no best.pt, or it does not fit the model or the dataset's classes.
        ConfigError: tuning without a split to report on.
    """
    from mltrain.config.identity import component_name
    from mltrain.engine import distributed, evaluator
    from mltrain.engine.precision import resolve_amp
    from mltrain.engine.runner import check_classes
    from mltrain.files import write_json
    from mltrain.report.outcome import write_confusion, write_per_class
    from mltrain.report.predictions import write_predictions
    from mltrain.report.tables import metrics_table
    from mltrain.runs.assemble import build_data, chosen, eval_loader, keeps_predictions, summarizer
    from mltrain.runs.folder import all_weights, build_model, on_device, read_weights, stats_of
    from mltrain.runs.thresholds import plan_tuning, report_thresholds, tuning_report
    from mltrain.runs.zoo import compare, needs_predictions

    with distributed.start(cfg.runner.device) as dist:
        cfg.rerun = False
        state = read_weights(cfg, folder)
        bounds = {key: cfg.metrics[key] for key in ("head_min", "medium_min")}
        trained = stats_of(state)
        splits, stats = build_data(cfg, dist, trained and replace(trained, **bounds), state["class_names"])
        check_classes(state, splits.val.class_names, folder)
        model = on_device(build_model(cfg, stats.class_names, stats), cfg, dist.device)
        tuner = plan_tuning(cfg, options or Options(), splits, stats, summarizer(cfg, stats))
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
            logger.info("\n%s\n%s", tuning_report(content), folder / TUNING)
        return result


COMMAND = Command(evaluate, about=__doc__, takes="run", options=Options)
