"""Batch-norms folded into the convolutions before them, for inference."""

from __future__ import annotations

import copy

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from mltrain.sizes import ImageSize, height_width

CONVOLUTIONS = (nn.Conv2d, Conv2dSame)  # not their subclasses, which may change the weights in their forward
TOLERANCE = 1e-3
"""largest change of the features by folding, relative to their largest value (fp32 rounding gives 1e-5)"""


def folded(model: nn.Module, image_size: ImageSize, channels: int = 3) -> nn.Module:
    """Return a copy in evaluation mode whose batch-norms are part of the convolutions before them, or `model`.

    ``(W x - mean) * s + shift`` with ``s = weight / sqrt(var + eps)`` is the convolution ``(s W) x`` with the bias
    ``shift - s mean``. Running a random image shows which convolution feeds which batch-norm: in a pair, both are
    called once, and the batch-norm gets the output of the convolution. The activation inside timm's batch-norms stays.
    The copy then runs on the same image, and is dropped if its features differ, because a model may use such an output
    twice.

    Args:
        model: takes images `(B, channels, H, W)`, on the CPU.
        image_size: of the images, pixels.
        channels: of the images.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, channels, *height_width(image_size), generator=generator)
    with torch.inference_mode():
        before = _tensor(copied(images))
        pairs = _pairs(copied, images[:1])
    with torch.no_grad():
        for convolution, norm in pairs:
            _fold(convolution, norm)
    _replace(copied, {norm for _, norm in pairs})
    with torch.inference_mode():
        after = _tensor(copied(images))
    same = bool((after - before).abs().amax() <= TOLERANCE * before.abs().amax())
    return copied if pairs and same else model


def _tensor(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _pairs(model: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Find pairs (convolution, batch-norm), in the order of execution, in which the second takes the first's output."""
    calls: dict[nn.Module, int] = {}
    outputs: dict[int, tuple[Tensor, nn.Conv2d]] = {}  # holding the tensor keeps its id unique
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        calls[module] = calls.get(module, 0) + 1
        outputs[id(output)] = output, module

    def before_norm(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        calls[module] = calls.get(module, 0) + 1
        source = outputs.pop(id(args[0]), None)
        if source is not None and module.running_mean is not None and module.affine:
            found.append((source[1], module))

    hooks = []
    for module in model.modules():
        if type(module) in CONVOLUTIONS:
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_var is not None and norm.running_mean is not None
    # In fp64: the running variance of a dead channel is tiny, and its scale large.
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = 0.0 if convolution.bias is None else convolution.bias.double()
    shift = (bias - norm.running_mean.double()) * scale + norm.bias.double()
    weight = convolution.weight
    weight.copy_(weight.double() * scale.view(-1, 1, 1, 1))
    convolution.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)


def _replace(model: nn.Module, norms: set[nn.BatchNorm2d]) -> None:
    """Replace each batch-norm by the dropout and activation that timm's contain."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in norms:
                parts = (getattr(child, key, None) for key in ("drop", "act"))
                rest = [part for part in parts if part is not None]
                setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())
