"""Load the model of a finished run from its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig

from mltrain.config.build import instantiate
from mltrain.config.compose import load_run
from mltrain.engine.latest import followed
from mltrain.engine.run_folder import EMA, RAW, STATS
from mltrain.engine.state import TrainState, load_fitting, read_best
from mltrain.errors import CheckpointError, ConfigError
from mltrain.labels import LabelStats
from mltrain.models.classifier import Classifier, check_head
from mltrain.models.weights import read_state_dict
from mltrain.pipeline.batch import Transform
from mltrain.runs.eval_size import eval_size, eval_transform
from mltrain.runs.offline import forget_start
from mltrain.runs.settings import CLASSES_FILE, EMBEDDINGS_FILE, WEIGHTS_FILE
from mltrain.runs.warm_start import start_head
from mltrain.sizes import ImageSize

Weights = Literal["best", "val", "ema"]


@dataclass(frozen=True)
class FinishedRun:
    """The model of a run folder, with its config and classes."""

    folder: Path
    config: DictConfig
    """the checked config, with the changes that were asked for"""
    model: Classifier
    """with the chosen weights, in evaluation mode, on the CPU"""
    class_names: tuple[str, ...]
    stats: LabelStats | None
    """of the training set; None where the folder has weights that were trained elsewhere"""
    weights: str
    """which weights: "val" raw, "ema" averaged"""
    best: dict[str, Any]
    """epoch, step, weights and figure that were chosen; only "weights" where they were trained elsewhere"""

    @property
    def image_size(self) -> ImageSize:
        """Size of the images that the model is used on, pixels: its own, or that of `eval_resize.image_size`."""
        return eval_size(self.config, self.model.backbone)

    @property
    def eval_transform(self) -> Transform:
        """Transform of an image to the model's input."""
        return eval_transform(self.config, self.model.backbone)


def load_finished(
    folder: str | Path,
    *,
    weights: Weights = "best",
    overrides: Sequence[str] = (),
    config: DictConfig | None = None,
    allow_targets: Sequence[str] = (),
) -> FinishedRun:
    """Load config, model and classes of a run folder; no data set is read, no GPU is used.

    A folder has `config.yaml`, and `best.pt` (a run of ours) or `model.safetensors` with `classes.txt`, one name per
    line (weights trained elsewhere).

    Args:
        weights: "best" takes the raw or the EMA weights, whichever validation chose; "val" the raw; "ema".
        overrides: KEY=VALUE changes of the config.
        config: what `load_run(folder, overrides)` gave, where the caller has it.
        allow_targets: packages that the config may name, see docs/security.md.

    Raises:
        ConfigError: no run folder, a wrong override, or EMA weights of a run that has none.
        CheckpointError: the weights are missing, damaged, or do not fit the config.
    """
    folder = followed(Path(folder))
    cfg = load_run(folder, overrides, allow_targets=allow_targets) if config is None else config
    state = read_weights(cfg, folder)
    chosen = choose_weights(state, weights, folder)
    model = build_model(cfg, state.class_names, state.stats)
    load_fitting(model, state.weights(chosen))
    return FinishedRun(folder, cfg, model.eval(), state.class_names, state.stats, chosen, state.best)


def read_weights(cfg: DictConfig, folder: Path) -> TrainState:
    """Read the weights of a run folder and what belongs to them, as `best.pt` has it.

    Removes from `cfg` the weights that its model started from: the run's own replace them, and their file may be gone.

    Raises:
        CheckpointError: there are no weights, or they cannot be read.
    """
    forget_start(cfg)
    file = folder / WEIGHTS_FILE
    if (folder / "best.pt").exists() or not file.exists():
        return read_best(folder)
    classes = folder / CLASSES_FILE
    if not classes.is_file():
        raise CheckpointError(f"{folder}: {WEIGHTS_FILE} is there, but no {CLASSES_FILE} with one class name per line")
    names = read_class_lines(classes)
    # a published run has the counts of its training set, and the label embeddings of a zero-shot head
    counts, embeddings = folder / STATS, folder / EMBEDDINGS_FILE
    if embeddings.is_file() and cfg.head.get("embeddings") == EMBEDDINGS_FILE:
        cfg.head.embeddings = str(embeddings)
    try:
        stats = LabelStats.from_arrays(json.loads(counts.read_text(encoding="utf-8"))) if counts.is_file() else None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{counts}: cannot be read: {error}") from error
    return TrainState(read_state_dict(file), None, tuple(names), stats, best={"weights": RAW})


def read_class_lines(path: Path) -> list[str]:
    """Return the class names of a `classes.txt`, one per line. Raises CheckpointError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error


def choose_weights(state: TrainState, weights: Weights, folder: Path) -> str:
    """Return the weights that `weights` means, "val" or "ema". Raises ConfigError if the run has no EMA weights."""
    chosen = state.chosen if weights == "best" else weights
    if chosen == EMA and state.ema is None:
        raise ConfigError(f"weights=ema: {folder} has no EMA weights; weights=best takes those it has")
    return chosen


def build_model(cfg: DictConfig, class_names: tuple[str, ...], stats: LabelStats | None) -> Classifier:
    """Build backbone and head of a config on the CPU, with weights as the config says."""
    backbone = instantiate(cfg.model, "model")
    given = {"in_features": backbone.num_features, "num_classes": len(class_names), "class_names": class_names}
    model = Classifier(backbone, instantiate(cfg.head, "head", stats=stats, **given))
    if not cfg.head._target_.startswith("mltrain."):
        try:
            check_head(model, len(class_names))
        except ConfigError as error:
            raise ConfigError(f"head ({cfg.head._target_}): {error}") from error
    start_head(model, cfg, class_names)
    return model


def all_weights(cfg: DictConfig, state: TrainState, model: Classifier) -> dict[str, Classifier]:
    """Return the models with the raw and, if there are any, the EMA weights of `read_weights`, by name."""
    return state.restore(model, None if state.ema is None else instantiate(cfg.ema, "ema", model=model))


def on_device(model: Classifier, cfg: DictConfig, device: torch.device) -> Classifier:
    """Move the model to a device, in the memory format of the config."""
    memory_format = torch.channels_last if cfg.runner.channels_last else torch.contiguous_format
    return model.to(device=device).to(memory_format=memory_format)
