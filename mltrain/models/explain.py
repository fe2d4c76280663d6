"""Where in an image a classifier finds each class."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mltrain.models.classifier import HEADS, Classifier


class ClassMaps(NamedTuple):
    """Maps of images, and the logits that they explain."""

    maps: Tensor
    """fp32 (B, C, h, w), on the grid of the backbone's features"""
    logits: Tensor
    """fp32 (B, C)"""
    kind: Literal["attention", "evidence"]
    """attention: where a class's query reads, sums to 1 over the grid. evidence: what each place adds to the logit, of
    either sign; the mean over the grid is the logit less a constant of the class (its bias)"""


@torch.inference_mode()
def class_maps(model: Classifier, images: Tensor, *, amp_dtype: torch.dtype | None = None) -> ClassMaps:
    """The maps of every class, as the model's head defines them (its `class_maps`).

    Evidence of the heads that average a score of each place: gap and pfc (class activation maps), csra (with its
    attention). Attention of those whose queries read the places: ml_decoder, zero_shot, query2label. Attention says
    what was looked at, not what spoke for the class; with fewer groups than classes, those of a group share theirs.

    Args:
        model: in evaluation mode.
        images: `(B, 3, H, W)`, 0..255, on the model's device.
        amp_dtype: of autocast over the backbone; the head is in fp32.

    Raises:
        ValueError: the head has no `class_maps`.
    """
    if not hasattr(model.head, "class_maps"):
        own = ", ".join(name for name, head in HEADS.items() if hasattr(head, "class_maps"))
        raise ValueError(f"{type(model.head).__name__} has no class_maps; heads that have: {own}")
    with torch.autocast(images.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        features = model.features(images)
    features = features._replace(tokens=features.tokens.float())
    logits = model.classify(features).float()
    flat: Tensor = model.head.class_maps(features.tokens, **model.grid_of(features))  # type: ignore[operator]
    return ClassMaps(flat.float().unflatten(2, features.grid), logits, model.head.map_kind)  # type: ignore[arg-type]
