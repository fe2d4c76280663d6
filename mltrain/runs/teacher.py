"""Load the teacher of a training with knowledge distillation."""

from __future__ import annotations

import logging

import torch
from omegaconf import DictConfig

from mltrain.config.rules import SINGLE_LABEL
from mltrain.engine.teacher import Teacher
from mltrain.errors import CheckpointError, ConfigError
from mltrain.runs.folder import load_finished, on_device
from mltrain.sizes import in_pixels
from mltrain.text import first_few, part_of

logger = logging.getLogger(__name__)


def load_teacher(cfg: DictConfig, class_names: tuple[str, ...], device: torch.device) -> Teacher | None:
    """Return the teacher that `distill.teacher` names, with the weights that its validation chose; None without one.

    Raises:
        ConfigError: no run folder, a teacher of single labels, or one that does not know a class of the student.
    """
    folder = cfg.distill.teacher
    if folder is None:
        return None
    try:
        run = load_finished(folder, allow_targets=list(cfg.paths.imports))
    except (ConfigError, CheckpointError) as error:
        raise ConfigError(f"distill.teacher={folder}: {error}") from error
    if run.config.task == SINGLE_LABEL:
        raise ConfigError(f"distill.teacher={folder}: was trained with task={SINGLE_LABEL}, so it has no sigmoids")
    column = {name: k for k, name in enumerate(run.class_names)}
    unknown = [name for name in class_names if name not in column]
    if unknown:
        raise ConfigError(
            f"distill.teacher={folder}: does not know {part_of(len(unknown), len(class_names), 'class')} of the "
            "data set: "
            f"{first_few(unknown)}; a teacher must have been trained on all of them"
        )
    logger.info(
        "teacher: %s, %s weights, input %s; weight %g, temperature %g",
        folder, run.weights, in_pixels(run.model.backbone.image_size), cfg.distill.weight, cfg.distill.temperature,
    )  # fmt: skip
    return Teacher(
        model=on_device(run.model.requires_grad_(False), cfg, device),
        columns=torch.tensor([column[name] for name in class_names], device=device),
        weight=cfg.distill.weight,
        temperature=cfg.distill.temperature,
    )
