"""Promises of the commands that look at one's own data: which data they take, and what cannot be read there."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.commands.conftest import Call


@pytest.fixture
def odd(tmp_path: Path) -> str:
    """A table of eight images, of which one is missing and one is no image."""
    for k in range(7):
        Image.linear_gradient("L").rotate(20 * k).resize((40, 40)).save(tmp_path / f"{k}.png")
    (tmp_path / "6.png").write_bytes(b"no image")
    rows = [f"{k}.png,{'ab'[k % 2]},{'val' if k < 2 else 'train'}\n" for k in range(8)]
    (tmp_path / "my.csv").write_text("image,labels,split\n" + "".join(rows))
    return f"dataset.file={tmp_path}/my.csv"


@pytest.mark.parametrize("command", ["find_duplicates", "convert_labels"])
def test_a_command_about_own_data_asks_for_it(call: Call, command: str) -> None:
    code, _, err = call(command)
    assert code == 2 and "name a data set: your own is dataset=auto dataset.path=FOLDER" in err


def test_dataset_stats_says_that_it_takes_the_drawn_shapes(
    call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    said = "no data set is named, so these are the drawn shapes; your own is dataset=auto"
    data = f"paths.data={tmp_path}/data"
    assert call("dataset_stats", data, "--cfg", "job").code == 0 and said in caplog.text
    caplog.clear()
    assert call("dataset_stats", data, "dataset=shapes", "--cfg", "job").code == 0 and said not in caplog.text


def test_missing_and_unreadable_images_are_counted(
    call: Call, odd: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = "csv/train: 1 of 6 image files is missing"
    for words in (["dataset_stats"], ["convert_labels", f"out={tmp_path}/out.csv"]):
        caplog.clear()
        assert call(*words, "dataset=csv", odd).code == 0
        assert missing in caplog.text and "7.png" in caplog.text
    caplog.clear()
    code, out, _ = call("find_duplicates", "dataset=csv", odd)
    assert code == 0 and "6 images, at most 6 of 128 bits" in out
    assert "not compared, because they cannot be read: 2 images" in out and "2 images cannot be read" in caplog.text
    caplog.clear()
    assert call("browse_dataset", "dataset=csv", odd, f"out={tmp_path}/b.html", "model=small", "versions=1").code == 0
    assert "2 images cannot be read; the page says why:" in caplog.text and "6.png" in caplog.text
