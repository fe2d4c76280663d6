"""The features of a backbone: tokens on a grid and prefix tokens, for every layout that timm uses."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mltrain.errors import ConfigError
from mltrain.models.recompute import set_recompute
from mltrain.models.stages import distance_from_head, names_of_stages, names_without_decay
from mltrain.models.weights import LoadReport, StoredWeights
from mltrain.sizes import ImageSize, height_width, simplest


class Features(NamedTuple):
    """The features of a backbone; D is its `num_features`."""

    tokens: Tensor  # (B, N, D), N = h * w, row by row
    grid: tuple[int, int]  # (h, w)
    prefix: Tensor  # (B, P, D): CLS, distillation and register tokens; P may be 0

    @property
    def pooled(self) -> Tensor:
        """One vector per image (B, D): the mean of its tokens."""
        return self.tokens.mean(dim=1)

    def float(self) -> Features:
        """Return the features in fp32."""
        return Features(self.tokens.float(), self.grid, self.prefix.float())


class Backbone(nn.Module):
    """A timm model (built with `num_classes=0`) under one contract: `forward(images (B, K, H, W)) -> Features`.

    The constructor runs one blank image to find the layout of `forward_features`: the axis as long as the model's
    declared `num_features` tells NCHW, NHWC or NLC; the model declares its number of prefix tokens, and the rest must
    be a grid of the image's shape.

    Between `forward_features` and its classifier, timm may have a LayerNorm after pooling (ConvNeXt, BEiT, EVA ...),
    which is applied to each token here, or a hidden layer (such as `conv_head` of MobileNetV3), which belongs to timm's
    classifier and is left out. With `pool="timm"` the model pools as it does for its own classifier, by the class
    token, attention, a mean and a hidden layer ..., and the result is the only token. Parameters that the tokens do not
    depend on are removed, so that they are not trained, averaged or saved.

    Attributes: `num_features` D, `image_size` (pixels: the side of a square, or height and width), `grid` (h, w) of the
    tokens at that size, `num_prefix` P, `class_tokens` (how many of the prefix tokens, the first ones, were trained to
    stand for the image), `step` (pixels between two places
    of the last feature map, down and across), `mean` and `std` (of images in 0..1, one number for each of the K
    channels), `load_report` (None without a checkpoint file), `stored` (what the checkpoint has besides, for a head
    that starts from it; None where there is nothing to take over).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: ImageSize,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        pool: Literal["head", "timm"] = "head",
    ) -> None:
        super().__init__()
        self.model = model
        self.image_size = simplest(image_size)
        self.mean = mean
        self.std = std
        self.pool = pool
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
        x = self._forward_features(self.blank(self.image_size))
        if self.pool == "timm":
            x = self._find_pooled(x)
        else:
            self._find_layout(x)
        self.model.train(training)
        used = _parameters_behind(x)
        if self._token_norm:
            used |= {id(p) for p in self.model.get_submodule(self._token_norm).parameters()}
        _remove_unused(self.model, used)

    def _find_layout(self, x: Tensor) -> None:
        """Set layout, width, prefix and step for what `forward_features` gives for one image of `image_size`."""
        declared = getattr(self.model, "num_features", None)
        if not isinstance(x, Tensor) or x.ndim not in (3, 4):
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ConfigError(f"its features are {shape}, not one map of tokens")
        height, width = height_width(self.image_size)
        self.num_prefix = self.class_tokens = 0
        if x.ndim == 4:
            layout = getattr(self.model, "output_fmt", "NCHW")
            if x.shape[1 if layout == "NCHW" else 3] != declared:
                layout = "NHWC" if x.shape[3] == declared else "NCHW"
            self.layout = layout
            self.num_features: int = x.shape[1 if layout == "NCHW" else 3]
            grid = (x.shape[2], x.shape[3]) if layout == "NCHW" else (x.shape[1], x.shape[2])
        else:
            self.layout = "NLC"
            self.num_features = x.shape[2]
            prefix = getattr(self.model, "num_prefix_tokens", None)
            has_class = isinstance(getattr(self.model, "cls_token", None), Tensor)
            self.num_prefix = int(has_class) if prefix is None else prefix
            self.class_tokens = _class_tokens(self.model, self.num_prefix)
            count = x.shape[1] - self.num_prefix
            grid = _grid(count, height, width) if count > 0 else (0, 0)
            if grid[0] * grid[1] != count or not count or grid[0] * width != grid[1] * height:
                wanted = "square grid" if height == width else f"grid of the shape of {height} x {width} pixels"
                raise ConfigError(f"{x.shape[1]} tokens with {self.num_prefix} prefix tokens are no {wanted}")
        if self.num_features != declared:
            raise ConfigError(f"its features of shape {tuple(x.shape)} have no axis of num_features={declared}")
        self.grid = grid
        self.step = (max(1, round(height / grid[0])), max(1, round(width / grid[1])))
        for path in ("fc_norm", "head.norm"):
            norm = _submodule(self.model, path)
            if _norms_channels(norm, self.num_features):
                self._token_norm = path

    def _find_pooled(self, x: Tensor) -> Tensor:
        """Set the width for what the model pools by itself of `forward_features`, and return that."""
        if not hasattr(self.model, "forward_head"):
            raise ConfigError("model.pool=timm: timm has no forward_head of this model; use model.pool=head")
        try:
            self._find_layout(x)
        except ConfigError:  # CrossViT has several maps, for example
            self.step = height_width(self.image_size)
        self.layout = "pooled"
        self.num_prefix, self.class_tokens, self._token_norm, self.grid = 0, 0, None, (1, 1)
        pooled = self._pooled(x)
        if not isinstance(pooled, Tensor) or pooled.ndim != 2:
            raise ConfigError("model.pool=timm: its own pooling gives no vector; use model.pool=head")
        self.num_features = pooled.shape[1]
        return pooled

    def blank(self, size: ImageSize) -> Tensor:
        """Return an image (1, K, H, W) of zeros on the device of the model."""
        device = next((p.device for p in self.model.parameters()), None)
        return torch.zeros(1, len(self.mean), *height_width(size), device=device)

    @torch.no_grad()
    def check_size(self, size: ImageSize) -> None:
        """Raise ValueError, with the reason, if the model cannot take images of this size beside its own."""
        if simplest(size) == self.image_size:
            return
        training = self.training
        self.eval()
        try:
            self(self.blank(size))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(str(error).partition("\n")[0]) from error
        finally:
            self.train(training)

    def forward(self, images: Tensor) -> Features:
        x = self._forward_features(images)
        if self.layout == "pooled":
            x = self._pooled(x)[:, None]
            grid = (1, 1)
        elif self.layout == "NCHW":
            grid = (x.shape[2], x.shape[3])
            x = x.flatten(2).transpose(1, 2)
        elif self.layout == "NHWC":
            grid = (x.shape[1], x.shape[2])
            x = x.flatten(1, 2)
        else:
            grid = _grid(x.shape[1] - self.num_prefix, images.shape[2], images.shape[3])
        if self._token_norm:
            norm = self.model.get_submodule(self._token_norm)
            x = F.layer_norm(x, (self.num_features,), norm.weight, norm.bias, norm.eps)  # type: ignore[arg-type]
        return Features(x[:, self.num_prefix :], grid, x[:, : self.num_prefix])

    def _pooled(self, x: Tensor) -> Tensor:
        return self.model.forward_head(x, pre_logits=True)  # type: ignore[operator]

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

    @property
    def is_frozen(self) -> bool:
        """True if no training changes its features: no parameter is trained, no part is in training mode."""
        was = self.training
        self.train()
        trained = any(p.requires_grad for p in self.parameters())
        frozen = not trained and not any(m.training for m in self.model.modules())
        self.train(was)
        return frozen

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


def _class_tokens(model: nn.Module, prefix: int) -> int:
    """Return how many of the prefix tokens are class or distillation tokens, which timm puts before the registers."""
    place = getattr(model, "embeds", model)  # of NaFlexViT
    return min(prefix, sum(isinstance(getattr(place, key, None), Tensor) for key in ("cls_token", "dist_token")))


def _grid(count: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of `count` tokens of an image of this size, whose patches are square."""
    rows = max(1, round(math.sqrt(count * height / width)))
    return rows, count // rows


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
