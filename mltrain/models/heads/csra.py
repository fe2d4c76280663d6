"""CSRA: class-specific residual attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.labels import LabelStats
from mltrain.models.heads.common import ClassAxes, Prior, bias_start

TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1,),
    2: (1, 99),
    4: (1, 2, 4, 99),
    6: (1, 2, 3, 4, 5, 99),
    8: (1, 2, 3, 4, 5, 6, 7, 99),
}
"""published temperatures, by the number of heads"""
MAX = 99
"""the temperature that stands for the maximum"""


class CSRA(nn.Module):
    """Class-specific residual attention: tokens `(B, N, D)` -> logits `(B, C)`.

    Zhu and Wu, Residual Attention: A Simple but Effective Method for Multi-Label Recognition, ICCV 2021, arXiv
    2108.02456. Each head has a linear classifier of unit length without bias: s[c, j] = w[c] . x[j] / |w[c]| for class
    c at token j. Its logit is

        mean_j s[c, j] + lam * sum_j softmax_j(T s[c, j]) s[c, j]

    and the logits of the heads, which differ in T, are added. T = 99 replaces the second sum by the maximum.

    Compared with the published formulation restated with 1 x 1 convolutions and loops: values and gradients equal to
    1e-12 in fp64, values to 1e-6 in fp32 (tests/models). Parameter names are the published ones; the weights are (C, D)
    instead of (C, D, 1, 1). Scores are pooled in fp32, whatever the dtype of the tokens.

    Args:
        in_features: D.
        num_classes: C.
        num_heads: 1, 2, 4, 6 or 8 have published temperatures.
        lam: weight of the attention; published 0.1 for VOC, 0.4 and 0.5 for COCO, 0.3 for WIDER.
        temperatures: T of each head, instead of the published ones.
        prior: add a trained bias that starts where every class has this probability; ``"frequency"``: its share of the
            training labels; None: no bias, as published.
    """

    map_kind = "evidence"
    """of `class_maps`, see `mltrain.models.explain`"""
    class_axes: ClassVar[ClassAxes] = {"multi_head.*.head.weight": (0,), "bias": (0,)}

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        num_heads: int = 1,
        lam: float = 0.1,
        temperatures: Sequence[float] | None = None,
        prior: Prior = None,
        stats: LabelStats | None = None,
    ) -> None:
        super().__init__()
        if temperatures is None and num_heads not in TEMPERATURES:
            raise ValueError(
                f"num_heads={num_heads}: there are published temperatures for "
                f"{', '.join(map(str, TEMPERATURES))} heads; give another number of heads its temperatures"
            )
        self.temperatures = tuple(TEMPERATURES[num_heads] if temperatures is None else map(float, temperatures))
        if len(self.temperatures) != num_heads:
            raise ValueError(f"temperatures={list(self.temperatures)}: num_heads={num_heads} needs {num_heads} of them")
        if not all(0 <= t < float("inf") for t in self.temperatures):
            raise ValueError(f"temperatures={list(self.temperatures)}: must be 0 or more")
        if not 0 <= lam < float("inf"):
            raise ValueError(f"lam={lam}: must be 0 or more, and finite")
        self.multi_head = nn.ModuleList(_Head(in_features, num_classes, t, lam) for t in self.temperatures)
        self.bias = None if prior is None else nn.Parameter(bias_start(prior, num_classes, stats))

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.multi_head[0](tokens)
        for head in self.multi_head[1:]:
            logits = logits + head(tokens)
        return logits if self.bias is None else logits + self.bias

    def class_maps(self, tokens: Tensor) -> Tensor:
        """Return what each token adds to each logit, directly and by its attention, (B, C, N).

        The mean over the tokens plus the bias, if there is one, is the logit.
        """
        return sum(head.class_maps(tokens) for head in self.multi_head)  # type: ignore[operator, return-value]


class _Head(nn.Module):
    """Tokens `(B, N, D)` -> logits `(B, C)` of one temperature, fp32 at least."""

    def __init__(self, in_features: int, num_classes: int, temperature: float, lam: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.lam = lam
        self.head = nn.Linear(in_features, num_classes, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self._scores(tokens)
        if self.temperature == MAX:
            attended = scores.amax(1)
        else:
            attended = ((scores * self.temperature).softmax(1) * scores).sum(1)
        return scores.mean(1) + self.lam * attended

    def class_maps(self, tokens: Tensor) -> Tensor:
        scores = self._scores(tokens)
        if self.temperature == MAX:
            attention = F.one_hot(scores.argmax(1), scores.shape[1]).transpose(1, 2).to(scores.dtype)
        else:
            attention = (scores * self.temperature).softmax(1)
        return (scores * (1 + self.lam * scores.shape[1] * attention)).transpose(1, 2)

    def _scores(self, tokens: Tensor) -> Tensor:
        # normalising the weights instead of the scores gives the same product with N times fewer divisions
        scores = F.linear(tokens, F.normalize(self.head.weight, dim=1))
        return scores.to(torch.promote_types(scores.dtype, torch.float32))
