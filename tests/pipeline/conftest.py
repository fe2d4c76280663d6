"""A small set of photograph-like images and its LabelSet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mltrain.labels import LabelSet

COUNT, CLASSES = 22, 5


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth colours, uint8 (height, width, 3), far enough from 0 and 255 for jitter not to clip."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 80 + 90 * torch.rand(1, 3, 6, 6, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")
    return smooth[0].clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(COUNT):
        Image.fromarray(photograph(i, 40 + i, 90 - 2 * i)).save(folder / f"{i:02d}.jpg", quality=90)
    return folder


def make_labels(folder: Path) -> LabelSet:
    files = sorted(path.name for path in folder.iterdir())
    targets = np.random.default_rng(0).integers(-1, 2, (len(files), CLASSES)).astype(np.int8)
    return LabelSet.from_dense(
        name="test", root=folder, files=files, class_names=[f"c{k}" for k in range(CLASSES)], targets=targets
    )


def harmed_or_sound_jpeg(path: Path, seed: int, *, harmed: bool) -> None:
    """Write a JPEG file, with zeros amid its data if it is `harmed`: libjpeg decodes it with a warning."""
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    if harmed:
        data = bytearray(path.read_bytes())
        data[3000:3400] = bytes(400)
        path.write_bytes(data)


@pytest.fixture(scope="session")
def labels(image_folder: Path) -> LabelSet:
    return make_labels(image_folder)


@pytest.fixture
def damaged(tmp_path: Path) -> LabelSet:
    """12 images, of which 03.jpg is empty and 07.jpg is cut short."""
    for i in range(12):
        Image.fromarray(photograph(i, 40, 50)).save(tmp_path / f"{i:02d}.jpg", quality=90)
    (tmp_path / "03.jpg").write_bytes(b"")
    (tmp_path / "07.jpg").write_bytes((tmp_path / "07.jpg").read_bytes()[:500])
    return make_labels(tmp_path)
