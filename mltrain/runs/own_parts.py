"""Parts of the user's own code in a run: callbacks and metrics, from their lists in the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from mltrain.callbacks import Callback
from mltrain.config.build import instantiate
from mltrain.config.rules import BEST
from mltrain.engine.callbacks import Callbacks, Named
from mltrain.errors import ConfigError, MltrainError
from mltrain.labels import LabelSet
from mltrain.metrics.own import SummarizeWithOwn
from mltrain.metrics.summary import Summary
from mltrain.text import did_you_mean

CALLBACKS = {"callbacks": True, "logger.callbacks": False}
"""lists of callbacks, and whether they count for the run's identity, so that they may end the training"""


def build_callbacks(cfg: DictConfig) -> Callbacks:
    """Build the callbacks of a config, in its order. Raises ConfigError."""
    items = []
    for name, counts in CALLBACKS.items():
        for key, target, made in _build(cfg, name):
            if not isinstance(made, Callback):
                raise ConfigError(f"{key}._target_={target}: made {_kind(made)}, not a mltrain.callbacks.Callback")
            items.append(Named(key, target, made, may_stop=counts))
    return Callbacks(items)


def with_own_metrics(cfg: DictConfig, summarize: Callable[..., Summary]) -> Callable[..., Summary]:
    """Return `summarize` with the figures of `metrics.own`; itself where there are none. Raises ConfigError."""
    metrics = []
    for key, target, made in _build(cfg, "metrics.own"):
        if not callable(made):
            raise ConfigError(f"{key}._target_={target}: made {_kind(made)}, which cannot be called; see __call__")
        metrics.append((f"{key} ({target})", made))
    return SummarizeWithOwn(summarize, metrics) if metrics else summarize


def check_own_best(cfg: DictConfig, summarize: Callable[..., Summary], labels: LabelSet) -> None:
    """Refuse a `metrics.best` that no metric of the user gives, before an epoch is trained.

    The metrics see made-up logits of some images. One that cannot work with so few is asked after the first epoch.
    """
    best = cfg.metrics.best
    if best in (None, *BEST[cfg.task]) or not isinstance(summarize, SummarizeWithOwn):
        return
    images = np.unique(labels.positive_pairs()[0])[:64]
    targets = torch.from_numpy(labels.targets_batch(images))
    logits = torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    try:
        given = summarize.own(logits, targets)
    except MltrainError:
        return
    if best not in given:
        known = [*given, *BEST[cfg.task]]
        raise ConfigError(
            f"metrics.best={best}: metrics.own gives no such figure{did_you_mean(best, known)}\n"
            f"allowed: {', '.join(known)}"
        )


def _build(cfg: DictConfig, name: str) -> list[tuple[str, str, Any]]:
    section, _, key = name.rpartition(".")
    entries = (cfg[section] if section else cfg).get(key) or []
    paths = [f"{name}.{index}" for index in range(len(entries))]
    return [(path, str(entry._target_), instantiate(entry, path)) for path, entry in zip(paths, entries, strict=True)]


def _kind(made: Any) -> str:
    return f"{type(made).__module__}.{type(made).__qualname__}"
