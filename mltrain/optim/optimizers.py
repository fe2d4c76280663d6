"""Adam, AdamW and SGD over the parameter groups of `groups.py`.

The ASL, ML-Decoder and CSL papers trained with `torch.optim.Adam`: its weight decay is an L2 term added to the
gradient ("coupled"), so it passes through Adam's normalisation and acts far weaker on weights with large gradients.
AdamW shrinks the weights directly by lr * weight_decay, so the same number means something else: 1e-4 is usual for
Adam here, 1e-2 for AdamW.

`fused=None` uses torch's fused kernels if the device of the parameters has them, `True` requires them, `False` uses the
default ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from mltrain.optim.groups import parameter_groups

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def adam(
    model: nn.Module,
    *,
    lr: float = 1e-4,
    weight_decay: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    head_lr_multiplier: float = 1.0,
    decay_1d: bool = False,
    layer_decay: float | None = None,
    model_no_decay: bool = False,
    fused: bool | None = None,
) -> torch.optim.Adam:
    """Adam with coupled L2, as in the ASL and ML-Decoder papers, whose lr and weight decay are the defaults.

    `lr` is the peak of the schedule; it is not scaled by the batch size. The module explains coupled L2.
    """
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        head_lr_multiplier=head_lr_multiplier,
        decay_1d=decay_1d,
        layer_decay=layer_decay,
        model_no_decay=model_no_decay,
    )
    return torch.optim.Adam(groups, lr=lr, betas=_betas(betas), eps=_finite("eps", eps), fused=_fused(groups, fused))


def adamw(
    model: nn.Module,
    *,
    lr: float = 1e-4,
    weight_decay: float = 1e-2,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    head_lr_multiplier: float = 1.0,
    decay_1d: bool = False,
    layer_decay: float | None = None,
    model_no_decay: bool = False,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """AdamW, which shrinks the weights by lr * weight_decay at each step (Loshchilov and Hutter, arXiv 1711.05101)."""
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        head_lr_multiplier=head_lr_multiplier,
        decay_1d=decay_1d,
        layer_decay=layer_decay,
        model_no_decay=model_no_decay,
    )
    return torch.optim.AdamW(groups, lr=lr, betas=_betas(betas), eps=_finite("eps", eps), fused=_fused(groups, fused))


def sgd(
    model: nn.Module,
    *,
    lr: float = 0.02,
    weight_decay: float = 1e-4,
    momentum: float = 0.9,
    nesterov: bool = False,
    head_lr_multiplier: float = 1.0,
    decay_1d: bool = False,
    layer_decay: float | None = None,
    model_no_decay: bool = False,
    fused: bool | None = None,
) -> torch.optim.SGD:
    """SGD with momentum and L2; the defaults are those of Distribution-Balanced Loss (Wu et al. 2020), batch 32."""
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        head_lr_multiplier=head_lr_multiplier,
        decay_1d=decay_1d,
        layer_decay=layer_decay,
        model_no_decay=model_no_decay,
    )
    return torch.optim.SGD(
        groups, lr=lr, momentum=_finite("momentum", momentum), nesterov=nesterov, fused=_fused(groups, fused)
    )


def _finite(name: str, value: float) -> float:
    """Return a value of which torch checks only that it is not negative."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return value


def _betas(betas: tuple[float, float]) -> tuple[float, float]:
    """Check betas, which a config gives as a list."""
    if len(betas) != 2:
        raise ValueError(f"betas must be two numbers, got {betas!r}")
    return (float(betas[0]), float(betas[1]))


def _fused(groups: list[dict[str, Any]], fused: bool | None) -> bool:
    if fused is not None:
        return fused
    return all(
        parameter.device.type in _FUSED_DEVICES and parameter.is_floating_point()
        for group in groups
        for parameter in group["params"]
    )
