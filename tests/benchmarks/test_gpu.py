"""The benchmark of a GPU runs the first time: its parts at tiny sizes on the CPU."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_parts
from benchmarks.gpu_parts import TINY, Bench
from benchmarks.one_step_behind import OneStepBehind
from mltrain.engine import distributed
from mltrain.engine.step import TrainStep
from mltrain.errors import NonFiniteError
from mltrain.losses import AsymmetricLoss
from mltrain.optim import ModelEma, OneCycle, adam, adamw, sgd
from mltrain.pipeline.batch import Batch
from tests.promises.runs import ROOT, environment

STAMP = {"device": "CPU", "torch": "1", "commit": "abc", "sizes": "tiny"}


@pytest.mark.parametrize("part", ["losses", "average precision", "EMA", "vit_base 224"])
def test_a_part_measures_and_becomes_a_table(part: str, tmp_path: Path) -> None:
    records = gpu.Records(tmp_path, STAMP)
    gpu.measure(part, Bench("cpu", TINY, tmp_path), records)
    (rows,) = records.read().values()
    assert rows.pop("done") == {} and rows, "figures are there, and the part does not run again"
    for row in rows.values():
        assert all(value > 0 for key, value in row.items() if "images/s" in key or key.endswith((" us", " ms")))
    text = gpu.markdown({part: rows}, STAMP)
    assert text.startswith("CPU, torch 1, commit abc") and all(f"| {name} | " in text for name in rows)
    assert gpu.Records(tmp_path, {**STAMP, "commit": "def"}).read() == {}, "figures of another commit do not count"


def test_a_part_that_fails_says_so_and_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(bench: Bench) -> Iterator[dict[str, Any]]:
        yield {"row": "first", "ms": 1.0}
        raise RuntimeError("CUDA error")

    monkeypatch.setitem(gpu.PARTS, "losses", (failing, 1))
    records = gpu.Records(tmp_path, STAMP)
    with pytest.raises(RuntimeError):
        gpu.measure("losses", Bench("cpu", TINY, tmp_path), records)
    assert not records.is_done("losses") and records.read()["losses"]["first"] == {"ms": 1.0}
    assert "losses failed: RuntimeError: CUDA error" in gpu.markdown(records.read(), STAMP)


def test_a_batch_that_does_not_fit_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fits(bench: Bench, name: str, size: int, batch: int, compiled: bool, folder: Path) -> dict[str, float]:
        tried.append(batch)
        if batch > 2:
            raise torch.OutOfMemoryError
        return {"ours images/s": 1.0}

    monkeypatch.setattr(gpu_parts, "_training", fits)
    rows = list(gpu_parts.training(Bench("cpu", dataclasses.replace(TINY, batch=8), tmp_path), "test_resnet", 32))
    assert tried == [8, 4, 2] and rows == [{"row": "test_resnet 32 px eager", "batch": 2, "ours images/s": 1.0}]


def test_waits_for_the_device_are_counted_by_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    found = gpu_parts.stalls(step, on_gpu=True)
    assert [*found.values()] == [3] and next(iter(found)).startswith("test_gpu.py:")
    assert modes == ["warn", "default"]


def test_outcomes_are_read_from_the_report_of_pytest(tmp_path: Path) -> None:
    counts = 'tests="20" failures="1" errors="2" skipped="3"'
    (tmp_path / "report.xml").write_text(f'<testsuites><testsuite name="pytest" {counts}/></testsuites>')
    assert gpu_parts.outcome(tmp_path / "report.xml") == {"passed": 14, "failed": 3, "skipped": 3}


def parts(name: str) -> TrainStep:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    make = {"adam": adam, "adamw": adamw, "sgd": sgd}[name]
    return TrainStep(
        model=model,
        loss=AsymmetricLoss(),
        optimizer=make(model, lr=1e-2, fused=True),
        schedule=OneCycle(steps_per_epoch=10, epochs=1),
        ema=ModelEma(model),
        mix=None,
        dist=distributed.start("cpu"),
        seed=0,
        channels_last=False,
    )


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(4, 3, 2, 2, generator=generator)
    return Batch(images, (torch.rand(4, 3, generator=generator) < 0.5).to(torch.int8), torch.arange(4), [])


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_step_that_the_host_reads_later_computes_the_same(name: str) -> None:
    ours, other = parts(name), parts(name)
    behind = OneStepBehind(other)
    expected = [ours(k, [batch(k)]) for k in range(4)]
    found = [behind(k, [batch(k)]) for k in range(4)] + [behind.finish()]
    assert found == [None, *((result.loss, result.grad_norm) for result in expected)]
    assert not hasattr(other.optimizer, "found_inf"), "the optimizer is as before"
    torch.testing.assert_close(other.model.state_dict(), ours.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_the_device_refuses_a_step_that_is_not_finite_and_those_after_it(name: str) -> None:
    given = parts(name)
    behind = OneStepBehind(given)
    for k in range(2):
        behind(k, [batch(k)])
    state = {k: v.clone() for k, v in given.model.state_dict().items()}
    bad = batch(2)._replace(images=torch.full((4, 3, 2, 2), torch.nan))
    assert behind(2, [bad]) is not None, "the figures of the step before"
    with pytest.raises(NonFiniteError, match="step 2: loss nan"):
        behind(3, [batch(3)])
    torch.testing.assert_close(given.model.state_dict(), state, rtol=0, atol=0)
    values = [v for s in given.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    assert all(value.isfinite().all() for value in values)


def test_optimizers_that_look_at_no_found_inf_are_refused() -> None:
    given = parts("adam")
    given.optimizer.param_groups[0]["fused"] = False
    with pytest.raises(ValueError, match="must be fused"):
        OneStepBehind(given)


@pytest.mark.slow
def test_the_command_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--device=cpu", "--tiny", f"--out={tmp_path}/out"]

    def execute(*more: str, code: int) -> str:
        given = {"capture_output": True, "text": True, "env": environment(), "check": False}
        done = subprocess.run([*words, *more], cwd=tmp_path, **given)
        assert done.returncode == code, done.stderr
        return done.stdout

    said = execute("--parts=EMA,tests,run", "--minutes=0", code=1)
    assert said.count("no time left; repeat the command") == 3
    assert "EMA: done, " in execute("--parts=EMA", code=0)
    said = execute("--parts=EMA,tests,run", code=0)
    assert "EMA: done before" in said and "tests: done, " in said and "run: done, " in said
    found = json.loads((tmp_path / "out" / "gpu.json").read_text(encoding="utf-8"))
    assert found["parts"]["run"] and found["about"]["device"] == "CPU"
    assert found["parts"]["tests"]["pytest -m gpu"]["skipped"] == 1
    assert (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8") in said


@pytest.mark.slow
def test_a_part_with_compiled_models(tmp_path: Path) -> None:
    bench = Bench("cpu", dataclasses.replace(TINY, compiled=True), tmp_path)
    for part in ("tresnet_l 448", "losses"):
        rows = list(gpu_parts.PARTS[part][0](bench))
        assert any("compiled" in str(row) for row in rows)
