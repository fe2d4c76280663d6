"""Backbones, heads and the classifier they make."""

from mltrain.models.backbone import Backbone, Features, create_backbone
from mltrain.models.classifier import Classifier, create_classifier
from mltrain.models.heads import CSRA, PFC, GlobalAveragePool, MLDecoder, Query2Label, ZeroShotMLDecoder

__all__ = [
    "CSRA",
    "PFC",
    "Backbone",
    "Classifier",
    "Features",
    "GlobalAveragePool",
    "MLDecoder",
    "Query2Label",
    "ZeroShotMLDecoder",
    "create_backbone",
    "create_classifier",
]
