"""Parts of the user's own code in a run: callbacks and metrics, from their lists in the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from mltrain.callbacks import Callback
from mltrain.config.build import instantiate
from mltrain.engine.callbacks import Callbacks, Named
from mltrain.errors import ConfigError
from mltrain.metrics.own import SummarizeWithOwn
from mltrain.metrics.summary import Summary

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


def _build(cfg: DictConfig, name: str) -> list[tuple[str, str, Any]]:
    section, _, key = name.rpartition(".")
    entries = (cfg[section] if section else cfg).get(key) or []
    paths = [f"{name}.{index}" for index in range(len(entries))]
    return [(path, str(entry._target_), instantiate(entry, path)) for path, entry in zip(paths, entries, strict=True)]


def _kind(made: Any) -> str:
    return f"{type(made).__module__}.{type(made).__qualname__}"
