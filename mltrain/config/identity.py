"""A run's identity: what its result depends on, and the folder that follows from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mltrain.config.schema import LATER, RESPELLED

# Cannot change the result: where things lie, how they are shown, how they are fed, when a copy is kept.
IRRELEVANT = frozenset(
    {
        "name",
        "rerun",
        "logger",
        "paths",
        "data.num_workers",
        "data.cache_dir",
        "data.check_files",
        "data.corrupt_budget",
        "runner.checkpoint_every_minutes",
        "runner.eval_batch_size",
        "metrics.save_predictions",
        "metrics.predictions_mb",
    }
)


def run_id(cfg: DictConfig) -> str:
    """Return 8 hex digits of the resolved config without `IRRELEVANT`, and with what came later as before it existed
    (`LATER`, `RESPELLED`).

    Does not depend on the order of keys, on how a number is spelled (1e-4, 0.0001) or on where `paths.data` lies; a
    dataset root outside `paths.data` does count, since other files may lie there.
    """
    return hashlib.sha256(json.dumps(relevant(cfg), sort_keys=True).encode()).hexdigest()[:8]


def relevant(cfg: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """The resolved config without what cannot change the result: what `run_id` is made of."""
    tree = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    assert isinstance(tree, dict)
    kept: dict[str, Any] = _relevant(tree, "", str(tree.get("paths", {}).get("data", "")))
    return kept


def run_folder(cfg: DictConfig) -> Path:
    """`<paths.runs>/<dataset.name>/<name>/<run_id>`."""
    return Path(cfg.paths.runs) / component_name(cfg.dataset) / (cfg.name or default_name(cfg)) / run_id(cfg)


def default_name(cfg: DictConfig, choices: dict[str, Any] | None = None) -> str:
    """`<model>-<head>-<loss>`: the options chosen, or, where those are not known, what the components are called."""
    choices = choices or {}
    return "-".join(str(choices.get(section) or component_name(cfg[section])) for section in ("model", "head", "loss"))


def component_name(component: DictConfig) -> str:
    """Its option `name`, or the module of its target: `asl`."""
    return str(component.get("name") or str(component.get("_target_")).split(".")[-2])


def _relevant(node: Any, path: str, data: str) -> Any:
    if isinstance(node, dict):
        below = {key: f"{path}.{key}" if path else str(key) for key in node if key != "hydra"}
        return {
            str(key): _relevant(node[key], here, data)
            for key, here in below.items()
            if here not in IRRELEVANT and not (here in LATER and node[key] == LATER[here])
        }
    if isinstance(node, (list, tuple)):
        return [_relevant(item, path, data) for item in node]
    if isinstance(node, str) and data and (node == data or node.startswith(data.rstrip("/") + "/")):
        return "<paths.data>" + node[len(data.rstrip("/")) :]
    if path in RESPELLED and isinstance(node, str):
        return RESPELLED[path].get(node, node)
    return node
