"""Fixtures of the promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.promises.runs import TINY


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def overrides(data_folder: Path, tmp_path: Path) -> list[str]:
    """Overrides of a tiny run whose folder is this test's own."""
    return [*TINY, f"paths.data={data_folder}", f"paths.runs={tmp_path}/runs"]
