"""Backbones, heads and the classifier they make."""

from mltrain.models.backbone import Backbone, Features, create_backbone
from mltrain.models.classifier import Classifier, create_classifier
from mltrain.models.heads import PFC, GlobalAveragePool, MLDecoder

__all__ = [
    "PFC",
    "Backbone",
    "Classifier",
    "Features",
    "GlobalAveragePool",
    "MLDecoder",
    "create_backbone",
    "create_classifier",
]
