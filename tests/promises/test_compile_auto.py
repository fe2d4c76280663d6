"""runner.compile=auto: the loss alone is compiled where that pays, eager elsewhere, and run ids stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mltrain.config.build import load
from mltrain.config.identity import run_id
from mltrain.engine import distributed
from mltrain.engine.step import TrainStep
from mltrain.runs import assemble
from tests.promises.runs import ROOT, assert_same, fit, state


def test_auto_and_false_have_the_id_that_false_had() -> None:
    assert run_id(load(["runner.compile=auto"])) == run_id(load(["runner.compile=false"])) == run_id(load([]))
    assert run_id(load(["runner.compile=true"])) != run_id(load([]))


@pytest.mark.parametrize(
    ("device", "classes", "compiler", "pays"),
    [
        ("cpu", 999, True, False),
        ("cpu", 1000, True, True),
        ("cpu", 1000, False, False),
        ("cuda", 20, True, True),
        ("cuda", 20, False, False),
        ("mps", 9605, True, False),
    ],
)
def test_auto_compiles_where_it_pays(
    device: str, classes: int, compiler: bool, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "has_compiler", lambda _: compiler)
    assert assemble._compiling_pays(torch.device(device), classes) is pays


def test_auto_compiles_the_loss_and_not_the_model(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    call = TrainStep.__call__

    def step(self: TrainStep, *args: object) -> object:
        seen.append((self.loss.compiled, type(self.forward_model).__name__))
        self.loss.compiled = False  # compiling takes longer than this test should
        return call(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainStep, "__call__", step)
    monkeypatch.setattr(assemble, "_compiling_pays", lambda *_: True)
    fit([*overrides, "runner.max_steps=1"])
    assert seen == [(True, "Classifier")]


def test_a_run_that_began_eagerly_is_resumed_eagerly(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fit([*overrides, "runner.compile=false"])
    (folder / "result.json").unlink()
    monkeypatch.setattr(assemble, "_compiling_pays", lambda *_: pytest.fail("asked whether compiling pays"))
    before = state(folder)
    assert fit(overrides) == folder
    assert yaml.safe_load((folder / "config.yaml").read_text())["runner"]["compile"] is False
    assert_same(state(folder)["model"], before["model"])


def test_without_a_compiler_nothing_is_said(tmp_path: Path) -> None:
    code = (
        "import torch; from mltrain.engine.distributed import has_compiler; "
        "assert not has_compiler(torch.device('cpu'))"
    )
    environment = os.environ | {"CXX": "/nowhere/c++", "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "rror" in line or "compiler" in line.lower()], done.stderr
