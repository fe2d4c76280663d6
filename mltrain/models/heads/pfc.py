"""PFC: global average pooling, a narrow linear layer with batch-norm, a linear layer."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.labels import LabelStats
from mltrain.models.heads.common import (
    ClassAxes,
    Prior,
    Tokens,
    bias_start,
    check_dropout,
    check_tokens,
    of_places,
    pool,
    pooled_width,
)


class PFC(nn.Module):
    """Tokens `(B, N, D)` -> mean -> linear to `dim` -> batch-norm -> dropout -> linear -> logits `(B, C)`.

    The neck and head of Distribution-Balanced Loss (Wu et al., arXiv 2007.09654); no activation in between. Starts as
    published: the first layer from N(0, 2 / dim) (He et al., fan-out), batch-norm at 1 and 0, the last layer from
    N(0, 0.01^2); biases at 0, the last one where a sigmoid gives `prior`.

    A training batch of one image has no variance: it is normalised with the running statistics, which do not change.
    (With `runner.sync_bn` the batch is that of all ranks.) The batch-norm belongs to the head, so `model.freeze_norm`
    does not affect it.

    Args:
        in_features: D.
        num_classes: C.
        dim: width of the neck.
        dropout: probability, on the normalised features.
        prior: probability that each class has at the start; None: 0.5, the published bias of 0; ``"frequency"``: its
            share of the training labels.
        tokens: what is pooled, see `GlobalAveragePool`.
    """

    map_kind = "evidence"
    """of `class_maps`, see `mltrain.models.explain`"""
    uses_mean = True
    """of the tokens, and nothing else: stored features are this mean"""
    class_axes: ClassVar[ClassAxes] = {"fc.weight": (0,), "fc.bias": (0,)}

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        dim: int = 256,
        dropout: float = 0.5,
        prior: Prior = None,
        tokens: Tokens = "patches",
        stats: LabelStats | None = None,
    ) -> None:
        super().__init__()
        check_tokens(tokens)
        if dim < 1:
            raise ValueError(f"dim={dim}: must be positive")
        check_dropout(dropout)
        self.dropout = dropout
        self.tokens = tokens
        self.neck = nn.Linear(pooled_width(in_features, tokens), dim)
        self.norm = nn.BatchNorm1d(dim)
        self.fc = nn.Linear(dim, num_classes)
        nn.init.kaiming_normal_(self.neck.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.neck.bias)
        nn.init.normal_(self.fc.weight, std=0.01)
        self.fc.bias.data.copy_(bias_start(prior, num_classes, stats))

    def forward(self, tokens: Tensor, class_token: Tensor | None = None) -> Tensor:
        x = self.neck(pool(tokens, class_token, self.tokens))
        norm = self.norm
        # sync_bn has replaced the module by one that is no BatchNorm1d, in whose forward every rank has to take part
        if self.training and len(x) == 1 and isinstance(norm, nn.BatchNorm1d):
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        else:
            x = norm(x)
        return self.fc(F.dropout(x, self.dropout, self.training))

    def class_maps(self, tokens: Tensor, class_token: Tensor | None = None) -> Tensor:
        """Return what each token adds to each logit, (B, C, N), with running statistics; see `GlobalAveragePool`."""
        assert self.norm.running_var is not None
        scale = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        weight = (self.fc.weight * scale) @ self.neck.weight
        return F.linear(tokens, of_places(weight, self.tokens)).transpose(1, 2)
