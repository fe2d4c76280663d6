"""Checks and initial values that several heads share."""

from __future__ import annotations

import math
from typing import TypeAlias

ClassAxes: TypeAlias = dict[str, tuple[int, ...]]
"""the axes of a head's tensors that grow with the number of classes, by name or pattern (`multi_head.*.head.weight`)"""


def bias_start(prior: float | None) -> float:
    """Return the bias at which a sigmoid gives `prior`, -ln((1 - prior) / prior); 0 for None.

    Lin et al., Focal Loss, arXiv 1708.02002, section 3.3.
    """
    if prior is None:
        return 0.0
    if not 0 < prior < 1:
        raise ValueError(f"prior={prior}: must be above 0 and below 1, or None")
    return -math.log((1 - prior) / prior)


def check_dropout(dropout: float) -> None:
    """Raise ValueError unless `dropout` is a probability below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: must be at least 0 and below 1")


def check_transformer(dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
    """Raise ValueError unless attention of this width can be built."""
    if num_heads < 1 or ffn_dim < 1:
        raise ValueError(f"num_heads={num_heads}, ffn_dim={ffn_dim}: must be positive")
    if dim < 1 or dim % num_heads:
        raise ValueError(f"dim={dim}: must be a positive multiple of num_heads={num_heads}")
    check_dropout(dropout)
