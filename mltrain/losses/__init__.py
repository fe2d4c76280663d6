"""Losses: one file per paper. Each maps logits (B, C) and targets (B, C) in {1, 0, -1} or soft to a scalar."""

from mltrain.losses.asl import AsymmetricLoss
from mltrain.losses.base import PerClassLoss, PerLabelLoss
from mltrain.losses.bce import BinaryCrossEntropy
from mltrain.losses.class_balanced import ClassBalancedLoss
from mltrain.losses.db import DistributionBalancedLoss
from mltrain.losses.focal import FocalLoss
from mltrain.losses.inverse_frequency import InverseFrequencyLoss
from mltrain.losses.ldam import LDAMLoss
from mltrain.losses.logit_adjustment import LogitAdjustedLoss
from mltrain.losses.multi_focal import MultiFocalLoss
from mltrain.losses.ral import RobustAsymmetricLoss

__all__ = [
    "AsymmetricLoss",
    "BinaryCrossEntropy",
    "ClassBalancedLoss",
    "DistributionBalancedLoss",
    "FocalLoss",
    "InverseFrequencyLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "MultiFocalLoss",
    "PerClassLoss",
    "PerLabelLoss",
    "RobustAsymmetricLoss",
]
