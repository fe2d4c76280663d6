"""Meaning of `head.tokens=auto`: the timm models that classify by their class token; torch-free.

The choice is part of a run's id, so it is made when a config is composed, without timm and torch, and the config of the
run states it. A config without `head.tokens` is of an earlier version, which pooled patches: it keeps that meaning.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from omegaconf import DictConfig, OmegaConf

AUTO = "auto"
BACKBONES = "mltrain.models.backbone.create_backbone"

# The first pattern that fits decides; tests/config/test_tokens.py compares them with timm's own `global_pool`.
_PATTERNS = (
    ("vit_relpos_*_cls_*", True),
    ("vit_*relpos_*", False),
    *((name, False) for name in ("*gap*", "*siglip*", "*_map_*", "*_rpn_*", "*dinov3*", "vit_pe_*")),
    *((name, True) for name in ("vit_*", "deit*", "flexivit_*", "eva*_clip_*", "test_vit", "mvitv2_*_cls")),
    *((name, True) for name in ("cait_*", "convit_*", "tnt_*", "volo_*", "xcit_*")),
)


def pools_class_token(name: str) -> bool:
    """Return whether the weights of a timm model were trained to classify by its class token alone."""
    base = name.partition(".")[0]
    return next((pools for pattern, pools in _PATTERNS if fnmatchcase(base, pattern)), False)


def resolve_tokens(cfg: DictConfig) -> None:
    """Replace `head.tokens=auto` in a composed config by ``cls`` or ``patches``, as the model's own weights pool."""
    head, model = cfg.get("head"), cfg.get("model")
    if not isinstance(head, DictConfig) or _plain(head, "tokens") != AUTO:
        return
    own = isinstance(model, DictConfig) and _plain(model, "_target_") == BACKBONES
    options = _plain(model, "timm_kwargs") if own else None
    head.tokens = (
        "cls"
        if own
        and pools_class_token(str(_plain(model, "name")))
        and _plain(model, "pool") != "timm"
        and not (isinstance(options, DictConfig) and "class_token" in options)
        else "patches"
    )


def _plain(node: DictConfig, key: str) -> object:
    """Return a value as it is written; None if it is missing."""
    return None if key not in node or OmegaConf.is_missing(node, key) else node.get(key)
