"""A tutorial can be followed: its commands and programs run from top to bottom, as they are typed.

Blocks of `bash` and `python` are run. `sh` is for what a test does not have: GPUs, a cluster, public data.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mltrain.config.compose import load
from tests.models import published_models
from tests.promises.documented import blocks, commands
from tests.promises.runs import ROOT

PAGES = sorted(path for path in (ROOT / "docs/tutorials").glob("*.md") if path.name != "README.md")
ZOO = "tresnet_m_COCO_224_84_2.pth"


def test_the_commands_of_tutorials_name_what_there_is() -> None:
    typed = commands(PAGES)
    assert len(typed) > 25 and {command.page for command in typed} == {page.name for page in PAGES}
    for command in typed:
        assert command.tool is None or (ROOT / command.tool).is_file(), command
        if command.tool == "tools/train.py" and "-m" not in command.arguments:
            load([word for word in command.arguments if not word.startswith("--")])


def put_what_the_page_expects(page: Path, folder: Path) -> None:
    """Make what a reader has at the beginning: nothing but, for one page, photographs and a download."""
    if page.stem != "published_model":
        return
    (folder / "photos").mkdir()
    rows = ["image,labels"]
    for k in range(16):
        Image.linear_gradient("L").rotate(20 * k).convert("RGB").save(folder / f"photos/{k}.jpg")
        rows.append(f"photos/{k}.jpg,{('dog', 'sofa;dog', 'person')[k % 3]}")
    (folder / "my.csv").write_text("\n".join(rows) + "\n")
    head = published_models.MLDecoder(2048, 80)
    model = published_models.TResNet((3, 4, 11, 3), 64, False, head, pooled=False)
    (folder / "data/zoo").mkdir(parents=True)
    torch.save({"model": published_models.randomised(model).state_dict()}, folder / "data/zoo" / ZOO)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    put_what_the_page_expects(page, tmp_path)
    lines = ["set -eo pipefail"]
    for number, (language, text) in enumerate(blocks(page)):
        if language == "python":
            (tmp_path / f"block{number}.py").write_text(text)
            lines.append(f"python block{number}.py")
        elif language == "bash":
            lines.append(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert list(tmp_path.glob("runs/*/*/*/result.json")), "a run was trained"
