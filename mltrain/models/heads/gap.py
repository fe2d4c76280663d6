"""Global average pooling, or the class token, and a linear layer."""

from __future__ import annotations

from typing import ClassVar

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


class GlobalAveragePool(nn.Module):
    """Mean over the tokens, dropout, linear layer: tokens `(B, N, D)` -> logits `(B, C)`.

    Weights start from N(0, 0.01), as in TResNet's classifier; the bias starts where a sigmoid gives `prior`.

    Args:
        in_features: D.
        num_classes: C.
        dropout: probability, on the pooled features.
        bottleneck: width of a linear layer before the classifier, without activation between: ASL's and CSL's models
            of the 9,605 classes of Open Images have 512, which saves most of the classifier's weights. None: no such
            layer.
        prior: probability that each class has at the start; None: 0.5; ``"frequency"``: its share of the training
            labels. With many classes a small one (0.01) saves the first steps, which otherwise only learn that most
            labels are absent.
        tokens: what is pooled: the mean over the ``patches``, the class token ``cls`` instead, or ``both`` side by
            side, with 2 D features. The latter two need a backbone with a class token, such as a ViT.
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
        dropout: float = 0.0,
        bottleneck: int | None = None,
        prior: Prior = None,
        tokens: Tokens = "patches",
        stats: LabelStats | None = None,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        check_tokens(tokens)
        if bottleneck is not None and bottleneck < 1:
            raise ValueError(f"bottleneck={bottleneck}: must be positive, or None")
        self.dropout = dropout
        self.tokens = tokens
        in_features = pooled_width(in_features, tokens)
        self.bottleneck = None if bottleneck is None else nn.Linear(in_features, bottleneck)
        self.fc = nn.Linear(in_features if bottleneck is None else bottleneck, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        self.fc.bias.data.copy_(bias_start(prior, num_classes, stats))
        if self.bottleneck is not None:
            nn.init.normal_(self.bottleneck.weight, std=0.01)
            nn.init.zeros_(self.bottleneck.bias)

    def forward(self, tokens: Tensor, class_token: Tensor | None = None) -> Tensor:
        x = F.dropout(pool(tokens, class_token, self.tokens), self.dropout, self.training)
        if self.bottleneck is not None:
            x = self.bottleneck(x)
        return self.fc(x)

    def class_maps(self, tokens: Tensor, class_token: Tensor | None = None) -> Tensor:
        """Return what each token adds to each logit, (B, C, N): class activation maps (Zhou et al., arXiv 1512.04150).

        The mean over the tokens plus the rest of the logit is the logit. The rest is constant for a class (without a
        bottleneck, the bias), but for `tokens="both"`, where the class token's part belongs to it.
        """
        weight = self.fc.weight if self.bottleneck is None else self.fc.weight @ self.bottleneck.weight
        return F.linear(tokens, of_places(weight, self.tokens)).transpose(1, 2)
