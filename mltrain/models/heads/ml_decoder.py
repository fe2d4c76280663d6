"""ML-Decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.labels import LabelStats
from mltrain.models.heads.common import ClassAxes, Prior, bias_start, check_transformer


class MLDecoder(nn.Module):
    """ML-Decoder: group queries attend to the tokens `(B, N, D_in)` -> logits `(B, C)`.

    Ridnik et al., ML-Decoder: Scalable and Versatile Classification Head, arXiv 2111.12933. One decoder layer without
    self-attention, post-norm: with memory m = relu(W x) and queries q (G, dim)

        t1 = norm1(q + dropout(q))
        t2 = norm2(t1 + dropout(attention(t1, m, m)))
        h  = norm3(t2 + dropout(W2 dropout(relu(W1 t2))))

    then group fully-connected pooling: with f = ceil(C / G), logit c is h[c // f] . W[c // f, :, c % f] + b[c].
    Attention has no positions, so the order of the tokens does not matter.

    Compared with the published formulation restated with torch modules: outputs and gradients equal to 1e-5 with the
    same weights (tests/models). Parameter names are the published ones without `decoder.`; the queries are saved even
    if they are not learned. The published code has f = int(C / G + 0.999), one too few for fractions below 0.001.

    Args:
        in_features: D_in.
        num_classes: C.
        groups: G; None: the published min(100, C). G = C gives each class a query of its own.
        dim: width of the decoder; a multiple of `num_heads`.
        num_heads: attention heads.
        ffn_dim: width of the feed-forward layer.
        dropout: probability, everywhere including the attention weights.
        learned_queries: train the queries; the paper finds fixed random ones as good.
        prior: probability that each class has at the start; None: 0.5, the published bias of 0; ``"frequency"``: its
            share of the training labels.
        query_scale: initial scale of norm1; published 1. At 1 the queries dominate the result of attention: only 0.6 %
            of the mean square of h differs between images (tokens of an ImageNet MobileNetV2), with 0.1 it is 19 %.
        pooled: add a linear layer of the mean token to the logits, and start the group pooling from 0: training then
            starts as `gap` does, and the decoder adds to it. Not published; for few images.
    """

    map_kind = "attention"
    """of `class_maps`, see `mltrain.models.explain`"""
    class_axes: ClassVar[ClassAxes] = {
        "query_embed.weight": (0,),
        "duplicate_pooling": (0, 2),
        "duplicate_pooling_bias": (0,),
        "pooled.weight": (0,),
    }

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        groups: int | None = None,
        dim: int = 768,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        learned_queries: bool = False,
        prior: Prior = None,
        stats: LabelStats | None = None,
        query_scale: float = 1.0,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        if groups is not None and not 1 <= groups <= num_classes:
            raise ValueError(
                f"groups={groups}: must be between 1 and the number of classes, {num_classes}; None: min(100, C)"
            )
        check_transformer(dim, num_heads, ffn_dim, dropout)
        if not 0 < query_scale < float("inf"):
            raise ValueError(f"query_scale={query_scale}: must be positive")
        self.num_classes = num_classes
        self.groups = min(100, num_classes) if groups is None else groups
        self.group_size = -(-num_classes // self.groups)
        self.dropout = dropout
        self.embed_standart = nn.Linear(in_features, dim)
        self.query_embed = nn.Embedding(self.groups, dim)
        self.query_embed.weight.requires_grad_(learned_queries)
        layer = DecoderLayer(dim, num_heads, ffn_dim, dropout)
        nn.init.constant_(layer.norm1.weight, query_scale)
        self.layers = nn.ModuleList([layer])
        self.duplicate_pooling = nn.Parameter(torch.empty(self.groups, dim, self.group_size))
        self.duplicate_pooling_bias = nn.Parameter(bias_start(prior, num_classes, stats))
        self.pooled = nn.Linear(in_features, num_classes, bias=False) if pooled else None
        if self.pooled is None:
            nn.init.xavier_normal_(self.duplicate_pooling)
        else:
            nn.init.normal_(self.pooled.weight, std=0.01)  # as in gap
            nn.init.zeros_(self.duplicate_pooling)

    def forward(self, tokens: Tensor) -> Tensor:
        memory = F.relu(self.embed_standart(tokens), inplace=True)
        h = self.layers[0](self.query_embed.weight, memory)
        # (G, B, dim) x (G, dim, f): every group's own linear layer in one batched product
        x = torch.bmm(h.transpose(0, 1), self.duplicate_pooling)
        logits = x.transpose(0, 1).flatten(1)[:, : self.num_classes] + self.duplicate_pooling_bias
        return logits if self.pooled is None else logits + self.pooled(tokens.mean(1))

    def class_maps(self, tokens: Tensor) -> Tensor:
        """Return the attention of each class's group query to the tokens, averaged over the heads, (B, C, N).

        It sums to 1 over the tokens. Classes of a group have the same map; the part of `pooled` is not in it.
        """
        memory = F.relu(self.embed_standart(tokens))
        attention: Tensor = self.layers[0].attention(self.query_embed.weight, memory)  # type: ignore[operator]
        return attention[:, torch.arange(self.num_classes, device=tokens.device) // self.group_size]

    @torch.no_grad()
    def copy_classes(self, state: Mapping[str, Tensor], pairs: Mapping[int, int]) -> set[int]:
        """Copy classes of another ML-Decoder: its tensors, and {class here: class there}; return those copied.

        A class works with the query of its group. So of the classes of a group here, those are copied that share a
        group there (the most; of equals, the first), with its query.
        """
        queries, pooling = state["query_embed.weight"], state["duplicate_pooling"]
        size = pooling.shape[2]
        copied = set()
        for group in range(self.groups):
            mine = [c for c in pairs if c // self.group_size == group]
            if not mine:
                continue
            source = Counter(pairs[c] // size for c in mine).most_common(1)[0][0]
            self.query_embed.weight[group] = queries[source]
            for c in mine:
                place, column = divmod(pairs[c], size)
                if place != source:
                    continue
                self.duplicate_pooling[group, :, c % self.group_size] = pooling[place, :, column]
                self.duplicate_pooling_bias[c] = state["duplicate_pooling_bias"][pairs[c]]
                if self.pooled is not None:
                    self.pooled.weight[c] = state["pooled.weight"][pairs[c]]
                copied.add(c)
        return copied


class DecoderLayer(nn.Module):
    """Queries `(G, dim)`, memory `(B, N, dim)` -> `(B, G, dim)`."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        # holds the projections under their published names and initialises them as published; its forward is not used
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        batch, dim = memory.shape[0], memory.shape[2]  # not len(), which torch.export makes a constant
        # Without dropout the query path is the same for every image: computed once, expanded as a view.
        q = queries.unsqueeze(0)
        t = self.norm1(q + dropout_(q.repeat(batch, 1, 1), rate) if rate else 2 * q)
        # split, not slices: the gradients of slices are padded to the whole tensor each
        q_weight, kv_weight = self.multihead_attn.in_proj_weight.split((dim, 2 * dim))
        q_bias, kv_bias = self.multihead_attn.in_proj_bias.split((dim, 2 * dim))
        query = self._split(F.linear(t, q_weight, q_bias)).expand(batch, -1, -1, -1)
        key, value = F.linear(memory, kv_weight, kv_bias).chunk(2, dim=-1)
        a = F.scaled_dot_product_attention(query, self._split(key), self._split(value), dropout_p=rate)
        a = self.multihead_attn.out_proj(a.transpose(1, 2).flatten(2))
        t = self.norm2(t + dropout_(a, rate))
        return self.norm3(t + feed_forward(self.linear1, self.linear2, t, rate))

    def attention(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Return the attention weights of `forward` without dropout, averaged over the heads, (B, G, N)."""
        return attention_weights(self.multihead_attn, self.norm1(2 * queries.unsqueeze(0)), memory)

    def _split(self, x: Tensor) -> Tensor:
        """Reshape (B, L, dim) to (B, heads, L, dim / heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def project(module: nn.MultiheadAttention, *inputs: Tensor) -> list[Tensor]:
    """Project query, key and, if given, value, `(B, L, d)`, and split them into heads, `(B, heads, L, d / heads)`."""
    parts = zip(inputs, module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=False)
    return [F.linear(x, w, b).unflatten(2, (module.num_heads, -1)).transpose(1, 2) for x, w, b in parts]


def attention_weights(module: nn.MultiheadAttention, query: Tensor, key: Tensor) -> Tensor:
    """Return the softmax weights of queries `(B or 1, L, d)` on keys `(B, N, d)`, mean over the heads, (B, L, N)."""
    q, k = project(module, query, key)
    return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1).mean(1)


def feed_forward(first: nn.Module, second: nn.Module, x: Tensor, rate: float) -> Tensor:
    """Return dropout(second(dropout(relu(first(x)))))."""
    # dropout before relu is the same function as after it, and both can work in place
    return dropout_(second(F.relu(dropout_(first(x), rate), inplace=True)), rate)


def dropout_(x: Tensor, rate: float) -> Tensor:
    """Apply dropout to a tensor that nothing else needs; on the CPU in place and with cheaper random numbers."""
    if not rate:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    return _CpuDropout.apply(x, rate)


class _CpuDropout(torch.autograd.Function):
    """In-place dropout that draws 16 bits per element and keeps one byte of it for the backward pass.

    torch's own dropout draws and keeps a float per element, which takes half the time of a step outside its matrix
    products. The rate is rounded to a multiple of 1/65536, and the scale is adjusted to it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        dropped = min(max(round(rate * 65536), 1), 65535)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        drop = (bits[: x.numel()] < dropped - 32768).view(x.shape)
        ctx.scale = 65536 / (65536 - dropped)
        ctx.save_for_backward(drop)
        ctx.mark_dirty(x)
        # a product with the mask would convert the mask to floats first
        return x.masked_fill_(drop, 0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (drop,) = ctx.saved_tensors
        return grads[0].masked_fill(drop, 0).mul_(ctx.scale), None
