"""ML-Decoder with queries made from label embeddings, which predicts classes that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mltrain.models.heads.common import ClassAxes, bias_start, check_transformer
from mltrain.models.heads.ml_decoder import DecoderLayer
from mltrain.models.label_embeddings import label_embeddings


class ZeroShotMLDecoder(nn.Module):
    """ML-Decoder's zero-shot mode: tokens `(B, N, D_in)` and a vector of each class's name -> logits `(B, C)`.

    Ridnik et al., ML-Decoder, arXiv 2111.12933, section 3.3. The queries are relu(P v[c]) of the label embeddings v, a
    query for each class; the decoder layer is `MLDecoder`'s; one linear layer, shared by all classes, replaces the
    group pooling: logit c is h[c] . w + b. No weight belongs to a class, so an unseen class needs only its vector, and
    the logit of a class does not depend on the other classes. Unseen classes are those whose training targets are all
    unknown (-1): `dataset=nuswide_zsl`, or any data set with `partial=unseen partial.classes=[...]`.

    The embeddings are fixed and not saved with the weights: weights trained with one list of classes load into a head
    of another. Parameter names are the published ones without `decoder.`. Compared with the published formulation
    restated with torch modules: outputs and gradients equal to 1e-5 (tests/models).

    Args:
        in_features: D_in.
        num_classes: C.
        class_names: their names.
        embeddings: file of label embeddings or word vectors, see `mltrain.models.label_embeddings`.
        dim: width of the decoder, a multiple of `num_heads`; P is left out if the vectors have this length.
        num_heads: attention heads.
        ffn_dim: width of the feed-forward layer.
        dropout: probability, everywhere including the attention weights.
        prior: probability that each class has at the start; None: 0.5, the published bias of 0.

    Raises:
        ConfigError, DataError: see `label_embeddings`.
    """

    label_embeddings: Tensor

    map_kind = "attention"
    """of `class_maps`, see `mltrain.models.explain`"""
    class_axes: ClassVar[ClassAxes] = {}

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        class_names: Sequence[str],
        embeddings: str,
        dim: int = 768,
        num_heads: int = 8,
        ffn_dim: int = 2048,
        dropout: float = 0.1,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        if len(class_names) != num_classes:
            raise ValueError(f"{len(class_names)} class_names for num_classes={num_classes}")
        check_transformer(dim, num_heads, ffn_dim, dropout)
        vectors = torch.from_numpy(label_embeddings(embeddings, class_names))
        self.register_buffer("label_embeddings", vectors, persistent=False)
        length = vectors.shape[1]
        self.wordvec_proj = nn.Identity() if length == dim else nn.Linear(length, dim)
        self.embed_standart = nn.Linear(in_features, dim)
        self.layers = nn.ModuleList([DecoderLayer(dim, num_heads, ffn_dim, dropout)])
        self.duplicate_pooling = nn.Parameter(nn.init.xavier_normal_(torch.empty(dim, 1)))
        self.duplicate_pooling_bias = nn.Parameter(bias_start(prior, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        memory = F.relu(self.embed_standart(tokens), inplace=True)
        queries = F.relu(self.wordvec_proj(self.label_embeddings))
        h = self.layers[0](queries, memory)
        return (h @ self.duplicate_pooling).squeeze(2) + self.duplicate_pooling_bias

    def class_maps(self, tokens: Tensor) -> Tensor:
        """Return the attention of each class's query to the tokens, mean over the heads, (B, C, N); it sums to 1."""
        memory = F.relu(self.embed_standart(tokens))
        queries = F.relu(self.wordvec_proj(self.label_embeddings))
        return self.layers[0].attention(queries, memory)  # type: ignore[operator]
