"""Small finished runs on the drawn shapes, one of each task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.promises.runs import TINY, fit


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multi-label run."""
    place = tmp_path_factory.mktemp("run")
    return fit([*TINY, "runner.epochs=1", f"paths.data={place}/data", f"paths.runs={place}/runs"])


@pytest.fixture(scope="package")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 11 images of several sizes and kinds, some in a folder of its own, beside other files."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more" / "deep").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for k in range(11):
        size = generator.integers(20, 90, size=2)
        pixels = generator.integers(0, 256, size=(*size, 3), dtype=np.uint8)
        name = f"more/deep/{k}.png" if k > 8 else f"{k}.{'jpg' if k % 2 else 'png'}"
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    return folder
