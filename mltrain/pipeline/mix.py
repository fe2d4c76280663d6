"""Mixing the images of a batch, for multi-hot targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(kw_only=True, eq=False)
class BatchMix:
    """Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of a batch with a permutation of itself.

    Each batch draws one weight lambda ~ Beta(a, a) and one permutation. Mixup: ``lambda x1 + (1 - lambda) x2``.
    CutMix: a rectangle of relative area 1 - lambda at a random place comes from x2; lambda is then the area left of
    x1.

    Args:
        mixup, cutmix: a of the Beta distribution; 0 switches it off. If both are on, each batch uses one of
            them with equal chance.
        probability: of mixing a batch at all.
        targets: ``linear``: ``lambda y1 + (1 - lambda) y2``, unknown (-1) where the target of either image is unknown;
            ``union``: 1 where either is 1, else unknown where either is, else 0.

    Raises:
        ValueError: an argument is out of range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    targets: Literal["linear", "union"] = "linear"

    def __post_init__(self) -> None:
        mixup, cutmix = self.mixup, self.cutmix
        if not (0 <= mixup < math.inf and 0 <= cutmix < math.inf) or mixup == cutmix == 0:
            raise ValueError(f"mixup={mixup}, cutmix={cutmix}: must be 0 or more and finite, and one of them positive")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability}: must be in 0..1")
        if self.targets not in ("linear", "union"):
            raise ValueError(f"targets={self.targets!r}: must be linear or union")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix a batch.

        Args:
            images: uint8 or float (B, 3, H, W), on any device; not changed.
            targets: (B, C) of 1, 0 and -1.
            generator: a CPU generator, the only source of randomness.

        Returns:
            images in floating point (float32 for uint8), and targets in float32.
        """
        mixed = images if images.is_floating_point() else images.float()
        soft = targets.float()
        chance, kind, y, x = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        if len(images) < 2 or chance >= self.probability:
            return mixed, soft
        use_cutmix = self.cutmix > 0 and (self.mixup == 0 or kind < 0.5)
        weight = _beta(self.cutmix if use_cutmix else self.mixup, generator)
        partner = torch.randperm(len(images), generator=generator).to(images.device, non_blocking=True)
        if use_cutmix:
            height, width = images.shape[-2:]
            top, bottom = _span(height, math.sqrt(1 - weight), y)
            left, right = _span(width, math.sqrt(1 - weight), x)
            mixed = mixed.clone() if mixed is images else mixed
            mixed[..., top:bottom, left:right] = images[partner, :, top:bottom, left:right].to(mixed.dtype)
            weight = 1 - (bottom - top) * (right - left) / (height * width)
        else:
            mixed = torch.lerp(mixed[partner], mixed, weight)
        return mixed, self._mix_targets(soft, soft[partner], weight)

    def _mix_targets(self, first: torch.Tensor, second: torch.Tensor, weight: float) -> torch.Tensor:
        if weight == 1:
            return first
        if weight == 0:
            return second
        unknown = (first < 0) | (second < 0)
        if self.targets == "union":
            either = torch.maximum(first, second)
            return either.masked_fill_(unknown & (either < 1), -1)
        return torch.lerp(second, first, weight).masked_fill_(unknown, -1)


def _beta(a: float, generator: torch.Generator) -> float:
    """Draw from Beta(a, a), as a ratio of gammas."""
    # torch.distributions takes no generator; its Gamma uses this function.
    first, second = torch._standard_gamma(torch.full((2,), a, dtype=torch.float64), generator=generator).tolist()
    return first / (first + second) if first + second > 0 else 1.0


def _span(size: int, share: float, place: float) -> tuple[int, int]:
    """Return a range of `share` of `size`, centred on a random pixel and clipped."""
    centre, half = int(place * size), int(share * size) // 2
    return max(0, centre - half), min(size, centre + half)
