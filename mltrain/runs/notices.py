"""Lines that a run logs about its model when it starts."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from mltrain.config.identity import component_name, run_folder
from mltrain.engine.run_folder import CONFIG, read_config
from mltrain.models.classifier import Classifier
from mltrain.sizes import in_pixels

DEFAULT = "finetune"
"""the model that configs/train.yaml chooses, and the data sets that are photographs keep"""
EARLIER_DEFAULT = "small"
DRAWN = ("shapes", "digits")
"""data sets that choose model=small themselves"""


def describe_model(cfg: DictConfig, model: Classifier) -> str:
    """Return a line with backbone, weights, size and input of the model, and whether it is the default."""
    given = cfg.runner.extend or cfg.model.get("checkpoint")
    weights = f"weights {given}" if given else "timm's weights" if cfg.model.get("pretrained") else "random weights"
    target = str(cfg.model._target_)
    name = component_name(cfg.model) if target.startswith("mltrain.") else target.rpartition(".")[2]
    count = sum(p.numel() for p in model.parameters()) / 1e6
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    return (
        f"model: {name}, {weights}, input {in_pixels(model.backbone.image_size)}, {count:.2f} M "
        f"parameters, {trained:.2f} M trained{_how_to_change(cfg)}"
    )


def _how_to_change(cfg: DictConfig) -> str:
    if _is_default(cfg):
        return "; chosen by default: model.name=NAME fine-tunes another backbone"
    if cfg.model.get("name") == "test_byobnet" and component_name(cfg.dataset) not in DRAWN:
        return "; it is meant for drawn shapes: without model=small, a pretrained network is fine-tuned"
    return ""


def earlier_runs(cfg: DictConfig, folder: Path) -> str | None:
    """Return a line on the runs that the same command left when model=small was the default, or None.

    `folder` is the run folder of now. With model=small the command has the run folder of then: it goes on, or reports.
    """
    if not _is_default(cfg) or (folder / CONFIG).exists():
        return None
    earlier = folder.parent.with_name(folder.parent.name.replace(DEFAULT, EARLIER_DEFAULT, 1))
    if not any(earlier.glob(f"*/{CONFIG}")):
        return None
    return (
        f"{earlier} has runs of model={EARLIER_DEFAULT}, which was the default before: to go on with one of them or to "
        f"see its result, repeat its command with model={EARLIER_DEFAULT} added"
    )


def earlier_pooling(cfg: DictConfig, folder: Path) -> str | None:
    """Return a line on the run that the same command left when every head pooled the patches, or None."""
    if cfg.head.get("tokens") != "cls" or (folder / CONFIG).exists():
        return None
    before = cfg.copy()
    before.head.tokens = "patches"
    earlier = run_folder(before)
    if not (earlier / CONFIG).exists() or "tokens" in (read_config(earlier).get("head") or {}):
        return None
    return (
        f"{earlier} is a run of an earlier version, whose head pooled the patches of a ViT; this one pools its class "
        "token. To go on with that run or to see its result, repeat its command with head.tokens=patches added"
    )


def head_was_left(cfg: DictConfig, folder: Path) -> str | None:
    """Return a line on a finished run that began when model.checkpoint=RUN read the backbone alone, or None."""
    start = cfg.model.get("checkpoint")
    if not start or not cfg.model.get("head_from_checkpoint"):
        return None
    place = Path(start).expanduser()
    of_run = ((place if place.is_dir() else place.parent) / CONFIG).is_file()
    before = read_config(folder).get("model")
    if not of_run or not isinstance(before, dict) or "head_from_checkpoint" in before:
        return None
    return (
        f"this run is of an earlier version, which took only the backbone of model.checkpoint={start}; rerun=true "
        "starts with its head too"
    )


def _is_default(cfg: DictConfig) -> bool:
    """Return whether the model is the default; unknown, and so False, if the user named the run."""
    return str(cfg.name).startswith(f"{DEFAULT}-")
