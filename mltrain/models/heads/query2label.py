"""Query2Label."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.labels import LabelStats
from mltrain.models.heads.common import ClassAxes, Prior, bias_start, check_dropout
from mltrain.models.heads.ml_decoder import attention_weights, dropout_, feed_forward, project


class Query2Label(nn.Module):
    """Query2Label: a query of each class reads the tokens `(B, N, D)` through a transformer -> logits `(B, C)`.

    Liu et al., Query2Label: A Simple Transformer Way to Multi-Label Classification, arXiv 2107.10834. The transformer
    is that of DETR, post-norm: with p the sine positions of the grid, q the class queries, memory m = x,

        encoder layer:  m = norm1(m + attention(m + p, m + p, m));      m = norm2(m + ffn(m))
        decoder layer:  t = norm1(t + attention(t + q, t + q, t))       (left out as published, see below)
                        t = norm2(t + attention(t + q, m + p, m));      t = norm3(t + ffn(t))

    from t = 0, ffn(t) = W2 relu(W1 t), with dropout where DETR has it; a last norm; logit c is W[c] . t[c] + b[c].

    Compared with the published formulation restated with torch's own attention modules: outputs and gradients equal to
    1e-5 with the same weights (tests/models). Parameter names are published (`input_proj.weight` (d, D)
    instead of (d, D, 1, 1)). The published code fixes p to one size of images; here it follows the grid of the tokens.

    Args:
        in_features: D.
        num_classes: C.
        dim: width of the transformer; None: D without a projection, as published. A multiple of 4 and of `num_heads`.
        num_heads: attention heads.
        ffn_dim: width of the feed-forward layers.
        encoder_layers: 0 or more.
        decoder_layers: 1 or more.
        dropout: probability, everywhere including the attention weights.
        keep_first_self_attention: attention among the queries in the first decoder layer, where they start from 0.
        keep_other_self_attention: the same in the others. Published: neither.
        prior: probability that each class has at the start; None: the published start, U(-1, 1) / sqrt(dim) for b;
            ``"frequency"``: its share of the training labels.
    """

    map_kind = "attention"
    """of `class_maps`, see `mltrain.models.explain`"""
    class_axes: ClassVar[ClassAxes] = {"query_embed.weight": (0,), "fc.W": (1,), "fc.b": (1,)}

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        dim: int | None = None,
        num_heads: int = 4,
        ffn_dim: int = 8192,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        dropout: float = 0.1,
        keep_first_self_attention: bool = False,
        keep_other_self_attention: bool = False,
        prior: Prior = None,
        stats: LabelStats | None = None,
    ) -> None:
        super().__init__()
        width = in_features if dim is None else dim
        if num_heads < 1 or ffn_dim < 1:
            raise ValueError(f"num_heads={num_heads}, ffn_dim={ffn_dim}: must be positive")
        if width < 1 or width % num_heads or width % 4:
            shown = f"dim=null, the {width} features of the backbone" if dim is None else f"dim={dim}"
            raise ValueError(f"{shown}: must be a positive multiple of 4 and of num_heads={num_heads}")
        if encoder_layers < 0 or decoder_layers < 1:
            raise ValueError(
                f"encoder_layers={encoder_layers}, decoder_layers={decoder_layers}: at least 0 and 1 are needed"
            )
        check_dropout(dropout)
        self.input_proj = nn.Identity() if dim is None else nn.Linear(in_features, dim)
        encoder: list[nn.Module] = [_EncoderLayer(width, num_heads, ffn_dim, dropout) for _ in range(encoder_layers)]
        decoder: list[nn.Module] = [
            _DecoderLayer(width, num_heads, ffn_dim, dropout, self_attention=keep)
            for keep in [keep_first_self_attention, *[keep_other_self_attention] * (decoder_layers - 1)]
        ]
        self.transformer = _Transformer(encoder, decoder, width)
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.query_embed = nn.Embedding(num_classes, width)
        self.fc = _GroupWiseLinear(num_classes, width)
        if prior is not None:
            self.fc.b.data.copy_(bias_start(prior, num_classes, stats))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        memory = self.input_proj(tokens)
        positions = sine_positions(grid, memory.shape[2], device=memory.device).to(memory.dtype)
        return self.fc(self.transformer(memory, positions, self.query_embed.weight.to(memory.dtype)))

    def class_maps(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the attention of each class's query in the last layer to the tokens, mean over the heads, (B, C, N).

        It sums to 1 over the tokens. Behind encoder layers a token contains parts of others.
        """
        memory = self.input_proj(tokens)
        positions = sine_positions(grid, memory.shape[2], device=memory.device).to(memory.dtype)
        return self.transformer.attention(memory, positions, self.query_embed.weight.to(memory.dtype))


