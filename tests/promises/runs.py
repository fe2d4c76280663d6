"""Small real runs: the embedded dataset, a tiny network, the whole program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain.config.build import load
from mltrain.config.identity import run_folder
from mltrain.engine.step import TrainStep
from mltrain.runs.train import train

ROOT = Path(__file__).resolve().parents[2]

TINY = (
    "dataset.num_train=80",
    "dataset.num_val=24",
    "dataset.image_size=32",
    "model=timm",
    "model.name=test_resnet",
    "model.pretrained=false",
    "model.image_size=32",
    "runner.batch_size=16",
    "runner.epochs=2",
    "runner.amp=off",
    "runner.device=cpu",
    "data.num_workers=0",
    "logger.tensorboard=false",
    "logger.report=false",
    "logger.progress=off",
)
"""5 steps an epoch, 2 epochs."""

# No batch-norm: its statistics are those of each rank's share unless runner.sync_bn, which needs GPUs.
# Not Adam: it would hide a gradient of the wrong size, and blow up rounding where the gradient is zero (bias of keys).
SMOOTH = ("model.name=test_vit", "runner.epochs=2", "dataset.num_val=25", "optimizer=sgd", "optimizer.lr=1e-2")


def fit(overrides: list[str]) -> Path:
    """Train in this process; the run folder."""
    cfg = load(overrides)
    train(cfg)
    return run_folder(cfg)


def coloured_run(folder: Path, *options: str) -> Path:
    """A run on images whose colour channels are their labels: 24 for training, 12 for validation, 12 for the test."""
    generator = np.random.default_rng(0)
    rows = ["image,labels,split"]
    for k in range(48):
        present = generator.random(3) < 0.5
        present[k % 3] = True
        Image.fromarray((255 * np.broadcast_to(present, (32, 32, 3))).astype(np.uint8)).save(folder / f"{k}.png")
        split = "train" if k < 24 else "val" if k < 36 else "test"
        rows.append(f"{k}.png,{';'.join('abc'[c] for c in np.flatnonzero(present))},{split}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    frame = [item for item in TINY if not item.startswith("dataset.")]
    data = ["dataset=csv", f"dataset.file={folder}/labels.csv", "dataset.test_split=test", "runner.epochs=1"]
    return fit([*frame, *data, *options, f"paths.runs={folder}/runs"])


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive of ours; Python before 3.11.4 and 3.10.12 has no filters."""
    with tarfile.open(archive) as files:
        files.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, signum: int = signal.SIGTERM) -> None:
    """Send this process a real signal just before optimizer step `step`."""
    call: Callable[..., Any] = TrainStep.__call__

    def with_signal(self: TrainStep, number: int, *args: Any) -> Any:
        if number == step:
            os.kill(os.getpid(), signum)
        return call(self, number, *args)

    monkeypatch.setattr(TrainStep, "__call__", with_signal)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "train.py"), *arguments]


def torchrun(*arguments: str, ranks: int = 2) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*launcher, str(ROOT / "tools" / "train.py"), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def execute(arguments: list[str], *, code: int = 0, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run to the end and check the exit code."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done


def stopped_ranks(options: list[str], folder: Path) -> Path:
    """Start a run on two ranks, stop it after its first checkpoint inside an epoch, and return its run folder."""
    process = subprocess.Popen(torchrun(*options), env=environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 240
    while not list(folder.rglob("previous.pt")) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0, errors
    return next(folder.rglob("last.pt")).parent


def state(folder: Path, name: str = "last") -> dict[str, Any]:
    """A checkpoint without what depends on the clock."""
    loaded = torch.load(folder / f"{name}.pt", weights_only=True)
    return {key: value for key, value in loaded.items() if key not in ("seconds", "config")}


def records(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "images_per_second" not in k and "data_wait" not in k} for line in lines]


def assert_same(a: Any, b: Any, place: str = "state") -> None:
    """Equal bit for bit."""
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), place
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_same(a[key], b[key], f"{place}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{place}[{k}]")
    else:
        assert a == b or (a != a and b != b), f"{place}: {a} != {b}"
