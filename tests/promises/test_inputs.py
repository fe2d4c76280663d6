"""Data that cannot be trained on or evaluated is refused with the reason, before or at the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mltrain.errors import DataError
from tests.promises.runs import ROOT, TINY, fit

SETTINGS = [text for text in TINY if not text.startswith("dataset.")]


def refused(folder: Path, rows: list[str], *options: str) -> str:
    """Train on images 0.png to 5.png with the rows of a table; return the message."""
    for k in range(6):
        Image.fromarray(np.full((32, 32, 3), 40 * k, np.uint8)).save(folder / f"{k}.png")
    (folder / "labels.csv").write_text("image,labels,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    data = ["dataset=csv", f"dataset.file={folder}/labels.csv", f"paths.runs={folder}/runs"]
    with pytest.raises(DataError) as error:
        fit([*SETTINGS, *data, *options])
    return str(error.value)


VAL = ["4.png,a,val", "5.png,b,val"]


def test_a_training_set_without_a_known_target_is_refused(tmp_path: Path) -> None:
    rows = ["0.png,?a;?b,train", "1.png,?a;?b,train", *VAL]
    assert "csv/train: all targets of 2 images are unknown (-1), so there is nothing to learn" in refused(
        tmp_path, rows
    )


def test_a_split_in_which_every_ranking_is_perfect_is_refused(tmp_path: Path) -> None:
    rows = ["0.png,a,train", "1.png,b,train", "4.png,a;?b,val", "5.png,?a;b,val"]
    text = refused(tmp_path, rows)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file()], "nothing stays, not even a lock"
    assert "csv/val: no class has both a positive and a negative image" in text and "mAP 100" in text
    assert "nothing to evaluate" in refused(tmp_path, [*rows[:2], "4.png,?a;?b,val"])
    text = refused(tmp_path, [*rows[:2], "2.png,a,train", "3.png,b,train", "4.png,a,val"])
    assert "each class is that of every image (1) or of none" in text and "dataset.val_fraction=0.4" in text
    text = refused(tmp_path, [*rows[:2], *VAL, "2.png,a,test", "3.png,a,test"])
    assert "csv/test: no class has both" in text and "dataset.test_fraction=0.5" in text


@pytest.mark.parametrize("option", ["runner.batch_size=1", "runner.batch_size=8"])
def test_one_image_at_a_batch_norm_layer_is_one_message(tmp_path: Path, option: str) -> None:
    rows = ["0.png,a,train", "1.png,b,train"] if option == "runner.batch_size=1" else ["0.png,a;b,train"]
    text = refused(tmp_path, [*rows, *VAL], option, "model.image_size=32")
    assert "step 0: a batch of one image has no variance at a batch-norm layer" in text and "runner.batch_size" in text


def test_image_files_are_opened_in_one_place() -> None:
    """It takes regular files of listed formats only; Pillow alone would open pipes and start Ghostscript."""
    for path in (ROOT / "mltrain").rglob("*.py"):
        if path.name != "image_file.py":
            assert "Image.open(" not in path.read_text(encoding="utf-8"), path
