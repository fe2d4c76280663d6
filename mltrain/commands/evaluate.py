"""Evaluate a run again, from its folder alone.

    mltrain evaluate runs/shapes/small-gap-asl/0a1b2c3d
    mltrain evaluate RUN runner.device=cpu runner.eval_batch_size=16     another device, a smaller batch
    mltrain evaluate RUN metrics.save_predictions=true                   write logits and targets
    mltrain evaluate RUN dataset.root=/elsewhere/coco                    the data have moved
    mltrain evaluate RUN dataset=coco2017                                another data set of the same classes
    mltrain evaluate zoo:mld_tresnet_m_coco dataset=coco                 a published model, against its figure
    mltrain evaluate RUN tune=thresholds                                 F1 with the best threshold of each class
    mltrain evaluate RUN tune=threshold                                  with one threshold
    mltrain evaluate RUN tune=logit_adjustment tune_metric=CF1           logits - tau * prior log-odds
    mltrain evaluate RUN tta=flip                                        mean over the image and its mirror image
    mltrain evaluate RUN1 RUN2 RUN3 out=ensemble.json                    the mean of several runs, and each of them

The figures are written to evaluation.json in the run folder, those with tta=flip to evaluation_flip.json. Of several
runs, on the data of the first, they are printed, and written to out=FILE: the probabilities of all runs are averaged,
class by class name. Tuning finds its values on the validation split and
reports figures of the test split; without a test split, tune_folds=5 reports each fifth of the validation split with
the values of the other four. Tuning writes tuning.json.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
from mltrain.errors import ConfigError
from mltrain.runs.outputs import writing
from mltrain.text import counted

if TYPE_CHECKING:
    from mltrain.engine.evaluator import Evaluation
    from mltrain.labels import LabelSet
    from mltrain.runs.evaluation import RunOnData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the run's config."""

    tune: Literal["off", "threshold", "thresholds", "logit_adjustment"] = "off"
    """values to find on the validation split and report on the test split"""
    tune_metric: Literal["macro_F1", "CF1", "OF1", "words_F1"] | None = None
    """figure that tune=logit_adjustment makes best; null: macro_F1"""
    tune_min_positives: int | None = number(None, least=1)
    """with tune=thresholds, classes with fewer validation positives share one threshold; null: 5"""
    tune_folds: int | None = number(None, least=2)
    """report across this many folds of the validation split, not on the test split"""
    tta: Literal["flip", "five_crop", "sizes"] | None = None
    """test-time augmentation: evaluate the mean probability over flip: the image and its mirror image (2 passes);
    five_crop: corners and centre (5 passes); sizes: three sizes (3 passes)"""
    out: str | None = None
    """JSON file for the figures; null: evaluation.json in the run folder, and no file for several runs"""


def evaluate(
    cfg: DictConfig,
    folder: Path,
    options: Options | None = None,
    *,
    others: Sequence[tuple[DictConfig, Path]] = (),
) -> dict[str, Any] | None:
    """Evaluate a run's best weights again, from its folder, and write evaluation.json beside result.json.

    With `options.tune`, thresholds or a logit adjustment are found on the validation split and reported on the test
    split or across folds; tuning.json holds method, values and figures. Thresholds that `mltrain tune_thresholds` wrote
    to the folder give further figures of the test split.

    Args:
        others: config and folder of further runs, whose best weights are averaged with those of this one.

    Returns:
        The content of evaluation.json on the main rank, None on others.

    Raises:
        CheckpointError: the folder has no best.pt, or it does not fit the model or the dataset's classes.
        ConfigError: there is no split on which tuning can be reported.
    """
    from mltrain.config.identity import component_name
    from mltrain.files import write_json
    from mltrain.report.tables import metrics_table
    from mltrain.runs.assemble import keeps_predictions
    from mltrain.runs.evaluation import open_on_data
    from mltrain.runs.thresholds import plan_tuning, report_thresholds, tuning_report
    from mltrain.runs.train import chosen
    from mltrain.runs.zoo import compare, needs_predictions

    options = options or Options()
    if others:
        return _evaluate_together([(cfg, folder), *others], options)
    tuning = {key: value for key, value in asdict(options).items() if key.startswith("tune")}
    # In the precision of the training, so that the figures are those that it printed.
    with open_on_data(cfg, folder, amp=cfg.runner.amp, tta=options.tta) as run:
        tuner = plan_tuning(cfg, run.splits, run.stats, run.summarize, **tuning)
        keep_all = (
            tuner is not None
            or keeps_predictions(cfg, run.stats)
            or (folder / THRESHOLDS).exists()
            or needs_predictions(folder)
        )
        result: dict[str, Any] = {"best": run.best} | ({"tta": options.tta} if options.tta else {})
        evaluations: dict[str, Evaluation] = {}
        for split, labels in (("val", run.splits.val), ("test", run.splits.test)):
            evaluation = None if labels is None else run.evaluate(labels, keep_all=keep_all)
            if labels is not None and evaluation is not None:
                evaluations[split] = evaluation
                scalars = {name: summary.scalars for name, summary in evaluation.summaries.items()}
                result |= scalars if split == "val" else {"test": scalars}
                if options.tta is None:
                    _write(run, split, labels, evaluation)
        if not run.dist.is_main:
            return None
        logger.info("%s\n%s", metrics_table(result), chosen(result) if "epoch" in run.best else "")
        result |= compare(folder, component_name(cfg.dataset), evaluations["val"], len(run.splits.val))
        thresholds = report_thresholds(folder, run.state, run.splits, evaluations, run.summarize)
        name = f"evaluation_{options.tta}.json" if options.tta else EVALUATION
        place = Path(options.out) if options.out else folder / name
        with writing(place) as path:
            write_json(path, result | ({} if thresholds is None else {"thresholds": thresholds}))
        if options.tta is not None:
            kept = ", and no predictions are kept" if cfg.metrics.save_predictions else ""
            logger.info("%s; figures with tta=%s%s", place, options.tta, kept)
        if tuner is not None:
            content = tuner.run(evaluations) | ({"tta": options.tta} if options.tta else {})
            write_json(folder / TUNING, content)
            logger.info("\n%s\n%s", tuning_report(content), folder / TUNING)
        return result


