"""Train a config to its end: lock the run folder, assemble, fit, and write the results."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mltrain.config.identity import component_name, run_folder, run_id
from mltrain.engine import distributed
from mltrain.engine.checkpoint import CheckpointFolder
from mltrain.engine.latest import LATEST, point_to
from mltrain.engine.lock import run_lock
from mltrain.engine.run_folder import CONFUSION, LOG, PER_CLASS, REPORT, RESULT, read_config, read_result
from mltrain.engine.runner import Outcome, Runner
from mltrain.errors import ConfigError, DataError
from mltrain.files import remove_folder, remove_leftovers, write_json
from mltrain.metrics.own import SummarizeWithOwn
from mltrain.metrics.summary import TITLES
from mltrain.report.html.run_report import report_at_end
from mltrain.report.outcome import write_confusion, write_per_class
from mltrain.report.predictions import keep_predictions
from mltrain.report.tables import metrics_table
from mltrain.runs.assemble import assemble
from mltrain.runs.board import attach_board, finish_board
from mltrain.runs.debug import verdict
from mltrain.runs.image_roots import image_roots
from mltrain.runs.notices import head_was_left
from mltrain.runs.same_data import check_runs
from mltrain.transcript import open_log, recording

logger = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, Any] | None:
    """Train a config to its end, write its results and return them on the main rank; report a finished run.

    Raises:
        MltrainError: config, data, numerics or a signal stopped it.
    """
    folder = run_folder(cfg)
    with recording(), ExitStack() as held, distributed.start(cfg.runner.device) as dist:
        if not cfg.rerun and (result := _finished(cfg, folder, dist)) is not None:
            return result  # without the lock, because the folder may be read-only
        held.enter_context(_alone_in(folder, dist, rerun=cfg.rerun))
        # Another process may have ended the run while this one was waiting for the lock.
        if not cfg.rerun and (result := _finished(cfg, folder, dist)) is not None:
            return result
        open_log(folder / LOG)
        if cfg.runner.compile is True:
            distributed.check_compiler(dist.device)
        cfg = _compile_as_before(cfg, folder)
        runner = assemble(cfg, dist)
        if dist.is_main:
            point_to(Path(cfg.paths.runs) / LATEST, folder)
        attach_board(cfg, runner)
        outcome = runner.fit()
        return None if outcome is None else _write(cfg, runner, outcome)


def _compile_as_before(cfg: DictConfig, folder: Path) -> DictConfig:
    """Return the config with ``runner.compile=false`` instead of auto if a run that is resumed began with that.

    Both have the same run id, but an eager and a compiled loss may differ in the last bits.
    """
    before = folder / "config.yaml"
    if cfg.runner.compile != "auto" or not before.exists() or not (folder / "last.pt").exists():
        return cfg
    if OmegaConf.select(OmegaConf.load(before), "runner.compile") is not False:
        return cfg
    cfg = cfg.copy()
    OmegaConf.update(cfg, "runner.compile", False)
    return cfg


@contextmanager
def _alone_in(folder: Path, dist: distributed.Distributed, *, rerun: bool) -> Iterator[None]:
    """Keep other processes out of the run folder, and remove what killed ones left in it.

    `rerun` deletes an earlier run, but not an unfinished one that was itself started with rerun=true: that one resumes.
    """
    with ExitStack() as held:
        with dist.first():
            if dist.is_main:
                try:
                    held.enter_context(run_lock(folder))
                    remove_leftovers(folder.parent, folder.name)
                    if rerun and folder.exists() and not _is_unfinished_rerun(folder):
                        remove_folder(folder)
                    remove_leftovers(folder)
                    CheckpointFolder(folder).remove_stale()
                except OSError as error:
                    raise ConfigError(f"paths.runs: the run folder {folder} cannot be used: {error}") from error
        yield


def _finished(cfg: DictConfig, folder: Path, dist: distributed.Distributed) -> dict[str, Any] | None:
    """Return the result of a finished run on all ranks, and write its report if it was stopped before that.

    Raises:
        DataError: the data have changed since, so that the result is not theirs.
    """
    result = dist.broadcast(read_result(folder) if dist.is_main else None)
    if result is not None:
        with dist.first():  # an error of the main rank ends all
            if dist.is_main:
                check_runs([cfg])
    if result is not None and dist.is_main:
        remove_leftovers(folder)
        logger.info("finished before: %s (rerun=true runs it again)\n%s", folder, metrics_table(result))
        _say_why_early(result)
        if left := head_was_left(cfg, folder):
            logger.info("%s", left)
        if cfg.logger.report and not (folder / REPORT).exists():
            try:
                images = image_roots(folder, list(cfg.paths.imports))
            except Exception:  # noqa: BLE001  the report meets the same file, and says so
                images = {}
            report_at_end(folder, images)
    return result


def _is_unfinished_rerun(folder: Path) -> bool:
    """Return whether the run in a folder was started with rerun=true, as its config tells, and has not finished."""
    try:
        return read_config(folder).get("rerun") is True and read_result(folder) is None
    except DataError:
        return False


def _write(cfg: DictConfig, runner: Runner, outcome: Outcome) -> dict[str, Any]:
    result = outcome.result | {
        "config_id": run_id(cfg),
        "dataset": component_name(cfg.dataset),
        "name": cfg.name,
        "seed": cfg.seed,
        "folder": str(runner.folder),
    }
    if isinstance(runner.summarize, SummarizeWithOwn):
        result["own_figures"] = list(runner.summarize.names)
    write_per_class(runner.folder / PER_CLASS["val"], outcome.validation, runner.stats)
    best_weights, names = result["best"]["weights"], runner.stats.class_names
    write_confusion(runner.folder / CONFUSION["val"], outcome.validation, best_weights, names)
    keep: dict[str, Any] = {
        "best": best_weights,
        "save": cfg.metrics.save_predictions,
        "limit_mb": cfg.metrics.predictions_mb,
    }
    keep_predictions(runner.folder, "val", outcome.validation, runner.val_loader.labels, **keep)
    if outcome.test is not None and runner.test_loader is not None:
        write_per_class(runner.folder / PER_CLASS["test"], outcome.test, runner.stats)
        write_confusion(runner.folder / CONFUSION["test"], outcome.test, best_weights, names)
        keep_predictions(runner.folder, "test", outcome.test, runner.test_loader.labels, **keep)
    finish_board(cfg, runner, result, outcome.validation)
    write_json(runner.folder / RESULT, result)  # last: its presence marks the run as finished
    _say_why_early(result)
    logger.info("%s\n%s; all results in %s", metrics_table(result), chosen(result), runner.folder)
    verdict(cfg, result)
    if cfg.logger.report:
        loaders = {"val": runner.val_loader, "test": runner.test_loader}
        report_at_end(runner.folder, {k: loader.labels.root for k, loader in loaders.items() if loader is not None})
    return result


def _say_why_early(result: dict[str, Any]) -> None:
    if "ended_early" in result:
        logger.info("%s", result["ended_early"])


def chosen(result: dict[str, Any]) -> str:
    """Return the line that names the best epoch and the figure that chose it."""
    best = result["best"]
    by = best.get("by", "map")  # older runs chose by mAP and did not say so
    return f"* best by validation {TITLES.get(by, by)}, epoch {best['epoch']}"
