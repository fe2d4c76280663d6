"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and labels that may stand beside a checkout; the test is skipped where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no shared/data beside this checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder of pretrained weights that may stand beside a checkout; the test is skipped where it is absent."""
    if not (SHARED / "weights").is_dir():
        pytest.skip("no shared/weights beside this checkout")
    return SHARED / "weights"


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    """One thread a worker: the suite runs in parallel processes."""
    import torch

    torch.set_num_threads(1)
