"""Parameter groups: backbone and head, each with and without weight decay."""

from __future__ import annotations

import math
from typing import Any, cast

from torch import nn


def bare_module(model: nn.Module) -> nn.Module:
    """Return the model inside any nesting of `DistributedDataParallel` and `torch.compile` wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        else:
            return model


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    head_lr_multiplier: float = 1.0,
    decay_1d: bool = False,
    layer_decay: float | None = None,
    model_no_decay: bool = False,
) -> list[dict[str, Any]]:
    """Return the groups `backbone_decay`, `backbone_no_decay`, `head_decay` and `head_no_decay` that are not empty.

    The head is `model.head`. Parameters with at most one dimension (norm scales, biases) and those
    named `bias` are not decayed unless `decay_1d` is set: the split of the ASL and ML-Decoder training scripts.
    Frozen parameters (`requires_grad=False`) are in no group. `lr` is the peak: a schedule multiplies each group's
    `initial_lr`.

    Args:
        model_no_decay: do not decay what the timm model exempts either (position embeddings, class tokens, tables of
            relative positions): `model.backbone.names_without_decay()`.
        layer_decay: factor of the rate from each layer to the one below it, in (0, 1]: a parameter k layers below the
            head learns at lr * layer_decay^k (`model.backbone.distance_from_head()`; Clark et al., arXiv 2003.10555;
            BEiT, Bao et al., arXiv 2106.08254). The groups are then `backbone_K_decay` and `backbone_K_no_decay`,
            those of the head's own layer first. With `model_no_decay`, rates and decays are those of timm's
            `param_groups_layer_decay`.

    Raises:
        ValueError: an option out of its range, no trainable parameter, a head multiplier for a model without `head`,
            or a layer decay or `model_no_decay` for a model without a backbone of timm.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be above 0 and finite, got {lr}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be 0 or more and finite, got {weight_decay}")
    if not 0 < head_lr_multiplier < math.inf:
        raise ValueError(
            f"head_lr_multiplier must be above 0 and finite, got {head_lr_multiplier}; to keep a part fixed, freeze "
            "its parameters"
        )
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, or null, got {layer_decay}")
    bare = bare_module(model)
    distances = _of_backbone(bare, "distance_from_head", "layer_decay") if layer_decay is not None else {}
    exempt = _of_backbone(bare, "names_without_decay", "model_no_decay") if model_no_decay else set()
    parameters = dict(bare.named_parameters())
    in_head = {name for name in parameters if name.startswith("head.")}
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim <= 1 or name.split(".")[-1] == "bias"
        decayed = name not in exempt and (decay_1d or not plain)
        distance = distances.get(name, 0)
        key = (name in in_head, distance, not decayed)
        if key not in groups:
            part = "head" if name in in_head else "backbone" if layer_decay is None else f"backbone_{distance}"
            rate = lr * (layer_decay or 1.0) ** distance * (head_lr_multiplier if name in in_head else 1.0)
            groups[key] = {
                "name": f"{part}_{'decay' if decayed else 'no_decay'}",
                "params": [],
                "lr": rate,
                "initial_lr": rate,
                "weight_decay": weight_decay if decayed else 0.0,
            }
        groups[key]["params"].append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameter: every one has requires_grad=False")
    if head_lr_multiplier != 1.0 and not any(of_head for of_head, _, _ in groups):
        raise ValueError(
            f"head_lr_multiplier={head_lr_multiplier}, but the model has no trainable parameter under `model.head`"
        )
    return [groups[key] for key in sorted(groups)]


def _of_backbone(model: nn.Module, method: str, option: str) -> Any:
    """Return what a method of `model.backbone` says of its parameters, under their names in the model."""
    backbone = getattr(model, "backbone", None)
    if not hasattr(backbone, method):
        raise ValueError(f"{option} needs a model with a backbone of timm; {type(model).__name__} has none")
    found = getattr(backbone, method)()
    if isinstance(found, dict):
        return {f"backbone.{name}": value for name, value in found.items()}
    return {f"backbone.{name}" for name in found}
