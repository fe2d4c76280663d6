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
    model: nn.Module, *, lr: float, weight_decay: float, head_lr_multiplier: float = 1.0, decay_1d: bool = False
) -> list[dict[str, Any]]:
    """Return the groups `backbone_decay`, `backbone_no_decay`, `head_decay` and `head_no_decay` that are not empty.

    The head is `model.head`. Parameters with at most one dimension (norm scales, biases) and those
    named `bias` are not decayed unless `decay_1d` is set: the split of the ASL and ML-Decoder training scripts.
    Frozen parameters (`requires_grad=False`) are in no group. `lr` is the peak: a schedule multiplies each group's
    `initial_lr`.

    Raises:
        ValueError: a negative or zero option, no trainable parameter, or a head multiplier for a model without `head`.
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
    groups: dict[str, dict[str, Any]] = {
        f"{part}_{kind}": {
            "name": f"{part}_{kind}",
            "params": [],
            "lr": lr * multiplier,
            "initial_lr": lr * multiplier,
            "weight_decay": weight_decay if kind == "decay" else 0.0,
        }
        for part, multiplier in (("backbone", 1.0), ("head", head_lr_multiplier))
        for kind in ("decay", "no_decay")
    }
    for name, parameter in bare_module(model).named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head" if name.startswith("head.") else "backbone"
        exempt = parameter.ndim <= 1 or name.split(".")[-1] == "bias"
        groups[f"{part}_{'decay' if decay_1d or not exempt else 'no_decay'}"]["params"].append(parameter)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise ValueError("the model has no trainable parameter: every one has requires_grad=False")
    if head_lr_multiplier != 1.0 and not any(group["name"].startswith("head") for group in filled):
        raise ValueError(
            f"head_lr_multiplier={head_lr_multiplier}, but the model has no trainable parameter under `model.head`"
        )
    return filled
