"""Stages and layers of a timm model, as timm itself groups its parameters (`group_matcher`)."""

from __future__ import annotations

import fnmatch
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn

from mltrain.errors import ConfigError

_CLASSIFIER = " classifier"
"""stands for a parameter of a classifier: no pattern of timm matches it, so it lies in the last layer"""


def names_of_stages(model: nn.Module, stages: int) -> set[str]:
    """Return the names of the parameters in the first `stages` of timm's coarse layer groups, stem first; -1: all.

    Raises:
        ConfigError: timm groups no stages of this model, or it has fewer.
    """
    if stages == 0:
        return set()
    if stages == -1:
        return {name for name, _ in model.named_parameters()}
    try:
        groups = group_with_matcher(model.named_parameters(), _matcher(model, coarse=True))
    except (AttributeError, AssertionError) as error:
        raise ConfigError(
            f"model.freeze_stages={stages}: timm knows no stages of {type(model).__name__}; use 0 or -1 (all)"
        ) from error
    order = [groups[i] for i in sorted(groups)]
    if not 0 < stages <= len(order):
        listed = "; ".join(f"{i + 1}: {_prefix_of(names)}" for i, names in enumerate(order))
        raise ConfigError(
            f"model.freeze_stages={stages}: allowed are 0 (none) to {len(order)}, or -1 (all); the stages are {listed}"
        )
    return {name for stage in order[:stages] for name in stage}


def distance_from_head(model: nn.Module) -> dict[str, int]:
    """Return the number of layers from each parameter to the head: 0 in the head's own layer, most in the stem.

    Layers are timm's fine groups (a block of a ViT, a block of a ResNet), with one for the classifier at the end.

    Raises:
        ValueError: timm groups no layers of this model.
    """
    names: list[tuple[str, Any]] = [*model.named_parameters(), (_CLASSIFIER, None)]
    try:
        layers = group_with_matcher(iter(names), _matcher(model, coarse=False), reverse=True)
    except (AttributeError, AssertionError) as error:
        raise ValueError(f"timm groups no layers of {type(model).__name__}; leave layer_decay null") from error
    last = layers.pop(_CLASSIFIER)
    return {name: last - layer for name, layer in layers.items()}


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the modules that are timm's fine groups (a block of a ViT, a block of a ResNet), inner ones first.

    A group that is no module by itself (the stem), a single layer, whose weights a model may use without calling it,
    or a container, whose members may be called one by one, is left out. Empty where timm groups no layers.
    """
    try:
        layers = group_with_matcher(model.named_parameters(), _matcher(model, coarse=False))
    except (AttributeError, AssertionError):
        return []
    modules = dict(model.named_modules())
    paths = {_common_prefix(names) for names in layers.values()} & modules.keys() - {""}
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    found = [path for path in paths if any(modules[path].children()) and not isinstance(modules[path], containers)]
    return [modules[path] for path in sorted(found, key=lambda path: (-path.count("."), path))]


def names_without_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters that a timm model exempts from weight decay (`no_weight_decay`)."""
    patterns = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # type: ignore[operator]
    return {name for name, _ in model.named_parameters() if any(fnmatch.fnmatch(name, p) for p in patterns)}


def _matcher(model: nn.Module, *, coarse: bool) -> Any:
    return model.group_matcher(coarse=coarse)  # type: ignore[operator]


def _prefix_of(names: list[str]) -> str:
    """Return a name for a group of parameters: `layer1` for `layer1.*`."""
    return _common_prefix(names) or names[0].split(".")[0] + ", ..."


def _common_prefix(names: list[str]) -> str:
    parts = [n.split(".") for n in names]
    common = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common)
