"""Any `torch.nn.Module` as a backbone: images in, features of any of the usual shapes out."""

from __future__ import annotations

import logging
from typing import Any, Literal

from torch import Tensor, nn

from mltrain.errors import ConfigError, described
from mltrain.models.backbone import Backbone
from mltrain.models.weights import load_by_name, read_state_dict
from mltrain.sizes import ImageSize, height_width, simplest

logger = logging.getLogger(__name__)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""of ImageNet, for images in 0..1"""
IMAGE_SIZE = 224


class _Features(nn.Module):
    """A module under the names that `Backbone` asks a timm model for."""

    num_prefix_tokens = 0

    def __init__(self, module: nn.Module, num_features: int | None) -> None:
        super().__init__()
        self.module = module
        self.num_features = num_features

    def forward_features(self, images: Tensor) -> Tensor:
        """Return a map (B, D, h, w) or tokens (B, N, D); one vector for an image becomes a map of one position."""
        forward = getattr(self.module, "forward_features", self.module)
        x: Tensor = forward(images)
        if isinstance(x, Tensor) and x.ndim == 2:
            x = x[:, :, None, None]
        if self.num_features is None and isinstance(x, Tensor):
            self.num_features = x.shape[1] if x.ndim == 4 else x.shape[-1]
        return x


def wrap_backbone(
    made: Any,
    *,
    image_size: ImageSize | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    checkpoint: str | None = None,
    freeze_stages: Literal[0, -1] = 0,
    freeze_norm: bool | Literal["statistics"] = False,
) -> Backbone:
    """Make a backbone of a module.

    Its `forward` (or `forward_features`, if it has one) takes normalised images (B, 3, H, W) and returns a map
    (B, D, h, w), tokens (B, N, D) of a grid of the image's shape, or vectors (B, D).

    Args:
        made: a module; a `Backbone` is returned as it is.
        image_size: pixels: the side of a square, or (height, width); None: the module's attribute `image_size`, or else
            224.
        mean, std: of the input in 0..1 per channel; None: the module's attributes, or else those of ImageNet.
        checkpoint: a weights file of the module, see `weights.read_state_dict`.
        freeze_stages: 0 none, -1 the whole backbone.
        freeze_norm: as in `create_backbone`.

    Raises:
        ConfigError: it is no module, or what it returns has another shape.
        CheckpointError: the file cannot be read or does not fit.
    """
    options = {k: v for k, v in locals().items() if k != "made" and v not in (None, 0, False)}
    if isinstance(made, Backbone):
        if options:
            raise ConfigError(f"it returns a Backbone, which has no use for {', '.join(options)}")
        return made
    if not isinstance(made, nn.Module):
        raise ConfigError(f"it is {type(made).__module__}.{type(made).__qualname__}, not a torch.nn.Module")
    try:
        size = simplest(image_size or getattr(made, "image_size", None) or IMAGE_SIZE)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"its {error}") from error
    module = _Features(made, getattr(made, "num_features", None))
    channels: Any = {"mean": mean or getattr(made, "mean", MEAN), "std": std or getattr(made, "std", STD)}
    try:
        backbone = Backbone(module, image_size=size, **channels)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; return a map (B, D, h, w), tokens (B, N, D) of a square grid, or vectors (B, D)"
        ) from error
    except Exception as error:
        raise ConfigError(f"it cannot run on an image {(1, 3, *height_width(size))}: {described(error)}") from error
    if checkpoint is not None:
        state = read_state_dict(checkpoint)
        backbone.load_report = load_by_name(made, state, source=str(checkpoint))
        logger.info("%s", backbone.load_report)
    backbone.freeze(stages=freeze_stages, norm=freeze_norm)
    return backbone
