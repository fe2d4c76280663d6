"""Configs without downloads."""

from __future__ import annotations

from omegaconf import DictConfig


def offline(cfg: DictConfig) -> DictConfig:
    """Return a copy of a config whose model has random weights: nothing is downloaded, no checkpoint is read."""
    copy = cfg.copy()
    for key, off in (("pretrained", False), ("checkpoint", None), ("partial_checkpoint", False)):
        if key in copy.model:
            copy.model[key] = off
    return copy
