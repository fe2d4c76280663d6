"""Heads: feature tokens `(B, N, D)`, and for some heads their grid `(h, w)`, -> logits `(B, C)`."""

from mltrain.models.heads.csra import CSRA
from mltrain.models.heads.gap import GlobalAveragePool
from mltrain.models.heads.ml_decoder import MLDecoder
from mltrain.models.heads.pfc import PFC
from mltrain.models.heads.query2label import Query2Label
from mltrain.models.heads.zero_shot import ZeroShotMLDecoder

__all__ = ["CSRA", "PFC", "GlobalAveragePool", "MLDecoder", "Query2Label", "ZeroShotMLDecoder"]
