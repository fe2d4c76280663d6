"""Resume a run with other versions of the libraries: train with the oldest, stop, go on with the newest.

    python -m tests.attack.versions old=/path/to/old/bin/python                 the interpreter of an environment
    python -m tests.attack.versions build=/path/to/new/folder                   make that environment (torch is large)
    python -m tests.attack.versions old=... head=ml_decoder                     other options of the training

It prints, for every pair of runs, the largest differences of figures, losses and weights. The oldest versions are the
lower bounds in pyproject.toml.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.promises.runs import ROOT, TINY

SETTINGS = [word for word in TINY if not word.startswith(("dataset.num", "runner.epochs"))]
WORDS = ["train", *SETTINGS, "dataset.num_train=320", "dataset.num_val=400", "runner.epochs=4", "augment=standard"]
STOP = 50  # of 80 steps, in the middle of an epoch
STOPPED = f"""
import os, signal, sys
from mltrain.engine.step import TrainStep
call = TrainStep.__call__
def stop(self, number, *rest):
    if number == {STOP}:
        os.kill(os.getpid(), signal.SIGTERM)
    return call(self, number, *rest)
TrainStep.__call__ = stop
from mltrain.cli import main
main(argv=sys.argv[1:])
"""
RUNS = {
    "old": ["old"],
    "new": ["new"],
    "old, then new": ["old", "new"],
    "new, then old": ["new", "old"],
}


def lower_bounds() -> list[str]:
    """Return the requirements of pyproject.toml, each at its oldest version."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert listed is not None
    return [f"{name}=={least}.*" for name, least in re.findall(r'"([\w-]+)>=(\d+(?:\.\d+)*)', listed[1])]


def build(folder: Path) -> Path:
    """Make a virtual environment of the oldest supported versions, and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *lower_bounds(), "pytest>=8,<10"], check=True)
    return python


def train(python: Path | str, folder: Path, more: Sequence[str], *, stopped: bool = False) -> Path:
    """Train in `folder` with an interpreter, and return the run folder."""
    start = ["-c", STOPPED] if stopped else ["-m", "mltrain"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [str(python), *start, *WORDS, *more, "paths.data=../data", "paths.runs=runs"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (143 if stopped else 0), done.stderr
    return next(folder.glob("runs/*/*/*/config.yaml")).parent


def run_all(old: Path | str, new: Path | str, place: Path, more: Sequence[str] = ()) -> dict[str, Path]:
    """Make the runs of `RUNS`; return their folders."""
    found = {}
    for name, versions in RUNS.items():
        folder = place / name.replace(", ", "-").replace(" ", "-")
        folder.mkdir()
        for k, version in enumerate(versions):
            found[name] = train(old if version == "old" else new, folder, more, stopped=k + 1 < len(versions))
    return found


def gaps(a: Path, b: Path) -> dict[str, float]:
    """Return the largest absolute differences between two runs: figures 0..100, losses relative, weights."""
    results = [json.loads((run / "result.json").read_text(encoding="utf-8")) for run in (a, b)]
    figures = [
        abs(results[0][weights][key] - value)
        for weights in ("val", "ema")
        for key, value in results[1][weights].items()
        if isinstance(value, int | float) and results[0][weights][key] is not None
    ]
    losses = [[r["train/epoch_loss"] for r in _records(run) if "train/epoch_loss" in r] for run in (a, b)]
    weights = [torch.load(run / "last.pt", weights_only=True)["model"] for run in (a, b)]
    return {
        "mAP": max(abs(results[0][w]["map"] - results[1][w]["map"]) for w in ("val", "ema")),
        "any figure": max(figures),
        "epoch loss": max(abs(x - y) / abs(y) for x, y in zip(*losses, strict=True)),
        "weights": max(float((weights[0][k].double() - v.double()).abs().max()) for k, v in weights[1].items()),
    }


def _records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def main(words: list[str]) -> None:
    """Make the runs and print a table."""
    given = dict(word.split("=", 1) for word in words if word.split("=")[0] in ("old", "new", "build"))
    more = [word for word in words if word.split("=")[0] not in given]
    place = Path(tempfile.mkdtemp(prefix="versions-"))
    old = given.get("old") or build(Path(given["build"]))
    try:
        runs = run_all(old, given.get("new", sys.executable), place, more)
        for name in ("old", "new"):
            environment = json.loads((runs[name] / "environment.json").read_text(encoding="utf-8"))
            sys.stdout.write(f"{name}: {environment['packages']}\n")
        pairs = [("old", "new"), ("old, then new", "old"), ("old, then new", "new"), ("new, then old", "new")]
        columns = list(gaps(runs["old"], runs["old"]))
        sys.stdout.write(f"| runs | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}\n")
        for a, b in pairs:
            found = gaps(runs[a], runs[b])
            sys.stdout.write(f"| {a} / {b} | {' | '.join(f'{found[c]:.2g}' for c in columns)} |\n")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
