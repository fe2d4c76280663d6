"""Transforms of the user: forms of images, random numbers, and what is said of one that fails."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mltrain.errors import ConfigError
from mltrain.pipeline.own_transform import OwnTransform

IMAGE = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
EXPECTED = torch.from_numpy(IMAGE).permute(2, 0, 1)


def own(transform: Any, *, draws: bool = True) -> OwnTransform:
    return OwnTransform(transform, image_size=4, where="augment (mine.Mine)", draws=draws)


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: image,
        lambda image: image[::-1][::-1],
        Image.fromarray,
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: torch.from_numpy(image).permute(2, 0, 1).float() / 255,
        v2.Identity(),
        v2.Compose([v2.Resize((4, 4)), v2.ToImage()]),
    ],
)
def test_arrays_tensors_and_pillow_images_are_taken(transform: Any) -> None:
    result = own(transform)(IMAGE)
    assert result.dtype == torch.uint8 and torch.equal(torch.as_tensor(result), EXPECTED)


def test_all_random_numbers_follow_torchs_generator() -> None:
    def noisy(image: np.ndarray) -> np.ndarray:
        values = [random.random(), np.random.random(), float(torch.rand(()))]
        return (image * 0 + 255 * np.array(values)).astype(np.uint8)

    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        random.seed()
        np.random.seed()
        found.append(own(noisy)(IMAGE))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (lambda image: image[:3], r"returned an image of shape \(3, 3, 4\), expected \(3, 4, 4\)"),
        (lambda image: None, r"returned an image of shape \(\)"),
        (lambda image: torch.full((3, 4, 4), -1.0), "leave normalisation out"),
        (lambda image: image[0, 0, 9], r"augment \(mine.Mine\) failed: IndexError.*\n.*test_own_transform.py, line"),
    ],
)
def test_what_fails_is_named(transform: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        own(transform, draws=False)(IMAGE)
    with pytest.raises(ConfigError, match="cannot be called with an image"):
        own(3)