def sine_positions(grid: tuple[int, int], dim: int, *, device: torch.device | None = None) -> Tensor:
    """Return the position encoding of a grid (h, w), row by row, fp32 (h * w, dim); dim is a multiple of 4.

    As in DETR, normalised: the rows are at angles (1 ... h) / h * 2 pi, divided by 10000^(4i / dim), whose sines and
    cosines alternate over the first half of the channels; the columns likewise over the second.
    """
    half = dim // 2
    wavelengths = 10_000 ** (torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)

    def axis(length: int) -> Tensor:
        at = torch.arange(1, length + 1, device=device, dtype=torch.float32) / (length + 1e-6) * (2 * math.pi)
        angles = at[:, None] / wavelengths
        return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)

    h, w = grid
    rows, columns = axis(h)[:, None].expand(h, w, half), axis(w)[None].expand(h, w, half)
    return torch.cat((rows, columns), dim=2).flatten(0, 1)


class _Transformer(nn.Module):
    """Memory `(B, N, d)`, positions `(N, d)`, queries `(C, d)` -> `(B, C, d)`."""

    def __init__(self, encoder: list[nn.Module], decoder: list[nn.Module], dim: int) -> None:
        super().__init__()
        self.encoder = _Stack(encoder, None)
        self.decoder = _Stack(decoder, nn.LayerNorm(dim))

    def forward(self, memory: Tensor, positions: Tensor, queries: Tensor) -> Tensor:
        state, _ = self._decode(len(self.decoder.layers), memory, positions, queries)
        assert self.decoder.norm is not None
        return self.decoder.norm(state)

    def attention(self, memory: Tensor, positions: Tensor, queries: Tensor) -> Tensor:
        """Return the attention weights of the last decoder layer, averaged over the heads, (B, C, N)."""
        *_, last = self.decoder.layers
        state, keys = self._decode(len(self.decoder.layers) - 1, memory, positions, queries)
        assert isinstance(last, _DecoderLayer)
        return attention_weights(last.multihead_attn, last.placed(state, queries, keys)[1], keys)

    def _decode(self, layers: int, memory: Tensor, positions: Tensor, queries: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the state after so many decoder layers, None after 0, and the keys that they read."""
        for layer in self.encoder.layers:
            memory = layer(memory, positions)
        keys = memory + positions
        state: Tensor | None = None
        for layer in self.decoder.layers[:layers]:
            state = layer(state, queries, keys, memory)
        return state, keys


class _Stack(nn.Module):
    """Layers under their published names."""

    def __init__(self, layers: list[nn.Module], norm: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm


class _EncoderLayer(nn.Module):
    """Memory `(B, N, d)`, positions `(N, d)` -> `(B, N, d)`."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = nn.MultiheadAttention(dim, num_heads)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, memory: Tensor, positions: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        placed = memory + positions
        x = self.norm1(memory + dropout_(_attention(self.self_attn, placed, placed, memory, rate), rate))
        return self.norm2(x + feed_forward(self.linear1, self.linear2, x, rate))


class _DecoderLayer(nn.Module):
    """State `(B, C, d)` or None for zeros, queries `(C, d)`, keys and memory `(B, N, d)` -> state."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float, *, self_attention: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = nn.MultiheadAttention(dim, num_heads) if self_attention else None
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads)
        self.linear1 = nn.Linear(dim, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, dim)
        self.norm1 = nn.LayerNorm(dim) if self_attention else None
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, state: Tensor | None, queries: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        state, placed = self.placed(state, queries, keys)
        read = dropout_(_attention(self.multihead_attn, placed, keys, memory, rate), rate)
        x = self.norm2(read if state is None else state + read)
        return self.norm3(x + feed_forward(self.linear1, self.linear2, x, rate))

    def placed(self, state: Tensor | None, queries: Tensor, keys: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the state after self-attention, and its sum with the queries, which attends to the memory."""
        rate = self.dropout if self.training else 0.0
        if self.self_attn is not None and self.norm1 is not None:
            x = keys.new_zeros(keys.shape[0], *queries.shape) if state is None else state
            placed = x + queries
            state = self.norm1(x + dropout_(_attention(self.self_attn, placed, placed, x, rate), rate))
        # without a state, all images have the same queries, so they are projected once
        return state, queries.unsqueeze(0) if state is None else state + queries


class _GroupWiseLinear(nn.Module):
    """A separate linear layer for each query: `(B, C, d)` -> `(B, C)`."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dim)
        self.W = nn.Parameter(torch.empty(1, num_classes, dim).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(1, num_classes).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return (self.W * x).sum(-1) + self.b


def _attention(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, rate: float) -> Tensor:
    """Attend: `(B or 1, L, d)`, `(B, N, d)`, `(B, N, d)` -> `(B, L, d)`, with the weights of the module."""
    q, k, v = project(module, query, key, value)
    read = F.scaled_dot_product_attention(q.expand(k.shape[0], -1, -1, -1), k, v, dropout_p=rate)
    return module.out_proj(read.transpose(1, 2).flatten(2))
