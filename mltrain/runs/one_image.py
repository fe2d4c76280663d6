"""Answer of a run to one image: its labels, the map of each class, and the image's features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from mltrain.models.classifier import exact_features
from mltrain.models.explain import ClassMaps, maps_of, why_no_maps
from mltrain.pipeline.augment import EvalResize
from mltrain.runs.predictor import Label, Predictor


class Look(NamedTuple):
    """Result of one pass of the model over an image."""

    scores: np.ndarray
    """probabilities (C,), float64"""
    labels: list[Label]
    """the predicted classes, best first; may be empty"""
    best: Label
    """the class with the highest logit, predicted or not"""
    maps: ClassMaps | None
    """of all classes, for a batch of one; None: the head has no maps"""
    feature: np.ndarray
    """the backbone's features, pooled, (D,), float32"""


@torch.inference_mode()
def look(predictor: Predictor, image: np.ndarray) -> Look:
    """Run the model of a predictor over an image, uint8 RGB (H, W, 3). Views and ensembles have no place here.

    Raises:
        NonFiniteError: a logit is NaN.
    """
    model = predictor.model
    pixels = predictor.resize(image)[None].to(predictor.device, memory_format=torch.channels_last)
    features = exact_features(model, pixels, predictor.amp_dtype)
    maps = maps_of(model, features) if why_no_maps(model) is None else None
    logits = (model.classify(features).float() if maps is None else maps.logits).cpu()
    labels = predictor.choose(logits)[0]
    scores = predictor.scores(logits)[0].numpy()
    first = int(logits[0].argmax())
    best = Label(predictor.class_names[first], float(scores[first]))
    return Look(scores, labels, best, maps, features.pooled[0].cpu().numpy())


def visible_part(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """Return the part of an image, uint8 (H, W, 3), that the model gets: maps lie over this part."""
    if not isinstance(predictor.resize, EvalResize):
        return predictor.resize(image).permute(1, 2, 0).contiguous().numpy()
    top, left, height, width = (round(value) for value in predictor.resize.region(*image.shape[:2]))
    return np.ascontiguousarray(image[top : top + height, left : left + width])
