"""Transforms of the user and of torchvision, under the contract of the pipeline."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

from mltrain.errors import ConfigError, described
from mltrain.sizes import ImageSize, height_width


class OwnTransform:
    """A transform that is not ours, as `Transform`: uint8 RGB (H, W, 3) -> uint8 (3, h, w) of `image_size`.

    A torchvision transform gets a uint8 tensor (3, H, W), any other the array. They may return a tensor (3, h, w), an
    array (h, w, 3) or a Pillow image, uint8 or float in 0..1.

    Args:
        transform: called with one image.
        image_size: S, the side of a square, or (height, width), pixels.
        where: its place in the config, for messages.
        draws: seed NumPy and Python for each image too, from torch's generator, which the loader seeds: so what the
            transform draws depends on the run's seed alone.
    """

    def __init__(self, transform: Callable[[Any], Any], *, image_size: ImageSize, where: str, draws: bool) -> None:
        if not callable(transform):
            raise ConfigError(f"{where}: {type(transform).__qualname__} cannot be called with an image; see __call__")
        self.transform, self.image_size, self.where, self.draws = transform, image_size, where, draws

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        if self.draws:
            seed = int(torch.randint(2**31, ()))
            random.seed(seed)
            np.random.seed(seed)
        given: Any = image
        if isinstance(self.transform, v2.Transform):
            given = torch.from_numpy(image).permute(2, 0, 1)
        try:
            result = self.transform(given)
        except Exception as error:
            raise ConfigError(f"{self.where} failed: {described(error)}") from error
        return self._checked(result)

    def _checked(self, result: Any) -> torch.Tensor:
        expected = (3, *height_width(self.image_size))
        if not isinstance(result, torch.Tensor):
            array = np.asarray(result)  # a Pillow image too
            result = torch.from_numpy(array.copy()).permute(2, 0, 1) if array.ndim == 3 and array.size else array
        if not isinstance(result, torch.Tensor) or tuple(result.shape) != expected:
            shape = tuple(getattr(result, "shape", ()))
            raise ConfigError(
                f"{self.where}: returned an image of shape {shape}, expected {expected}, "
                "(3, height, width) of image_size, which the class is given if its __init__ has that argument (one "
                "number for a square, or two)"
            )
        if result.dtype == torch.uint8:
            return result
        if result.is_floating_point() and float(result.min()) >= 0 and float(result.max()) <= 1:
            return (result * 255).round().to(torch.uint8)
        raise ConfigError(
            f"{self.where}: returned {result.dtype} from {float(result.min()):.3g} to {float(result.max()):.3g}; "
            "expected uint8, or float in 0..1: leave normalisation out, the model does it"
        )

    def __repr__(self) -> str:
        return f"OwnTransform({self.transform!r}, image_size={self.image_size})"
