"""Any timm model as a backbone: images in, feature tokens out, for every layout that timm uses."""

from __future__ import annotations

import logging
import math
import sys
from typing import Any, Literal, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.models import PretrainedCfg, get_deprecated_models
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import mltrain.models.tresnet  # noqa: F401  registers variants that timm lacks
from mltrain.errors import ConfigError
from mltrain.models.hub import check_hub, no_weights
from mltrain.models.recompute import check_supported, set_recompute
from mltrain.models.stages import distance_from_head, names_of_stages, names_without_decay
from mltrain.models.weights import BACKBONE, LoadReport, StoredWeights, load_by_name, read_stored
from mltrain.text import close_matches

logger = logging.getLogger(__name__)

# timm arguments that have their own key here, or would break the contract below
RESERVED = {
    "checkpoint_path": "model.checkpoint",
    "drop_path_rate": "model.drop_path",
    "img_size": "model.image_size",
    "drop_rate": "head.dropout",
    "num_classes": "the dataset",
    "global_pool": "head",
    "in_chans": "images are RGB",
    "features_only": "",
    "pretrained": "model.pretrained",
    "pretrained_cfg": "a tag in model.name",
    "pretrained_cfg_overlay": "a tag in model.name",
}


class Features(NamedTuple):
    """The features of a backbone; D is its `num_features`."""

    tokens: Tensor  # (B, N, D), N = h * w, row by row
    grid: tuple[int, int]  # (h, w)
    prefix: Tensor  # (B, P, D): CLS, distillation and register tokens; P may be 0

    @property
    def pooled(self) -> Tensor:
        """One vector an image (B, D): the mean of its tokens."""
        return self.tokens.mean(dim=1)


