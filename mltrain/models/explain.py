"""Class maps: the places of an image in which a classifier finds each class."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mltrain.models.classifier import HEADS, Classifier, exact_features
from mltrain.models.features import Features
from mltrain.models.heads.common import CLS


class ClassMaps(NamedTuple):
    """Maps of images, and the logits that they explain."""

    maps: Tensor
    """fp32 (B, C, h, w), on the grid of the backbone's features"""
    logits: Tensor
    """fp32 (B, C)"""
    kind: Literal["attention", "evidence"]
    """attention: the weights of a class's query, which sum to 1 over the grid. evidence: what each place adds to the
    logit, positive or negative; the mean over the grid is the logit minus a constant of the class (its bias)"""


def why_no_maps(model: Classifier) -> str | None:
    """Return why a classifier has no class maps, or None if it has."""
    if not hasattr(model.head, "class_maps"):
        own = ", ".join(name for name, head in HEADS.items() if hasattr(head, "class_maps"))
        return f"{type(model.head).__name__} has no class_maps; heads with class_maps: {own}"
    if getattr(model.head, "tokens", None) == CLS:
        return (
            "head.tokens=cls: the class token belongs to no place of the image, so there are no class maps; a run with "
            "head.tokens=both or patches has them"
        )
    if getattr(model.backbone, "pool", None) == "timm":
        return "model.pool=timm: the head gets one vector of the whole image, so there are no class maps"
    return None


@torch.inference_mode()
def class_maps(model: Classifier, images: Tensor, *, amp_dtype: torch.dtype | None = None) -> ClassMaps:
    """Compute the maps of every class, as the model's head defines them (its `class_maps`).

    Heads that average a score of each place give evidence: gap and pfc (class activation maps), csra (with its
    attention). Heads whose queries attend to the places give attention: ml_decoder, zero_shot, query2label. Attention
    shows where the model looks, not what is evidence for the class; the classes of a group share a map.

    Args:
        model: in evaluation mode.
        images: `(B, 3, H, W)`, 0..255, on the model's device.
        amp_dtype: of autocast over the backbone; the head is in fp32.

    Raises:
        ValueError: the head has no `class_maps`, or pools no places of the image.
    """
    reason = why_no_maps(model)
    if reason is not None:
        raise ValueError(reason)
    return maps_of(model, exact_features(model, images, amp_dtype))


@torch.inference_mode()
def maps_of(model: Classifier, features: Features) -> ClassMaps:
    """Compute the maps of every class for fp32 features of the backbone of a model that has them (`why_no_maps`)."""
    logits = model.classify(features).float()
    flat: Tensor = model.head.class_maps(features.tokens, **model.given(features))  # type: ignore[operator]
    return ClassMaps(flat.float().unflatten(2, features.grid), logits, model.head.map_kind)  # type: ignore[arg-type]
