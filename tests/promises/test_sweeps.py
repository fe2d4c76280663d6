"""Sweeps of real runs: jobs side by side, stopped and gone on with, give the very bits of single commands."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.promises.runs import assert_same, command, environment, execute, fit, records, state

SWEEP = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "loss=bce,asl"]
LENGTH = ["runner.epochs=10", "runner.evaluate_every=5"]


@pytest.mark.slow
def test_a_sweep_stopped_in_the_middle_goes_on_to_the_bits_of_single_runs(overrides: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = command("-m", *overrides, *LENGTH, *SWEEP)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        end = time.monotonic() + 120
        while len(list(tmp_path.glob("runs/shapes/*/*/last.pt"))) < 2:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "no checkpoint"
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 143, said
    stopped = {path.parent: state(path.parent)["step"] for path in tmp_path.glob("runs/shapes/*/*/last.pt")}
    assert any(0 < step < 50 for step in stopped.values()), said

    again = execute(words)
    assert "sweep: " in again.stderr
    assert "best mAP " in again.stderr
    for loss in ("bce", "asl"):
        folder = next(tmp_path.glob(f"runs/shapes/timm-gap-{loss}/[0-9a-f]*"))
        assert f"{json.loads((folder / 'result.json').read_text())['best']['map']:.2f}" in again.stderr
        alone = fit([*overrides, *LENGTH, f"loss={loss}", f"paths.runs={tmp_path}/alone"])
        assert alone.name == folder.name
        assert_same(state(folder), state(alone))
        assert records(folder) == records(alone)

    done = execute(words).stderr
    assert "2 jobs, 2 of them finished before" in done
    assert "sweep: 2 finished before" in done


def test_a_sweep_ends_with_a_page_that_compares_its_runs(overrides: list[str], tmp_path: Path) -> None:
    done = execute(command("-m", *overrides, "runner.epochs=1", "logger.report=true", "loss=bce,asl"))
    (page,) = tmp_path.glob("runs/multirun/*/comparison.html")
    assert f"comparison: {page}" in done.stderr
    assert {"bce", "asl"} <= set(page.read_text().replace('"', " ").replace(">", " ").replace("<", " ").split())
