"""Files are UTF-8 in every locale: a run with a class name that is not ASCII, from training to its publication."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.promises.runs import ROOT, TINY

NAMES = ("Käse", "naïve 猫", "=1+1")
COMMANDS = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="mltrain")
from mltrain.cli import main
for arguments in sys.argv[1].split("\\n\\n"):
    try:
        main(argv=arguments.split("\\n"))
    except SystemExit as left:
        assert left.code == 0, arguments
"""


def table(folder: Path) -> Path:
    """24 images whose colour channels are their labels."""
    rows = ["image,labels,split"]
    for k in range(24):
        present = [(k >> c) & 1 or k % 3 == c for c in range(3)]
        Image.fromarray((255 * np.broadcast_to(present, (32, 32, 3))).astype(np.uint8)).save(folder / f"{k}.png")
        labels = ";".join(name for name, on in zip(NAMES, present, strict=True) if on)
        rows.append(f"{k}.png,{labels},{'val' if k > 15 else 'train'}")
    file = folder / "labels.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


@pytest.mark.slow
def test_a_run_in_a_locale_that_has_no_umlauts(tmp_path: Path) -> None:
    settings = [text for text in TINY if not text.startswith(("dataset.", "runner.epochs", "logger.report"))]
    data = ["dataset=csv", f"dataset.file={table(tmp_path)}", "runner.epochs=1", f"paths.runs={tmp_path}/runs"]
    train = ["train", *settings, *data, "loss=bce"]
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONWARNDEFAULTENCODING": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }

    def execute(*commands: list[str]) -> str:
        words = "\n\n".join("\n".join(command) for command in commands)
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, words], capture_output=True, env=environment, check=False, timeout=240
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode("utf-8")

    execute(train)
    run = next((tmp_path / "runs").glob("*/*/*/result.json")).parent
    image = str(tmp_path / "1.png")
    out = execute(
        ["report", str(run)],
        ["push", str(run), f"out={tmp_path}/hub"],
        ["predict", f"{tmp_path}/hub", image, "threshold=0"],
        ["predict", str(run), image, "threshold=0", "format=csv", f"out={tmp_path}/predicted.csv"],
        ["dataset_stats", *data[:2]],
        ["results", str(tmp_path / "runs")],
    )
    assert "Käse 0." in out and "naïve 猫" in out
    for page in (run / "report.html", tmp_path / "hub" / "README.md"):
        assert "Käse" in page.read_text(encoding="utf-8")
    assert (tmp_path / "hub" / "classes.txt").read_text(encoding="utf-8").splitlines() == sorted(NAMES)
    with (tmp_path / "predicted.csv").open(newline="", encoding="utf-8") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"Käse", "naïve 猫", "'=1+1"}  # no formula
