"""TResNet variants that timm lacks, registered by name: `tresnet_xl_v2` and `tresnet_s`."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.tresnet import TResNet, checkpoint_filter_fn

__all__ = ["tresnet_s", "tresnet_xl_v2"]

# input in 0..1 without further normalisation; timm has no weights
_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "first_conv": "body.conv1.conv",
    "classifier": "head.fc",
}

default_cfgs = generate_default_cfgs({"tresnet_xl_v2": _CFG, "tresnet_s": _CFG})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> TResNet:
    return build_model_with_cfg(
        TResNet,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (1, 2, 3, 4), "flatten_sequential": True},
        **kwargs,
    )


@register_model
def tresnet_xl_v2(pretrained: bool = False, **kwargs: Any) -> TResNet:
    """Build the TResNet-XL of ML-Decoder (arXiv 2111.12933): bottleneck blocks 3, 8, 34, 5, width 1; D = 2048."""
    return _create("tresnet_xl_v2", pretrained, **{"layers": [3, 8, 34, 5], "v2": True, **kwargs})


@register_model
def tresnet_s(pretrained: bool = False, **kwargs: Any) -> TResNet:
    """Build TResNet-S as in ML-Decoder's code: blocks 3, 4, 6, 3, basic ones first, width 1; D = 2048."""
    return _create("tresnet_s", pretrained, **{"layers": [3, 4, 6, 3], **kwargs})
