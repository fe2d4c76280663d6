"""Facts that a program without mltrain needs to use a run's model."""

from __future__ import annotations

from typing import Any

import mltrain
from mltrain.config.rules import MULTI_LABEL
from mltrain.pipeline.augment import EvalResize
from mltrain.runs.folder import FinishedRun
from mltrain.runs.thresholds import load_thresholds, thresholds_of


def facts(run: FinishedRun) -> dict[str, Any]:
    """Return classes, thresholds, input size, resizing and normalisation of a run's model, as plain values."""
    cfg, backbone = run.config, run.model.backbone
    resize: Any = run.eval_transform
    size = run.image_size
    ours, several = isinstance(resize, EvalResize), cfg.task == MULTI_LABEL
    return {
        "task": cfg.task,
        "class_names": list(run.class_names),
        "thresholds": thresholds_of(run).tolist() if several else None,
        "thresholds_from": thresholds_origin(run) if several else None,
        "image_size": size if isinstance(size, int) else list(size),
        "resize": resize.resize if ours else repr(resize),
        "crop_pct": resize.crop_pct if ours else None,
        "interpolation": resize.interpolation if ours else None,
        "antialias": resize.antialias if ours else None,
        "mean": list(backbone.mean),
        "std": list(backbone.std),
        "mltrain_version": mltrain.__version__,
    }


def thresholds_origin(run: FinishedRun) -> str:
    """Say where the thresholds of a run come from; raises as `load_thresholds`."""
    found = load_thresholds(run)
    if found is None:
        return "metrics.threshold, not tuned"
    return f"tuned for {found.chosen_by} on {found.tuned_on['name']}"
