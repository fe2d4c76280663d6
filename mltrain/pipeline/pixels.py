"""Colour changes of one image, uint8 (3, H, W): the result has the same strides, and the input does not change."""

from __future__ import annotations

import itertools

import torch

from mltrain.pipeline.crops import below

PHOTOMETRIC_DRAWS = 10
_PERMUTATIONS = tuple(itertools.permutations(range(3)))


def jitter(image: torch.Tensor, brightness: float, contrast: float, saturation: float) -> torch.Tensor:
    """Apply the three factors in turn, as torchvision's `adjust_*` on floats; round and clip once, at the end."""
    # b x = y, then c y + (1 - c) mean(grey(y)) = z, then s z + (1 - s) grey(z), multiplied out.
    # Plane by plane: broadcasting the grey over interleaved channels takes twice as long.
    planes = [plane.float() for plane in image]
    grey = (planes[0] * 0.299).add_(planes[1], alpha=0.587).add_(planes[2], alpha=0.114)
    offset = (1 - contrast) * brightness * float(grey.mean())
    grey.mul_((1 - saturation) * contrast * brightness).add_(offset + 0.5)
    result = torch.empty_like(image)
    for k, plane in enumerate(planes):
        result[k] = plane.mul_(saturation * contrast * brightness).add_(grey).clamp_(0, 255)
    return result


def photometric(image: torch.Tensor, draws: list[float]) -> torch.Tensor:
    """Apply the photometric distortion of SSD (Liu et al., arXiv 1512.02325), as Distribution-Balanced Loss ran it.

    Each with probability 1/2: brightness, +U(-32, 32); contrast, times U(0.5, 1.5); saturation, times U(0.5, 1.5), and
    hue, +U(-18, 18) degrees, both in HSV; a random permutation of the channels. Ten draws in [0, 1): switch and amount
    of each. Values are rounded and clipped to 0..255 once, at the end. (The published code works on floats and never
    clips; it applies contrast before or after HSV at random, which is equal: scaling keeps hue and saturation.)
    """
    on = [draws[2 * k] < 0.5 for k in range(5)]
    amount = draws[1::2]
    brightness = 64 * amount[0] - 32 if on[0] else 0.0
    contrast = 0.5 + amount[1] if on[1] else 1.0
    saturation = 0.5 + amount[2] if on[2] else 1.0
    channels = _PERMUTATIONS[below(6, amount[4])] if on[4] else _PERMUTATIONS[0]
    if not any(on):
        return image
    planes = [plane.contiguous() for plane in image]
    offset = contrast * brightness + 0.5
    if on[2] or on[3]:
        value = torch.maximum(torch.maximum(planes[0], planes[1]), planes[2])
        # Saturation only scales V - x, for each channel x, and hue only moves it between channels. So V, V - x and
        # brightness are combined at the end.
        base = value.float()
        if on[3]:
            missing = _missing(planes, value, (36 * amount[3] - 18) / 60)
        else:
            missing = [base - plane for plane in planes]
        base = base.mul_(contrast).add_(offset)
        planes = [torch.add(base, part, alpha=-saturation * contrast) for part in missing]
    elif on[0] or on[1]:
        planes = [plane.float().mul_(contrast).add_(offset) for plane in planes]
    result = torch.empty_like(image)
    for k, source in enumerate(channels):
        result[k] = planes[source].clamp_(0, 255)
    return result


def _missing(planes: list[torch.Tensor], value: torch.Tensor, shift: float) -> list[torch.Tensor]:
    """Return V - x of the three channels after a shift of the hue by `shift` sextants (60 degrees), -1 to 1."""
    red, green, blue = (plane.float() for plane in planes)
    is_red, is_green = (planes[0] == value).float(), (planes[1] == value).float()
    chroma = (value - torch.minimum(torch.minimum(planes[0], planes[1]), planes[2])).float()
    # Choices by lerp, exact for weights 0 and 1: torch.where takes six times as long.
    hue = torch.lerp(torch.lerp(red - green, blue - red, is_green), green - blue, is_red)
    hue.div_(chroma.clamp_min(1))  # a grey pixel has numerator 0, and its hue does not matter
    hue.add_(is_green.mul_(-2).add_(4).mul_(is_red.neg_().add_(1))).add_(shift)
    hue.add_((hue < 0).float(), alpha=6)
    # The share of the chroma that a channel lacks rises and falls around the circle, flat at 0 and 1 for two sextants.
    lacks = [(hue - 3).abs_().neg_().add_(2), (hue - 2).abs_().sub_(1), (hue - 4).abs_().sub_(1)]
    return [part.clamp_(0, 1).mul_(chroma) for part in lacks]


def cut_out(image: torch.Tensor, factor: float, draws: list[float], *, inclusive: bool = False) -> torch.Tensor:
    """Fill a rectangle of `factor` of each side, around a random pixel, with a random colour; five draws.

    `inclusive` also fills the row below and the column to the right, as Pillow's `rectangle` does.
    """
    height, width = image.shape[1:]
    h, w = int(factor * height + 0.5), int(factor * width + 0.5)
    centre_y, centre_x = below(height, draws[0]), below(width, draws[1])
    top, left = max(0, centre_y - h // 2), max(0, centre_x - w // 2)
    bottom, right = (min(height, centre_y + h // 2 + inclusive), min(width, centre_x + w // 2 + inclusive))
    colour = torch.tensor([below(256, u) for u in draws[2:]], dtype=torch.uint8)
    result = image.clone()  # `image` may belong to the caller, or to a cache
    result[:, top:bottom, left:right] = colour[:, None, None]
    return result
