"""Any timm model as a backbone: images in, feature tokens out, for every layout that timm uses."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import timm
from timm.models import PretrainedCfg, get_deprecated_models
from torch import nn

import mltrain.models.tresnet  # noqa: F401  registers variants that timm lacks
from mltrain.errors import ConfigError
from mltrain.models.features import Backbone, Features
from mltrain.models.first_layer import IN_CHANS, adapt_first_layer
from mltrain.models.hub import check_hub, no_weights
from mltrain.models.recompute import check_supported
from mltrain.models.weights import BACKBONE, load_by_name, read_stored
from mltrain.sizes import ImageSize, height_width, simplest, spelled
from mltrain.text import close_matches

__all__ = ["Backbone", "Features", "create_backbone"]

logger = logging.getLogger(__name__)

# timm arguments that have their own key here, or would break the contract below
RESERVED = {
    "checkpoint_path": "model.checkpoint",
    "drop_path_rate": "model.drop_path",
    "img_size": "model.image_size",
    "drop_rate": "head.dropout",
    "num_classes": "the dataset",
    "global_pool": "head, and model.pool",
    "in_chans": "model.in_chans",
    "features_only": "",
    "pretrained": "model.pretrained",
    "pretrained_cfg": "a tag in model.name",
    "pretrained_cfg_overlay": "a tag in model.name",
}


def create_backbone(
    *,
    name: str,
    pretrained: bool = False,
    checkpoint: str | None = None,
    partial_checkpoint: bool = False,
    head_from_checkpoint: bool = True,
    image_size: ImageSize | None = None,
    in_chans: int = 3,
    pool: Literal["head", "timm"] = "head",
    drop_path: float | None = None,
    freeze_stages: int = 0,
    freeze_norm: bool | Literal["statistics"] = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    timm_kwargs: dict[str, Any] | None = None,
    grad_checkpointing: bool = False,
) -> Backbone:
    """Build a backbone by the name of a timm model.

    Args:
        name: a timm model, with or without a weights tag (`resnet50`, `vit_base_patch16_224.augreg_in21k`).
        pretrained: download timm's weights of that name; ignored with a `checkpoint`.
        checkpoint: a weights file instead, see `weights.read_state_dict`; timm converts names of other projects that it
            knows.
        partial_checkpoint: accept a file that lacks some of the model's weights.
        head_from_checkpoint: keep the head of a checkpoint of mltrain in `stored`, so that the new head can start from
            it, class by class; see `mltrain.runs.warm_start`.
        image_size: pixels: the side of a square, or (height, width); None: the size of the weights of this name.
            Position embeddings are resampled.
        in_chans: 3 for RGB, 1 for grey; the first layer of weights for RGB is adapted as timm does it, and `Classifier`
            makes RGB images grey.
        pool: ``"head"``: the head gets all tokens and pools them; ``"timm"``: it gets one vector, which the timm model
            pools as for its own classifier, with the layers that its weights have for that (class token, attention
            pooling of SigLIP, `conv_head` of MobileNetV3 ...).
        drop_path: rate of stochastic depth in [0, 1); None: the timm model's default (0.1 for Swin, 0 for most).
        freeze_stages: 0 none, 1 the stem, 2 also the first stage (block of a plain ViT), ..., -1 the whole backbone.
            Stages are timm's own coarse layer groups. Frozen parts stay in evaluation mode.
        freeze_norm: ``True``: batch-norm layers keep their running statistics, scale and shift; ``"statistics"``: they
            keep only the statistics, and also normalise with them in training (mmdetection's `norm_eval`).
        mean, std: of the input in 0..1 per channel; None: those of the weights of this name (TResNet: 0 and 1).
        timm_kwargs: further arguments of the timm model (`{pad_type: same}`); one that timm does not know is an error.
        grad_checkpointing: compute activations again in the backward pass instead of keeping them.

    Raises:
        ConfigError: unknown name, a size the model cannot take, or a setting that does not apply to the model.
        CheckpointError: the file cannot be read or does not fit.
        MltrainError: timm's weights cannot be downloaded.
    """
    _check_name(name)
    options = dict(timm_kwargs or {})
    for key in options.keys() & RESERVED.keys():
        raise ConfigError(f"model.timm_kwargs.{key}: not allowed here; it is set by {RESERVED[key] or 'the framework'}")
    cfg = _cfg(name)
    try:
        image_size = simplest(cfg.input_size[-1] if image_size is None else image_size)
    except ValueError as error:
        raise ConfigError(f"model.{error}") from error
    if in_chans not in IN_CHANS:
        raise ConfigError(f"model.in_chans={in_chans}: images are read as RGB, so it is 3 (RGB) or 1 (made grey)")
    if in_chans != 3:
        options["in_chans"] = in_chans
    if cfg.fixed_input_size:
        options["img_size"] = image_size
    if drop_path is not None:
        if not 0 <= drop_path < 1:
            raise ConfigError(f"model.drop_path={drop_path}: must be at least 0 and below 1")
        options["drop_path_rate"] = drop_path
    model = _build(name, pretrained and checkpoint is None, options, image_size)
    if drop_path and not any(getattr(m, "drop_prob", 0) > 0 for m in model.modules() if "DropPath" in type(m).__name__):
        raise ConfigError(f"model.drop_path={drop_path}: {name} has no stochastic depth; leave it null")
    _check_patches(model, name, image_size)
    try:
        backbone = Backbone(
            model,
            image_size=image_size,
            mean=_channels("mean", mean, cfg.mean, in_chans),
            std=_channels("std", std, cfg.std, in_chans),
            pool=pool,
        )
    except ConfigError as error:
        raise ConfigError(f"model.name={name}: cannot serve as a backbone: {error}") from error
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _size_error(name, image_size, str(error)) from error
    if checkpoint is not None:
        converter = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        convert = adapt_first_layer(converter, cfg.first_conv)
        stored = read_stored(checkpoint)
        state = stored.part(BACKBONE) if stored.of_classifier else stored.tensors
        backbone.load_report = load_by_name(
            model, state, source=str(checkpoint), convert=convert, partial=partial_checkpoint
        )
        logger.info("%s%s", backbone.load_report, stored.note(backbone.load_report, head_from_checkpoint))
        backbone.stored = stored if stored.of_classifier and head_from_checkpoint else None
    elif partial_checkpoint:
        raise ConfigError("model.partial_checkpoint=true: there is no model.checkpoint; leave it false")
    backbone.freeze(stages=freeze_stages, norm=freeze_norm)
    if grad_checkpointing:
        check_supported(model, name)
        backbone.recompute()
    return backbone


def _check_name(name: str) -> None:
    base, _, tag = name.partition(".")
    if base in get_deprecated_models():
        raise ConfigError(f"model.name={name}: timm now calls it {get_deprecated_models()[base]}")
    if not timm.is_model(base):
        near = close_matches(base, timm.list_models(), 5, 0.5)
        raise ConfigError(
            f"model.name={name}: timm {timm.__version__} has no such model; nearest: {', '.join(near) or 'none'}"
        )
    tags = [n.partition(".")[2] for n in timm.list_models(f"{base}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ConfigError(
            f"model.name={name}: {base} has no weights tagged {tag!r}; its tags: {', '.join(tags) or 'none'}"
        )


def _cfg(name: str) -> PretrainedCfg:
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _build(name: str, pretrained: bool, options: dict[str, Any], image_size: ImageSize) -> nn.Module:
    if pretrained and not timm.models.is_model_pretrained(name):
        raise ConfigError(f"model.pretrained=true: timm has no weights for {name}; use model.checkpoint=FILE or false")
    if pretrained:
        check_hub(name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        own = {"drop_path_rate": "model.drop_path", "img_size": "model.image_size", "in_chans": "model.in_chans"}
        keys = ", ".join(f"{own.get(k, f'model.timm_kwargs.{k}')}={v}" for k, v in options.items())
        raise ConfigError(f"model.name={name}: the model cannot take one of {keys} ({error})") from error
    except (AssertionError, ValueError) as error:
        raise _size_error(name, image_size, str(error)) from error
    except Exception as error:
        if not pretrained:
            raise
        # without a network the hub's client raises errors of several libraries
        raise no_weights(name, f"{type(error).__name__}: {error}") from error
    return model


def _check_patches(model: nn.Module, name: str, image_size: ImageSize) -> None:
    """Raise ConfigError if patches do not fill the image: timm would cut off the remaining pixels."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    step = size[0] if isinstance(size, tuple | list) else size
    if isinstance(step, int) and any(side % step for side in height_width(image_size)):
        raise _size_error(name, image_size, f"its patches are {step} pixels", step)


def _size_error(name: str, image_size: ImageSize, reason: str, step: int = 32) -> ConfigError:
    cfg, (height, width) = _cfg(name), height_width(image_size)
    near = [sorted({max(1, side // step) * step, (side // step + 1) * step}) for side in (height, width)]
    fits = [spelled(simplest((h, w))) for h, w in zip(*near, strict=False)]
    return ConfigError(
        f"model.image_size={spelled(image_size)}: {name} cannot run at this size ({reason}). Its default is "
        f"{cfg.input_size[-1]}; multiples of {step} fit, the nearest are {' and '.join(fits)}"
    )


def _channels(key: str, given: tuple[float, ...] | None, default: tuple[float, ...], count: int) -> tuple[float, ...]:
    """Return mean or std of `count` channels; by default of RGB, or the average of the three for grey."""
    if given is None:
        return tuple(map(float, default)) if count == len(default) else (sum(default) / len(default),) * count
    values = tuple(map(float, given))
    if len(values) != count or (key == "std" and min(values) <= 0):
        above = " above 0" if key == "std" else ""
        needed = f"three numbers{above}, one per channel" if count == 3 else f"one number{above}: [{key} of grey]"
        raise ConfigError(f"model.{key}={list(values)}: must be {needed}")
    return values
