"""Losses: one file per paper. Each maps logits (B, C) and targets (B, C) in {1, 0, -1} or soft to a scalar."""

from mltrain.losses.asl import AsymmetricLoss
from mltrain.losses.asl_softmax import AsymmetricSoftmaxLoss
from mltrain.losses.base import PerClassLoss, PerLabelLoss
from mltrain.losses.bce import BinaryCrossEntropy
from mltrain.losses.class_balanced import ClassBalancedLoss
from mltrain.losses.cross_entropy import CrossEntropy
from mltrain.losses.csl import ClassAwareSelectiveLoss
from mltrain.losses.db import DistributionBalancedLoss
from mltrain.losses.focal import FocalLoss
from mltrain.losses.focal_softmax import FocalSoftmaxLoss
from mltrain.losses.ghm import GHMLoss
from mltrain.losses.hill import HillLoss
from mltrain.losses.inverse_frequency import InverseFrequencyLoss
from mltrain.losses.ldam import LDAMLoss
from mltrain.losses.ldam_softmax import LDAMSoftmaxLoss
from mltrain.losses.logit_adjustment import LogitAdjustedLoss
from mltrain.losses.multi_focal import MultiFocalLoss
from mltrain.losses.ral import RobustAsymmetricLoss
from mltrain.losses.splc import SPLCLoss
from mltrain.losses.two_way import TwoWayLoss
from mltrain.losses.zlpr import ZLPRLoss

__all__ = [
    "AsymmetricLoss",
    "AsymmetricSoftmaxLoss",
    "BinaryCrossEntropy",
    "ClassAwareSelectiveLoss",
    "ClassBalancedLoss",
    "CrossEntropy",
    "DistributionBalancedLoss",
    "FocalLoss",
    "FocalSoftmaxLoss",
    "GHMLoss",
    "HillLoss",
    "InverseFrequencyLoss",
    "LDAMLoss",
    "LDAMSoftmaxLoss",
    "LogitAdjustedLoss",
    "MultiFocalLoss",
    "PerClassLoss",
    "PerLabelLoss",
    "RobustAsymmetricLoss",
    "SPLCLoss",
    "TwoWayLoss",
    "ZLPRLoss",
]
