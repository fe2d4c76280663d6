"""A config folder of its own for tests that need odd files, and subprocess runs of the tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mltrain.config.overrides import CONFIGS, Source

ROOT = CONFIGS.parent
Tool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A copy of the configs that a test may change."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return Source(tmp_path / "configs")


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """Run a script in an empty folder; `torch` in what it imports is a failure of its own (exit code 99)."""

    def call(*arguments: str, script: Path = ROOT / "tools/train.py", **env: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "sitecustomize.py").write_text(
            "import sys, os\n"
            "class NoTorch:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'torch':\n"
            "            os.write(2, b'torch was imported'); os._exit(99)\n"
            "sys.meta_path.insert(0, NoTorch())\n"
        )
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call
