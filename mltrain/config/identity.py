"""The identity of a run: a hash of everything that its result depends on, and the folder named after it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mltrain.config.schema import DEFAULTS_FOR_OLDER_RUNS, OLDER_SPELLINGS

# Cannot change the trained weights: where things lie, how they are shown, how they are fed, when a copy is kept. The
# batch of an evaluation changes its figures by rounding alone (docs/config.md has how much), and so does sharding,
# which adds up in another order, as another number of processes does.
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
        "runner.keep_best",
        "runner.keep_last",
        "runner.shard",
        "metrics.save_predictions",
        "metrics.predictions_mb",
    }
)


DEBUG = "debug"
"""folder of runs that are no results"""


def run_id(cfg: DictConfig) -> str:
    """Return 8 hex digits that identify a config: a hash without `IRRELEVANT` and without `DEFAULTS_FOR_OLDER_RUNS`.

    Does not depend on the order of keys, on how a number is spelled (1e-4, 0.0001) or on where `paths.data` lies; a
    dataset root outside `paths.data` does count, since other files may lie there.
    """
    return hashlib.sha256(json.dumps(relevant(cfg), sort_keys=True).encode()).hexdigest()[:8]


def relevant(cfg: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Return the resolved config without what cannot change the result; `run_id` is its hash."""
    tree = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    assert isinstance(tree, dict)
    return _relevant(tree, "", str(tree.get("paths", {}).get("data", "")))


def run_folder(cfg: DictConfig) -> Path:
    """Return `<paths.runs>/<dataset.name>/<name>/<run_id>`; of a debug preset, the same below `<paths.runs>/debug`."""
    runs = Path(cfg.paths.runs) if cfg.debug is None else Path(cfg.paths.runs) / DEBUG
    return runs / component_name(cfg.dataset) / (cfg.name or default_name(cfg)) / run_id(cfg)


def names_folder(name: str) -> bool:
    """Return whether a name stays inside the folder that it is appended to, and can be created there."""
    parts = Path(name).parts
    return (
        not Path(name).is_absolute()
        and name.isprintable()
        and all(p != ".." and len(os.fsencode(p)) < 256 for p in parts)
    )


def default_name(cfg: DictConfig, choices: dict[str, Any] | None = None) -> str:
    """Return `<model>-<head>-<loss>`, made of the chosen options or, if unknown, of the components' names."""
    choices = choices or {}
    return "-".join(_shown(cfg[section], choices.get(section)) for section in ("model", "head", "loss"))


def _shown(component: DictConfig, choice: Any) -> str:
    """Return the name of a chosen option; of a part of one's own, `mypkg.MyLoss`, that of its class."""
    own = choice == component.get("_target_")
    return str(choice).rpartition(".")[2] if choice and own else str(choice or component_name(component))


def component_name(component: DictConfig) -> str:
    """Return a component's option `name`, or the module of its target, such as `asl`."""
    return str(component.get("name") or str(component.get("_target_")).split(".")[-2])


def _relevant(node: Any, path: str, data: str) -> Any:
    if isinstance(node, dict):
        below = {key: f"{path}.{key}" if path else str(key) for key in node if key != "hydra"}
        return {
            str(key): _relevant(node[key], here, data)
            for key, here in below.items()
            if here not in IRRELEVANT
            and not (here in DEFAULTS_FOR_OLDER_RUNS and node[key] == DEFAULTS_FOR_OLDER_RUNS[here])
        }
    if isinstance(node, (list, tuple)):
        return [_relevant(item, path, data) for item in node]
    if isinstance(node, str) and data and (node == data or node.startswith(data.rstrip("/") + "/")):
        return "<paths.data>" + node[len(data.rstrip("/")) :]
    if path in OLDER_SPELLINGS and isinstance(node, str):
        return OLDER_SPELLINGS[path].get(node, node)
    return node
