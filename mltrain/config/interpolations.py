"""Interpolations in a config, such as `${runner.epochs}`: their text, what they refer to, and how many there may be."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mltrain.errors import ConfigError

MOST = 30
"""interpolations in values that have several"""


def raw(node: DictConfig | ListConfig, key: Any) -> Any:
    """Return a value as it is written, interpolations unresolved."""
    return OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]


def references(node: DictConfig | ListConfig, key: Any) -> list[str]:
    """Return the keys that a value refers to, such as `${runner.epochs}`."""
    if not OmegaConf.is_interpolation(node, key):
        return []
    return re.findall(r"\$\{([\w.]+)\}", str(raw(node, key)))


def check_length(cfg: DictConfig) -> None:
    """Refuse values of many interpolations: a chain of them can expand to a text longer than the memory."""
    found = 0
    waiting = [OmegaConf.to_container(cfg, resolve=False)]
    while waiting:
        value: Any = waiting.pop()
        if isinstance(value, str):
            count = value.count("${")
            found += count if count > 1 else 0
        else:
            waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if found > MOST:
        raise ConfigError(
            f"{found} interpolations stand in values with several of them; at most {MOST} are allowed: "
            "write values instead"
        )
