"""tools/export.py: a finished run as an ONNX or torch.export file that says by itself how it is to be used."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

import mltrain
from mltrain.config.build import instantiate
from mltrain.config.finished import FinishedRun, load_finished
from mltrain.config.schema import Export
from mltrain.config.task import MULTI_LABEL
from mltrain.config.thresholds import load_thresholds, thresholds_of
from mltrain.errors import ConfigError
from mltrain.models.export import export_classifier, require_onnx
from mltrain.pipeline.augment import EvalResize
from mltrain.pipeline.decode import read_image

logger = logging.getLogger(__name__)

CHECKED_IMAGES = 16
"""of `images`, at most so many"""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def export(cfg: DictConfig, folder: Path, options: Export) -> Path:
    """Write the model of a run folder; the path of the file.

    Raises:
        ConfigError: another suffix, missing packages, EMA weights that the run has not, thresholds of other weights,
            `images` without an image.
        CheckpointError: the run's weights are missing or do not fit.
        MltrainError: the model cannot be exported, or the file does not do what the model does.
    """
    path = Path(options.out) if options.out else folder / "model.onnx"
    if path.suffix == ".onnx":
        require_onnx()
    run = load_finished(folder, weights=options.weights, config=cfg)
    transform = instantiate(cfg.eval_resize, "eval_resize", image_size=run.image_size)
    images = _images(Path(options.images), transform) if options.images else None
    metadata = facts(run) | {"input": options.input}
    logger.info("exporting %s at %d px, and running the file beside PyTorch", folder, run.image_size)
    parity = export_classifier(run.model, path, task=cfg.task, input=options.input, metadata=metadata, images=images)
    size = path.stat().st_size / 1e6
    logger.info("%s: %.1f MB, %d classes, %d px, %s", path, size, len(run.class_names), run.image_size, parity)
    return path


def facts(run: FinishedRun) -> dict[str, Any]:
    """What a program without mltrain needs to use the model, as plain values."""
    cfg, backbone = run.config, run.model.backbone
    resize = instantiate(cfg.eval_resize, "eval_resize", image_size=run.image_size)
    ours, several = isinstance(resize, EvalResize), cfg.task == MULTI_LABEL
    return {
        "task": cfg.task,
        "class_names": list(run.class_names),
        "thresholds": thresholds_of(run).tolist() if several else None,
        "thresholds_from": _origin(run) if several else None,
        "image_size": run.image_size,
        "resize": resize.resize if ours else repr(resize),
        "crop_pct": resize.crop_pct if ours else None,
        "interpolation": resize.interpolation if ours else None,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "mltrain_version": mltrain.__version__,
    }


def _origin(run: FinishedRun) -> str:
    found = load_thresholds(run)
    if found is None:
        return "metrics.threshold, not tuned"
    return f"tuned for {found.chosen_by} on {found.tuned_on['name']}"


def _images(path: Path, transform: Any) -> torch.Tensor:
    files = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(f"images={path}: neither an image nor a folder with {', '.join(SUFFIXES)} files")
    return torch.stack([transform(read_image(file)) for file in files[:CHECKED_IMAGES]]).contiguous()
