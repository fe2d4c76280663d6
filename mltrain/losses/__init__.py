"""Losses: one file per paper. Each maps logits (B, C) and targets (B, C) in {1, 0, -1} or soft to a scalar."""

from mltrain.losses.asl import AsymmetricLoss
from mltrain.losses.base import PerLabelLoss
from mltrain.losses.bce import BinaryCrossEntropy
from mltrain.losses.focal import FocalLoss

__all__ = ["AsymmetricLoss", "BinaryCrossEntropy", "FocalLoss", "PerLabelLoss"]
