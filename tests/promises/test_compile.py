"""torch.compile, where a C++ compiler is at hand: minutes of compilation, so behind the slow marker."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.promises.runs import fit, state


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_training_follows_eager_training(overrides: list[str], tmp_path: Path) -> None:
    runs = [fit([*overrides, f"runner.compile={c}", f"paths.runs={tmp_path}/{c}"]) for c in ("false", "true")]
    losses = [[record["train_loss"] for record in state(folder)["history"]] for folder in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert state(runs[1])["model"].keys() == state(runs[0])["model"].keys(), "no prefix of the compiled wrapper"
