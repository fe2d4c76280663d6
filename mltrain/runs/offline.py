"""Configs whose model starts from random weights."""

from __future__ import annotations

from omegaconf import DictConfig

START = {"pretrained": False, "checkpoint": None, "partial_checkpoint": False, "head_from_checkpoint": True}
"""options of a model that say where its weights come from, with the values of random weights"""


def forget_start(cfg: DictConfig) -> None:
    """Remove from a config the weights that its model starts from."""
    for key, off in START.items():
        if key in cfg.model:
            cfg.model[key] = off
    if cfg.head.get("prior") == "frequency":
        cfg.head.prior = 0.5  # any start will do, and there may be no statistics


def offline(cfg: DictConfig) -> DictConfig:
    """Return a copy of a config whose model has random weights: nothing is downloaded, no checkpoint is read."""
    copy = cfg.copy()
    forget_start(copy)
    return copy
