"""Adam, AdamW, SGD and all optimizers of timm over the parameter groups of `groups.py`.

The ASL, ML-Decoder and CSL papers trained with `torch.optim.Adam`: its weight decay is an L2 term added to the
gradient ("coupled"), so it passes through Adam's normalisation and acts far weaker on weights with large gradients.
AdamW shrinks the weights directly by lr * weight_decay, so the same number means something else: 1e-4 is usual for
Adam here, 1e-2 for AdamW.

`fused=None` uses torch's fused kernels if the device of the parameters has them, `True` requires them, `False` uses the
default ones.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers
from torch import nn

from mltrain.optim.groups import parameter_groups
from mltrain.optim.shards import is_spread
from mltrain.text import close_matches, nearest

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
        groups,
        lr=lr,
        momentum=_finite("momentum", momentum),
        nesterov=nesterov,
        fused=_fused(groups, fused, shards=False),
    )


def timm_optimizer(
    model: nn.Module,
    *,
    opt: str,
    lr: float = 1e-4,
    weight_decay: float = 1e-2,
    head_lr_multiplier: float = 1.0,
    decay_1d: bool = False,
    layer_decay: float | None = None,
    model_no_decay: bool = False,
    kwargs: dict[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """Any optimizer of timm by its name: `lamb`, `lion`, `adan`, `muon` ... and `lookahead_NAME` around each.

    Args:
        opt: a name of `timm.optim.list_optimizers()`.
        weight_decay: coupled or decoupled, as the optimizer does it.
        kwargs: further arguments of the optimizer, such as `{betas: [0.9, 0.99]}`; those left out have timm's defaults.

    Raises:
        ValueError: an unknown name or argument, a package that is not installed, or an optimizer that needs second
            derivatives.
    """
    given = dict(kwargs or {})
    _check_timm(opt, given)
    if opt.endswith(("kron", "kronw", "kronc")):
        # Otherwise it draws from torch's global generator, which differs between ranks, so their weights would too.
        given.setdefault("deterministic", True)
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        head_lr_multiplier=head_lr_multiplier,
        decay_1d=decay_1d,
        layer_decay=layer_decay,
        model_no_decay=model_no_decay,
    )
    try:
        return create_optimizer_v2(groups, opt=opt, lr=lr, weight_decay=weight_decay, **given)
    except AssertionError as error:
        raise ValueError(f"opt={opt} refuses its arguments: {error}") from error


def _check_timm(opt: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse what timm would only find out later, or pass over in silence.

    Raises:
        ValueError: see `timm_optimizer`.
    """
    name = opt.removeprefix("lookahead_")
    known = [str(name) for name in list_optimizers()]
    if name not in known:
        near = close_matches(name, known, 5, 0.5)
        raise ValueError(f"opt={opt}: timm has no such optimizer; nearest: {', '.join(near) or 'none'}")
    info = get_optimizer_info(name)
    if info.second_order:
        raise ValueError(f"opt={opt} needs second derivatives, which a training step here does not compute")
    try:
        takes = inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters
    except (ImportError, AssertionError) as error:
        package = "bitsandbytes (pip install bitsandbytes)" if name.startswith("bnb") else "NVIDIA's apex"
        raise ValueError(f"opt={opt} needs the package {package} and a CUDA device: {error}") from error
    own = {"params", "lr", "weight_decay"}
    allowed = sorted(takes.keys() - own)
    for key in kwargs:
        if key in own:
            raise ValueError(f"kwargs.{key}: set optimizer.{key} instead")
        if key not in takes:
            near_key = nearest(key, allowed)
            hint = f"; did you mean {near_key}?" if near_key else ""
            raise ValueError(f"kwargs.{key}: {opt} has no such argument{hint} It takes {', '.join(allowed)}")


def check_usable(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that a training step cannot drive.

    Raises:
        ValueError: it calls the model itself (`step(closure)`), or its weights are to be averaged in `eval()` mode
            before each evaluation and checkpoint (schedule-free ones).
    """
    name = type(optimizer).__name__
    if callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None)):
        raise ValueError(
            f"{name} is schedule-free: it trains other weights than it evaluates, and checkpoints of a run have no "
            "place for both. Choose an optimizer with a schedule; ema=default averages its weights"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if isinstance(optimizer, torch.optim.LBFGS) or (closure is not None and closure.default is inspect.Parameter.empty):
        raise ValueError(f"{name} needs a closure that runs the model again, which a training step here does not give")


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


def _fused(groups: list[dict[str, Any]], fused: bool | None, *, shards: bool = True) -> bool:
    """Return whether to use fused kernels; with `shards` they exist for sharded parameters too."""
    if fused is not None:
        return fused
    return all(
        parameter.device.type in _FUSED_DEVICES
        and parameter.is_floating_point()
        and (shards or not is_spread(parameter))
        for group in groups
        for parameter in group["params"]
    )