def _evaluate_together(runs: Sequence[tuple[DictConfig, Path]], options: Options) -> dict[str, Any] | None:
    """Evaluate the mean of the best weights of several runs, and each of them, on the data set of the first."""
    from mltrain.files import write_json
    from mltrain.report.tables import figures_table
    from mltrain.runs.assemble import keeps_predictions
    from mltrain.runs.ensemble import Averager, note_thresholds, over_members
    from mltrain.runs.evaluation import open_member, open_on_data
    from mltrain.runs.same_data import trained_on

    if options.tune != "off":
        raise ConfigError(f"tune={options.tune}: is for one run; found {len(runs)} run folders")
    (cfg, folder), *others = runs
    names = [str(place) for _, place in runs]
    if len({Path(name).resolve() for name in names}) < len(names):
        raise ConfigError(f"{' '.join(names)}: a run folder is named twice")
    with open_on_data(cfg, folder, amp=cfg.runner.amp) as run:
        members = {str(folder): run.member()}
        members |= {str(place): open_member(other, place, run.dist, cfg) for other, place in others}
        averager, mean = Averager(members, options.tta), f"mean of {len(runs)}"
        models = {mean: run.member().model, **averager.models}
        if run.dist.is_main:
            logger.info("%s", averager)
            note_thresholds([place for _, place in runs], cfg.metrics.threshold)
            for _, place in others:
                for split, count in trained_on(place, run.splits, folder).items():
                    logger.warning(
                        "%s: was trained on %s of the %s split of %s; its figures, and the mean's, are too good",
                        *(place, counted(count, "image"), split, folder),
                    )
        result: dict[str, Any] = {"runs": names, "mean_of": "probabilities", "tta": options.tta}
        for split, labels in (("val", run.splits.val), ("test", run.splits.test)):
            if labels is None:
                continue
            keep_all = keeps_predictions(cfg, run.stats)
            found = run.evaluate_models(models, labels, over_members(averager, mean), keep_all=keep_all)
            if found is not None:
                scalars = {name: summary.scalars for name, summary in found.summaries.items()}
                result[split] = {"mean": scalars.pop(mean), "members": scalars}
                logger.info("%s", figures_table(split, {mean: result[split]["mean"], **scalars}))
        if not run.dist.is_main:
            return None
        if options.out:
            with writing(Path(options.out)) as path:
                write_json(path, result)
        return result


def _write(run: RunOnData, split: str, labels: LabelSet, evaluation: Evaluation) -> None:
    """Write the figures per class of a split, its confusion matrix and, if the config asks for them, predictions."""
    from mltrain.report.outcome import write_confusion, write_per_class
    from mltrain.report.predictions import write_predictions

    best_weights, names = run.best["weights"], run.stats.class_names
    write_per_class(run.folder / EVALUATION_PER_CLASS[split], evaluation, run.stats)
    write_confusion(run.folder / EVALUATION_CONFUSION[split], evaluation, best_weights, names)
    if run.config.metrics.save_predictions:
        write_predictions(run.folder / PREDICTIONS[split][1], evaluation, labels)


COMMAND = Command(evaluate, about=__doc__, takes="run", options=Options, several=True)
