"""One small trained run, shared by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.promises.runs import TINY, fit


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with raw and EMA weights."""
    folder = tmp_path_factory.mktemp("export")
    options = ["runner.epochs=1", "head=ml_decoder", "head.dim=32", "head.num_heads=4", "head.ffn_dim=64"]
    return fit([*TINY, *options, "logger.report=false", f"paths.data={folder}/data", f"paths.runs={folder}/runs"])
