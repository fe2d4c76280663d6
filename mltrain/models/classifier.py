"""Backbone and head as one classifier of raw images."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mltrain.errors import ConfigError, described
from mltrain.models.backbone import Backbone, Features, create_backbone
from mltrain.models.heads import CSRA, PFC, GlobalAveragePool, MLDecoder, Query2Label, ZeroShotMLDecoder
from mltrain.models.heads.common import BOTH, CLS, PATCHES
from mltrain.sizes import ImageSize

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
    checkpoint is evaluated with the values of its training. The memory format of the images is kept. Images become
    grey if the backbone takes one channel; images `(B, 1, H, W)` are taken as grey then.

    The head gets the tokens and, if its `forward` has an argument of that name, `grid`, (h, w), and `class_token`,
    (B, D).

    Instead of images, all methods take what `pack` has made of features, `(B, T, D)`. This is how a head is trained on
    the stored features of a frozen backbone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._head_takes = {"grid", "class_token"} & inspect.signature(head.forward).parameters.keys()
        self._class_tokens = getattr(backbone, "class_tokens", 0)
        pooled = getattr(head, "tokens", PATCHES)
        if isinstance(pooled, str) and pooled in (CLS, BOTH) and not self._class_tokens:
            raise ConfigError(
                f"head.tokens={pooled}: the backbone has no class token; use head.tokens={PATCHES}, the mean over the "
                "image"
            )
        self.register_buffer("mean", torch.tensor(backbone.mean).view(-1, 1, 1) * 255)  # in the images' unit, 0..255
        self.register_buffer("std", torch.tensor(backbone.std).view(-1, 1, 1) * 255)

    def normalize(self, images: Tensor) -> Tensor:
        if len(self.mean) == 1 and images.shape[1] == 3:
            images = _grey(images)
        return (images - self.mean).div_(self.std)

    def features(self, images: Tensor) -> Features:
        """Return the backbone's features of raw images, or those that `pack` has packed."""
        if images.ndim == 3:
            return self._unpack(images)
        return self.backbone(self.normalize(images))

    def pack(self, features: Features) -> Tensor:
        """Return what the head needs of features as one tensor, fp32 `(B, T, D)`: the prefix tokens, then the others.

        Of the others it is their mean alone, if the head says that this is all it uses (`uses_mean`).
        """
        tokens = features.tokens.float()
        if getattr(self.head, "uses_mean", False):
            tokens = tokens.mean(1, keepdim=True)
        return torch.cat((features.prefix.float(), tokens), 1)

    def _unpack(self, packed: Tensor) -> Features:
        prefix = self.backbone.num_prefix
        tokens = packed[:, prefix:].float()
        grid = (1, 1) if tokens.shape[1] == 1 else self.backbone.grid
        return Features(tokens, grid, packed[:, :prefix].float())

    def classify(self, features: Features) -> Tensor:
        """Return the head's logits for a backbone's features."""
        return self.head(features.tokens, **self.given(features))

    def given(self, features: Features) -> dict[str, Any]:
        """Return what the head takes besides the tokens."""
        found: dict[str, Any] = {}
        if "grid" in self._head_takes:
            found["grid"] = features.grid
        if "class_token" in self._head_takes and self._class_tokens:
            # Two of distilled models: their mean gives the mean of the two logits, as they are used.
            found["class_token"] = features.prefix[:, : self._class_tokens].mean(1)
        return found

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


def exact_features(model: Classifier, images: Tensor, amp_dtype: torch.dtype | None) -> Features:
    """Return the features for inference: the backbone under autocast (None: full precision), the result in fp32."""
    with torch.autocast(images.device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        features = model.features(images)
    return features.float()


def _grey(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of RGB images, as ITU-R 601 weighs the colours, in fp32."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    return (images.float() * weights.view(3, 1, 1)).sum(1, keepdim=True)


def check_head(model: Classifier, num_classes: int) -> None:
    """Run the head on blank tokens. Raises ConfigError unless it gives logits (B, C)."""
    tokens, training = torch.zeros(2, 4, model.backbone.num_features), model.head.training
    model.head.eval()
    try:
        with torch.no_grad():
            logits = model.classify(Features(tokens, (2, 2), tokens[:, : model._class_tokens]))
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
    image_size: ImageSize | None = None,
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
