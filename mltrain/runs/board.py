"""Connect a run to TensorBoard, wandb and MLflow: curves, pictures, tables and hyper-parameters, as its config asks."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from mltrain.config.identity import relevant
from mltrain.config.rules import SINGLE_LABEL
from mltrain.engine.evaluator import Evaluation
from mltrain.engine.logging import FinalRecord
from mltrain.engine.runner import Runner
from mltrain.engine.tensorboard import TensorBoard
from mltrain.report.board import Board, final_metrics, flattened
from mltrain.report.outcome import per_class_rows
from mltrain.runs.eval_size import eval_transform


def attach_board(cfg: DictConfig, runner: Runner) -> None:
    """Record the runner's evaluations if it writes event files, and its end where a service shows it."""
    writer = next((sink for sink in runner.sinks.sinks if isinstance(sink, TensorBoard)), None)
    if writer is not None:
        runner.on_evaluation = _board(cfg, runner, writer)

    def final(result: dict[str, Any], validation: Evaluation) -> FinalRecord:
        best = result["best"]
        board = runner.on_evaluation if isinstance(runner.on_evaluation, Board) else _board(cfg, runner, None)
        pictures = board.pictures(validation, best["weights"], f"best, epoch {best['epoch']}")
        return FinalRecord(runner.step, final_metrics(result), per_class_rows(validation, runner.stats), pictures)

    runner.sinks.final = final


def _board(cfg: DictConfig, runner: Runner, writer: TensorBoard | None) -> Board:
    return Board(
        writer,
        runner.val_loader.labels,
        eval_transform(cfg, runner.model.backbone),
        runner.stats,
        curves=cfg.logger.tensorboard_curves,
        images=cfg.logger.tensorboard_images,
        best_by=runner.best_by,
        every=runner.evaluate_every,
        threshold=cfg.metrics.threshold,
        single_label=cfg.task == SINGLE_LABEL,
    )


def finish_board(cfg: DictConfig, runner: Runner, result: dict[str, Any], validation: Evaluation) -> None:
    """Record the config with the final figures; a run that finishes twice replaces its record."""
    if isinstance(runner.on_evaluation, Board):
        runner.on_evaluation.finish(runner.step, flattened(relevant(cfg)), result, validation)