class Backbone(nn.Module):
    """A timm model (built with `num_classes=0`) under one contract: `forward(images (B, 3, H, W)) -> Features`.

    The constructor runs one blank image to find the layout of `forward_features`: the axis as long as the model's
    declared `num_features` tells NCHW, NHWC or NLC; the model declares its number of prefix tokens, and the rest must
    be a square grid.

    Between `forward_features` and its classifier, timm may have a LayerNorm after pooling (ConvNeXt, BEiT, EVA ...),
    which is applied to each token here, or a hidden layer (such as `conv_head` of MobileNetV3), which belongs to timm's
    classifier and is left out. Parameters that the tokens do not depend on are removed, so that they are not trained,
    averaged or saved.

    Attributes: `num_features` D, `image_size` (pixels, square), `mean` and `std` (of images in 0..1), `load_report`
    (None without a checkpoint file), `stored` (what the checkpoint has besides, for a head that starts from it; None
    where there is nothing to take over).
    """

    def __init__(
        self, model: nn.Module, *, image_size: int, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        super().__init__()
        self.model = model
        self.image_size = image_size
        self.mean = mean
        self.std = std
        self.load_report: LoadReport | None = None
        self.stored: StoredWeights | None = None
        self._frozen: list[str] = []  # modules kept in evaluation mode
        self._statistics_frozen = False
        self._recompute = False
        self._token_norm: str | None = None
        self._probe()

    @torch.enable_grad()
    def _probe(self) -> None:
        """Find layout and width by running one image; remove the parameters that the features do not depend on."""
        training = self.model.training
        self.model.eval()
        x = self._forward_features(torch.zeros(1, 3, self.image_size, self.image_size))
        self.model.train(training)
        declared = getattr(self.model, "num_features", None)
        if not isinstance(x, Tensor) or x.ndim not in (3, 4):
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ConfigError(f"its features are {shape}, not one map of tokens")
        self._prefix = 0
        if x.ndim == 4:
            layout = getattr(self.model, "output_fmt", "NCHW")
            if x.shape[1 if layout == "NCHW" else 3] != declared:
                layout = "NHWC" if x.shape[3] == declared else "NCHW"
            self.layout = layout
            self.num_features: int = x.shape[1 if layout == "NCHW" else 3]
        else:
            self.layout = "NLC"
            self.num_features = x.shape[2]
            prefix = getattr(self.model, "num_prefix_tokens", None)
            self._prefix = int(isinstance(getattr(self.model, "cls_token", None), Tensor)) if prefix is None else prefix
            side = math.isqrt(max(x.shape[1] - self._prefix, 0))
            if side == 0 or side * side != x.shape[1] - self._prefix:
                raise ConfigError(f"{x.shape[1]} tokens with {self._prefix} prefix tokens are no square grid")
        if self.num_features != declared:
            raise ConfigError(f"its features of shape {tuple(x.shape)} have no axis of num_features={declared}")
        for path in ("fc_norm", "head.norm"):
            norm = _submodule(self.model, path)
            if _norms_channels(norm, self.num_features):
                self._token_norm = path
        used = _parameters_behind(x)
        if self._token_norm:
            used |= {id(p) for p in self.model.get_submodule(self._token_norm).parameters()}
        _remove_unused(self.model, used)

    def forward(self, images: Tensor) -> Features:
        x = self._forward_features(images)
        if self.layout == "NCHW":
            grid = (x.shape[2], x.shape[3])
            x = x.flatten(2).transpose(1, 2)
        elif self.layout == "NHWC":
            grid = (x.shape[1], x.shape[2])
            x = x.flatten(1, 2)
        else:
            n = x.shape[1] - self._prefix
            h = round(math.sqrt(n * images.shape[2] / images.shape[3]))
            grid = (h, n // h)
        if self._token_norm:
            norm = self.model.get_submodule(self._token_norm)
            x = F.layer_norm(x, (self.num_features,), norm.weight, norm.bias, norm.eps)  # type: ignore[arg-type]
        return Features(x[:, self._prefix :], grid, x[:, : self._prefix])

    def _forward_features(self, images: Tensor) -> Tensor:
        return self.model.forward_features(images)  # type: ignore[operator]

    def freeze(self, *, stages: int, norm: bool | Literal["statistics"]) -> None:
        """Stop the training of the first `stages` stages (-1: all) and of every batch-norm, see `create_backbone`."""
        names = names_of_stages(self.model, stages)
        for name, parameter in self.model.named_parameters():
            if name in names:
                parameter.requires_grad_(False)
        if names:
            self._frozen = [
                path
                for path, module in self.model.named_modules()
                if (own := [n for n, _ in module.named_parameters(prefix=path)]) and names.issuperset(own)
            ]
        if norm:
            batch_norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
            if not batch_norms:
                value = "true" if norm is True else norm
                raise ConfigError(f"model.freeze_norm={value}: this model has no batch-norm; leave it false")
            if norm is True:
                for module in batch_norms:
                    module.requires_grad_(False)
            self._statistics_frozen = True
        self.train(self.training)

    def recompute(self) -> None:
        """Compute activations again in the backward pass, to save memory: gradient checkpointing, in training only."""
        self._recompute = True
        self.train(self.training)

    def distance_from_head(self) -> dict[str, int]:
        """Return the layers between each parameter and the head, see `stages.distance_from_head`."""
        return {f"model.{name}": distance for name, distance in distance_from_head(self.model).items()}

    def names_without_decay(self) -> set[str]:
        """Return the names of the parameters that the timm model exempts from weight decay."""
        return {f"model.{name}" for name in names_without_decay(self.model)}

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode, but keep frozen parts (batch-norm, dropout, stochastic depth) in evaluation mode."""
        super().train(mode)
        if self._recompute:
            set_recompute(self.model, mode)  # evaluation and export have nothing to save
        if mode:
            for path in self._frozen:
                self.model.get_submodule(path).eval()
            if self._statistics_frozen:
                for module in self.model.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self


def create_backbone(
    *,
    name: str,
    pretrained: bool = False,
    checkpoint: str | None = None,
    partial_checkpoint: bool = False,
    head_from_checkpoint: bool = True,
    image_size: int | None = None,
    drop_path: float | None = None,
    freeze_stages: int = 0,
    freeze_norm: bool | Literal["statistics"] = False,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
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
        image_size: pixels, square; None: the size of the weights of this name. Position embeddings are
            resampled.
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
    image_size = image_size if image_size is not None else cfg.input_size[-1]
    if image_size < 1:
        raise ConfigError(f"model.image_size={image_size}: must be a positive number of pixels")
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
            model, image_size=image_size, mean=_channels("mean", mean, cfg.mean), std=_channels("std", std, cfg.std)
        )
    except ConfigError as error:
        raise ConfigError(f"model.name={name}: cannot serve as a backbone: {error}") from error
    except (RuntimeError, AssertionError, ValueError) as error:
        raise _size_error(name, image_size, str(error)) from error
    if checkpoint is not None:
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
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


def _build(name: str, pretrained: bool, options: dict[str, Any], image_size: int) -> nn.Module:
    if pretrained and not timm.models.is_model_pretrained(name):
        raise ConfigError(f"model.pretrained=true: timm has no weights for {name}; use model.checkpoint=FILE or false")
    if pretrained:
        check_hub(name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except TypeError as error:
        own = {"drop_path_rate": "model.drop_path", "img_size": "model.image_size"}
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


def _check_patches(model: nn.Module, name: str, image_size: int) -> None:
    """Raise ConfigError if patches do not fill the image: timm would cut off the remaining pixels."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    step = size[0] if isinstance(size, tuple | list) else size
    if isinstance(step, int) and image_size % step:
        raise _size_error(name, image_size, f"its patches are {step} pixels", step)


def _size_error(name: str, image_size: int, reason: str, step: int = 32) -> ConfigError:
    cfg = _cfg(name)
    near = sorted({max(1, image_size // step) * step, (image_size // step + 1) * step})
    return ConfigError(
        f"model.image_size={image_size}: {name} cannot run at this size ({reason}). Its default is "
        f"{cfg.input_size[-1]}; multiples of {step} fit, the nearest are {' and '.join(map(str, near))}"
    )


def _channels(
    key: str, given: tuple[float, float, float] | None, default: tuple[float, ...]
) -> tuple[float, float, float]:
    values = tuple(float(v) for v in (default if given is None else given))
    if len(values) != 3 or (key == "std" and min(values) <= 0):
        raise ConfigError(
            f"model.{key}={list(values)}: must be three numbers{' above 0' if key == 'std' else ''}, one per channel"
        )
    return values[0], values[1], values[2]


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _norms_channels(module: nn.Module | None, width: int) -> bool:
    """Return whether `module` is a LayerNorm over the channels of one position, or timm's GroupNorm with one group."""
    if isinstance(module, nn.LayerNorm):
        return tuple(module.normalized_shape) == (width,)
    return isinstance(module, nn.GroupNorm) and module.num_groups == 1 and module.num_channels == width


def _parameters_behind(x: Tensor) -> set[int]:
    """Return the ids of the parameters that `x` depends on, from its autograd graph."""
    found: set[int] = set()
    seen: set[Any] = set()
    todo = [x.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        todo.extend(n for n, _ in node.next_functions)
    return found


def _remove_unused(module: nn.Module, used: set[int]) -> None:
    for name, child in module.named_children():
        ids = {id(p) for p in child.parameters()}
        if ids and not ids & used:
            setattr(module, name, nn.Identity())
        elif ids - used:
            _remove_unused(child, used)
    for parameter in module.parameters(recurse=False):
        if id(parameter) not in used:
            parameter.requires_grad_(False)
