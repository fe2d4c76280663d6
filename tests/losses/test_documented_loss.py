"""The loss that docs/losses.md shows as an example is real code."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import torch

from mltrain.losses import AsymmetricLoss
from tests.losses.test_per_label import KINDS, make_targets, value_and_grad
from tests.promises.runs import ROOT


def snippet() -> str:
    section = (ROOT / "docs/losses.md").read_text().partition("## Add a loss in ten lines")[2]
    found = re.search(r"(?:^(?:    .*)?\n)+", section[section.index("    from torch") - 1 :], re.MULTILINE)
    assert found is not None
    return textwrap.dedent(found.group()).strip() + "\n"


def test_the_example_passes_lint_and_is_formatted(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(snippet())
    for command in (["check"], ["format", "--check"]):
        words = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(file)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_computes_what_the_class_computes() -> None:
    namespace: dict[str, type] = {}
    exec(snippet(), namespace)
    example = namespace["AsymmetricLoss"](reduction="mean")
    for kind in KINDS:
        x, y = torch.randn(6, 40) * 3, make_targets(kind, (6, 40))
        expected = value_and_grad(AsymmetricLoss(reduction="mean"), x, y)
        torch.testing.assert_close(value_and_grad(example, x, y), expected, rtol=0, atol=0)
