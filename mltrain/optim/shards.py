"""Parameters that are spread over ranks: torch's DTensors, of which each rank holds a part."""

from __future__ import annotations

import torch
from torch import nn


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor, which shares its memory; a tensor that is not spread is returned as it is.

    For values only: the part has no gradient of its own.
    """
    if not is_spread(tensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()  # type: ignore[attr-defined]


def is_spread(tensor: object) -> bool:
    """Return whether a tensor is a DTensor. Found by its methods, because importing the class takes time."""
    return isinstance(tensor, torch.Tensor) and hasattr(tensor, "to_local")


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module's parameters are spread over ranks."""
    return any(is_spread(parameter) for parameter in module.parameters())
