"""Checks and initial values that several heads share."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from mltrain.labels import LabelStats

Prior = float | Literal["frequency"] | None

Tokens = Literal["patches", "cls", "both"]
PATCHES, CLS, BOTH = get_args(Tokens)

ClassAxes: TypeAlias = dict[str, tuple[int, ...]]
"""the axes of a head's tensors that grow with the number of classes, by name or pattern (`multi_head.*.head.weight`)"""


def bias_start(prior: Prior, num_classes: int, stats: LabelStats | None = None) -> Tensor:
    """Return the bias (C,) at which a sigmoid gives `prior`, -ln((1 - prior) / prior); 0 for None.

    Lin et al., Focal Loss, arXiv 1708.02002, section 3.3. ``"frequency"`` gives each class its share of positives
    among the known training targets of `stats`: the logits that fit best before anything is seen of the image. A count
    of 0 is taken as 1, and a class without known targets has the share of all classes together.

    Raises:
        ValueError: the prior is no probability, or there are no statistics for ``"frequency"``.
    """
    if prior is None:
        return torch.zeros(num_classes)
    if prior == "frequency":
        if stats is None:
            raise ValueError("prior=frequency needs the statistics of the training labels: give stats, or a number")
        odds = stats.log_prior_odds()
        known = stats.positives + stats.negatives > 0
        together = np.log(max(stats.positives.sum(), 1)) - np.log(max(stats.negatives.sum(), 1))
        return torch.as_tensor(np.where(known, odds, together), dtype=torch.float32)
    if isinstance(prior, str) or not 0 < prior < 1:
        raise ValueError(f"prior={prior}: must be above 0 and below 1, frequency, or None")
    return torch.full((num_classes,), -math.log((1 - prior) / prior))


def check_tokens(tokens: str) -> None:
    """Raise ValueError unless `tokens` says what a head pools."""
    if tokens not in get_args(Tokens):
        raise ValueError(f"tokens={tokens!r}: must be one of {', '.join(get_args(Tokens))}")


def pooled_width(in_features: int, tokens: Tokens) -> int:
    """Return the width of `pool` for tokens of width D: D, or 2 D for both."""
    return 2 * in_features if tokens == BOTH else in_features


def pool(tokens: Tensor, class_token: Tensor | None, which: Tokens) -> Tensor:
    """Return one vector for an image, (B, D), or (B, 2 D) for both.

    Args:
        tokens: (B, N, D), of the places of the image.
        class_token: (B, D); None: the backbone has none.
        which: ``patches``: the mean over the places; ``cls``: the class token; ``both``: the class token, then the
            mean (Oquab et al., DINOv2, arXiv 2304.07193, use them so).
    """
    if which == PATCHES:
        return tokens.mean(1)
    if class_token is None:
        raise ValueError(f"tokens={which}: needs a class token")
    return class_token if which == CLS else torch.cat([class_token, tokens.mean(1)], dim=1)


def of_places(weight: Tensor, tokens: Tokens) -> Tensor:
    """Return the columns of the weights (K, width) of a layer on `pool` that belong to the places of the image."""
    if tokens == CLS:
        raise ValueError("tokens=cls: the class token belongs to no place of the image")
    return weight.chunk(2, dim=1)[1] if tokens == BOTH else weight


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
