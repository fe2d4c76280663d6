"""Backbone and head as one classifier of raw images."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mltrain.errors import ConfigError, described
from mltrain.models.backbone import Backbone, Features, create_backbone
from mltrain.models.heads import CSRA, PFC, GlobalAveragePool, MLDecoder, Query2Label, ZeroShotMLDecoder

HEADS: dict[str, type[nn.Module]] = {
    "csra": CSRA,
    "gap": GlobalAveragePool,
    "ml_decoder": MLDecoder,
    "pfc": PFC,
    "query2label": Query2Label,
    "zero_shot": ZeroShotMLDecoder,
}


class Classifier(nn.Module):
    """Images `(B, 3, H, W)` with values 0..255, uint8 or float -> logits `(B, C)`.

    It normalises images with the backbone's mean and std. These are buffers, saved with the weights, so that a
    checkpoint is evaluated with the values of its training. The memory format of the images is kept.

    The head gets the tokens and, if its `forward` has an argument `grid`, the grid (h, w) too.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._head_takes_grid = "grid" in inspect.signature(head.forward).parameters
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1) * 255)  # in the images' unit, 0..255
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1) * 255)

    def normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean).div_(self.std)

    def features(self, images: Tensor) -> Features:
        """Return the backbone's features of raw images."""
        return self.backbone(self.normalize(images))

    def exact_features(self, images: Tensor, amp_dtype: torch.dtype | None) -> Features:
        """Return the features for inference: the backbone under autocast (None: full precision), its tokens in fp32."""
        with torch.autocast(images.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            features = self.features(images)
        return features._replace(tokens=features.tokens.float())

    def classify(self, features: Features) -> Tensor:
        """Return the head's logits for a backbone's features."""
        return self.head(features.tokens, **self.grid_of(features))

    def grid_of(self, features: Features) -> dict[str, tuple[int, int]]:
        """Return the argument `grid` for a head that takes it."""
        return {"grid": features.grid} if self._head_takes_grid else {}

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


def check_head(model: Classifier, num_classes: int) -> None:
    """Run the head on blank tokens. Raises ConfigError unless it gives logits (B, C)."""
    tokens, training = torch.zeros(2, 4, model.backbone.num_features), model.head.training
    model.head.eval()
    try:
        with torch.no_grad():
            logits = model.classify(Features(tokens, (2, 2), tokens[:, :0]))
    except Exception as error:
        raise ConfigError(f"it cannot run on tokens {tuple(tokens.shape)}: {described(error)}") from error
    model.head.train(training)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, num_classes):
        raise ConfigError(f"it returns {shape} for tokens {tuple(tokens.shape)}, not logits {(2, num_classes)}")


def create_classifier(
    *,
    name: str,
    num_classes: int,
    head: str = "gap",
    pretrained: bool = False,
    checkpoint: str | None = None,
    image_size: int | None = None,
    backbone_options: dict[str, Any] | None = None,
    head_options: dict[str, Any] | None = None,
) -> Classifier:
    """Build a classifier without Hydra: `create_classifier(name="resnet50", num_classes=80, head="ml_decoder")`.

    Args:
        name, pretrained, checkpoint, image_size: see `create_backbone`; `backbone_options` are its other arguments. A
            checkpoint gives the backbone alone.
        num_classes: C.
        head: a name in `HEADS`; `head_options` are arguments of its class.

    Raises:
        ValueError: unknown head or option; and what `create_backbone` raises.
    """
    if head not in HEADS:
        raise ValueError(f"head={head!r}: must be one of {', '.join(HEADS)}")
    for given, target in ((backbone_options, create_backbone), (head_options, HEADS[head])):
        allowed = set(inspect.signature(target).parameters) - {
            "name", "pretrained", "checkpoint", "image_size", "in_features", "num_classes"
        }  # fmt: skip
        for key in given or {}:
            if key not in allowed:
                raise ValueError(f"{key}: not an option of {target.__name__}; it has {', '.join(sorted(allowed))}")
    options = {"head_from_checkpoint": False, **(backbone_options or {})}
    backbone = create_backbone(
        name=name, pretrained=pretrained, checkpoint=checkpoint, image_size=image_size, **options
    )
    return Classifier(backbone, HEADS[head](backbone.num_features, num_classes, **(head_options or {})))
