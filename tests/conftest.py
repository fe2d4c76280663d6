"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# torch reads it when a process first multiplies matrices on a GPU, which may be long before a deterministic training.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
SHARED = Path(__file__).resolve().parents[2] / "shared"
# Files with minutes of work. They begin first, so that the last worker to end is not one that began with them late.
LONG = (
    "promises/test_resume",
    "promises/test_documented_commands",
    "config/test_sweeps",
    "promises/test_distributed",
    "promises/test_runs",
    "promises/test_killed",
    "config/test_numbers",
    "losses/test_compiled",
    "promises/test_stops",
    "promises/test_loss_state",
    "promises/test_partial_runs",
    "promises/test_locale",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"tests/{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONG)))


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
