"""Hydra's own settings for a sweep: launcher, sweeper, and what a file may set of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mltrain.config.check import message
from mltrain.config.compose import compose_with_hydra, explain
from mltrain.config.overrides import Source
from mltrain.errors import ConfigError
from mltrain.text import did_you_mean, spell


def compose_settings(overrides: Sequence[str], source: Source) -> DictConfig:
    """Return Hydra's own settings for a sweep of these overrides. Raises ConfigError.

    They name classes, commands of a cluster and variables of the environment. So a recipe or another file outside
    configs/hydra may set numbers and the values to try (hydra.sweeper.params), and all the rest is refused.
    """
    try:
        settings = compose_with_hydra(overrides, source).hydra
        words = [raw for raw in overrides if raw.lstrip("+~").startswith(("hydra.", "hydra/"))]
        for group in ("launcher", "sweeper"):  # a recipe may choose one of ours
            choice = settings.runtime.choices.get(f"hydra/{group}")
            if (source.folder / "hydra" / group / f"{choice}.yaml").is_file() and f"hydra/{group}=" not in str(words):
                words.append(f"hydra/{group}={choice}")
        ours, found = (_flat(node) for node in (compose_with_hydra(words, source).hydra, settings))
        for key, value in found.items():
            same = key in ours and ours[key] == value
            if not same and not isinstance(value, (int, float)) and not key.startswith("sweeper.params."):
                raise ConfigError(f"hydra.{key}={spell(value)}: a file cannot set it; it belongs on the command line")
        return settings
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(message([_unknown_setting(overrides, source) or explain(error)])) from error


def _unknown_setting(overrides: Sequence[str], source: Source) -> str | None:
    """Return a text on the first `hydra.` key that Hydra does not have, with the nearest key, or None."""
    groups = [text for text in overrides if not text.lstrip("+~").startswith("hydra.")]
    try:
        settings = OmegaConf.create({"hydra": compose_with_hydra(groups, source).hydra})
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError):
        return None  # a group is wrong, which `explain` says
    for text in overrides:
        node: Any = settings
        keys = text.partition("=")[0].split(".")
        for depth, key in enumerate(keys if keys[0] == "hydra" else ()):
            if not isinstance(node, DictConfig):
                break
            if key not in node:
                inside = ".".join(keys[:depth])
                hint = did_you_mean(key, map(str, node), f"{inside}.{{}}")
                return f"{text}: Hydra has no {inside}.{key}{hint}\nallowed: {', '.join(sorted(map(str, node)))}"
            node = node._get_node(key)
    return None


def _flat(settings: DictConfig) -> dict[str, Any]:
    """Return those of Hydra's settings that can run something, by dotted key."""
    flat: dict[str, Any] = {}
    waiting: list[tuple[str, Any]] = [
        (name, OmegaConf.to_container(settings[name], resolve=False))
        for name in ("launcher", "sweeper", "callbacks", "hydra_logging", "job_logging")
    ]
    waiting.append(("job.env_set", OmegaConf.to_container(settings.job.env_set, resolve=False)))
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", inner) for key, inner in value.items()]
        else:
            flat[path] = value
    return flat
