"""Two sharded processes train as two whole ones do, resume exactly, and leave checkpoints that one process reads."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.promises.runs import (
    SMOOTH,
    assert_same,
    command,
    environment,
    execute,
    fit,
    records,
    state,
    stopped_ranks,
    torchrun,
)


@pytest.mark.slow
def test_two_sharded_ranks_train_as_whole_ones_and_resume_in_any_way(overrides: list[str], tmp_path: Path) -> None:
    # A val split of 25 images: the ranks evaluate different numbers of batches.
    options = [*overrides, *SMOOTH, "runner.epochs=6", "runner.batch_size=8", "runner.accumulate=2"]
    options += ["runner.eval_batch_size=4", "runner.keep_best=2", "runner.clip_grad_norm=20"]
    options += ["runner.checkpoint_every_minutes=0.001", "model.freeze_stages=1"]
    execute(torchrun(*options, f"paths.runs={tmp_path}/ddp"))
    execute(torchrun(*options, "runner.shard=true", f"paths.runs={tmp_path}/sharded"))
    ddp, sharded = (next((tmp_path / name).rglob("result.json")).parent for name in ("ddp", "sharded"))
    assert sharded.name == ddp.name, "sharding is no part of the identity"
    a, b = state(ddp), state(sharded)
    assert a.keys() == b.keys()
    assert [record["train_loss"] for record in b["history"]] == [
        pytest.approx(record["train_loss"], rel=1e-6) for record in a["history"]
    ]
    for name in ("best", "last"):
        assert_near(state(sharded, name), state(ddp, name))
    assert {path.name for path in sharded.glob("*.pt")} >= {"best.pt", "last.pt", "previous.pt"}
    assert len(list(sharded.glob("epoch-*.pt"))) == 2

    again = stopped_ranks([*options, "runner.shard=true"], tmp_path / "runs")
    assert 0 < state(again)["step"] < 30, "stopped while it ran"
    for name in ("whole", "one"):
        shutil.copytree(tmp_path / "runs", tmp_path / name, symlinks=True)  # runs/latest is one
    execute(torchrun(*options, "runner.shard=true"))
    assert_same(state(again), state(sharded))
    assert records(again) == records(sharded)
    execute(torchrun(*options, f"paths.runs={tmp_path}/whole"))
    one = fit([*options, f"paths.runs={tmp_path}/one"])
    for folder in (one, next((tmp_path / "whole").rglob("last.pt")).parent):
        assert_near(state(folder), state(ddp))

    figures = [json.loads((folder / "result.json").read_text())["ema"]["map"] for folder in (sharded, ddp)]
    assert figures[0] == pytest.approx(figures[1], abs=0.2)
    evaluated = execute([*command()[:1], "-m", "mltrain", "evaluate", str(sharded)])
    assert f"{figures[0]:.2f}" in evaluated.stdout + evaluated.stderr


def assert_near(a: dict, b: dict) -> None:  # type: ignore[type-arg]
    """The weights of two checkpoints, raw and averaged, differ by rounding alone."""
    for left, right in ((a["model"], b["model"]), (a["ema"]["module"], b["ema"]["module"])):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert value.shape == right[key].shape and value.dtype == right[key].dtype
            assert (value.double() - right[key].double()).abs().max() < 2e-4, key


@pytest.mark.slow
def test_callback_that_uses_a_sharded_model_is_told_what_to_do(overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "mypart.py").write_text(
        "from mltrain.callbacks import Callback\n\n\nclass Looks(Callback):\n"
        "    def evaluation(self, run):\n        run.model.state_dict()\n"
    )
    words = ["runner.shard=true", "callbacks=[{_target_: mypart.Looks}]", "paths.imports=[mypart]"]
    arguments = torchrun(*overrides, *SMOOTH, "runner.batch_size=8", *words)
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=240,
        env={**environment(), "PYTHONPATH": f"{environment()['PYTHONPATH']}:{tmp_path}"},
        check=False,
    )
    assert done.returncode == 1
    assert "a callback runs on one process, which has a part of the weights only" in done.stderr
