"""Text of `--cfg` and `--info`: configs as YAML, and how Hydra has put them together."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mltrain.config.compose import compose_with_hydra, composing, prefer_own_configs, search_path
from mltrain.config.overrides import Source, scan_overrides
from mltrain.errors import ConfigError
from mltrain.text import did_you_mean

INFO = ("all", "defaults", "defaults-tree", "config", "plugins", "searchpath")


def check_flags(given: Namespace) -> None:
    """Refuse flags that do not go together; an argument that stands after a bare --info is no topic."""
    if given.info and "=" in given.info:
        given.arguments.insert(0, given.info)
        given.info = "all"
    if given.info and given.info not in INFO:
        raise ConfigError(f"--info {given.info}: there is no such topic\nallowed: {', '.join(INFO)}")
    if given.package and not given.cfg:
        raise ConfigError(f"--package {given.package}: is for --cfg: --cfg job --package {given.package}")
    if given.resolve and not given.cfg:
        raise ConfigError("--resolve: is for --cfg job, which prints values resolved anyway")


def _as_yaml(tree: Any, package: str | None = None) -> str:
    """Return a config as YAML, or the part at a key, such as `runner`. Raises ConfigError if there is no such key."""
    node = tree
    for depth, key in enumerate(package.split(".") if package else ()):
        if not isinstance(node, DictConfig) or key not in node:
            inside = ".".join(package.split(".")[:depth]) if package else ""
            known = list(map(str, node)) if isinstance(node, DictConfig) else []
            raise ConfigError(
                f"--package {package}: there is no {key}{f' in {inside}' if inside else ''}{did_you_mean(key, known)}\n"
                f"allowed: {', '.join(known)}"
            )
        node = node._get_node(key)
    if not OmegaConf.is_config(node):
        return f"{node}\n"
    return OmegaConf.to_yaml(node)


def configs_text(
    trees: Sequence[dict[str, Any]], hydra: DictConfig | None, package: str | None, heads: Sequence[str]
) -> str:
    """Return configs as YAML documents.

    Args:
        trees: one for each job; Hydra's settings alone are shown where there is none.
        hydra: Hydra's settings, shown with each.
        package: show the part at this key alone.
        heads: of a sweep, what tells the jobs apart.
    """
    own = {} if hydra is None else {"hydra": hydra}
    texts = [_as_yaml(OmegaConf.create(own | tree), package) for tree in trees or [{}]]
    heads = [f"# job {number} of {len(heads)}: {label}\n" for number, label in enumerate(heads, start=1)]
    return "---\n".join(head + text for head, text in zip(heads or [""], texts, strict=True))


def hydra_settings(overrides: Sequence[str], source: Source) -> DictConfig:
    """Return Hydra's own settings, as `--cfg hydra` shows them. Interpolations stay."""
    return compose_with_hydra(scan_overrides(overrides, source, sweep=True).overrides, source).hydra


def print_info(topic: str, overrides: Sequence[str], source: Source) -> None:
    """Print what Hydra says about the config, one of `INFO`, to standard output."""
    scan = scan_overrides(overrides, source)
    prefer_own_configs(source)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        with composing(source):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            hydra.show_info(topic, source.name, [*scan.overrides, *search_path(source)])
    finally:  # Hydra sets up its own logging
        root.handlers[:] = handlers
        root.setLevel(level)
