"""Heads: feature tokens `(B, N, D)` -> logits `(B, C)`."""

from mltrain.models.heads.gap import GlobalAveragePool
from mltrain.models.heads.ml_decoder import MLDecoder
from mltrain.models.heads.pfc import PFC

__all__ = ["PFC", "GlobalAveragePool", "MLDecoder"]
