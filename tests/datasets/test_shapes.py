"""Promises of the generated default set."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mltrain.datasets import check_files, check_splits, shapes_draw
from mltrain.datasets.shapes import VERSION, shapes
from mltrain.errors import DataError
from mltrain.labels import LabelStats

SMALL = {"num_train": 30, "num_val": 12, "image_size": 32}


def made(root: Path) -> Path:
    """The one generated folder below root; hidden files (the lock) aside."""
    (folder,) = [path for path in root.iterdir() if not path.name.startswith(".")]
    return folder


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(made(root).rglob("*")) if path.is_file()}


def test_files_are_real_jpeg_and_coco_annotations_that_agree(tmp_path: Path) -> None:
    splits = shapes(root=str(tmp_path), **SMALL)
    for labels, n in ((splits.train, 30), (splits.val, 12)):
        assert len(labels) == n and labels.class_names == shapes_draw.CLASS_NAMES and labels.fully_labelled
        check_files(labels)
        with Image.open(labels.path(0)) as image:
            assert image.format == "JPEG" and image.mode == "RGB" and image.width == 32 and 24 <= image.height <= 32
    check_splits(splits)
    data = json.loads((made(tmp_path) / "annotations" / "train.json").read_text())
    sizes = {entry["id"]: (entry["width"], entry["height"]) for entry in data["images"]}
    for entry in data["annotations"]:
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        assert min(x, y) >= 0 and min(w, h) > 0 and x + w <= width + 0.2 and y + h <= height + 0.2
        assert 0 < entry["area"] <= (w + 2) * (h + 2)


def test_default_train_is_long_tailed_with_all_groups_and_val_is_not() -> None:
    import inspect

    options = {key: value.default for key, value in inspect.signature(shapes).parameters.items()}
    sets = {}
    for split, n, largest, imbalance in (
        ("train", options["num_train"], options["largest"], options["imbalance"]),
        ("val", options["num_val"], 0.3, 6.0),
    ):
        wanted = shapes_draw.class_counts(n, largest, imbalance)
        present, scenes = shapes_draw.place_classes(options["seed"], split, n, wanted)
        assert (present.sum(0) == wanted).all() and present.sum(1).max() <= shapes_draw.MAX_OBJECTS
        sets[split] = present
        together = present.astype(int).T @ present
        same = np.equal.outer(np.arange(20) % 4, np.arange(20) % 4) & ~np.eye(20, dtype=bool)
        expected = np.outer(wanted, wanted) / n
        assert (together / expected)[same].mean() > 1.3 * (together / expected)[~same & ~np.eye(20, dtype=bool)].mean()
        assert len(np.unique(scenes)) == 4
    counts = sets["train"].sum(0)
    assert counts.max() >= 300 and counts.min() < 20
    assert min((counts >= 100).sum(), ((counts >= 20) & (counts < 100)).sum(), (counts < 20).sum()) >= 3
    assert sets["val"].sum(0).min() >= 10


def test_labels_on_disk_are_the_drawn_ones(tmp_path: Path) -> None:
    train = shapes(root=str(tmp_path), **SMALL).train
    wanted = shapes_draw.class_counts(30, 0.4, 70.0)
    present, _ = shapes_draw.place_classes(0, "train", 30, wanted)
    assert (train.dense() == present).all()
    assert LabelStats.from_labels(train).positives.tolist() == present.sum(0).tolist()


def test_same_seed_gives_same_pixels_and_labels_another_seed_others() -> None:
    classes = np.array([0, 7, 19])
    first, objects = shapes_draw.draw(3, "train", 5, classes, 1, 64)
    again, same = shapes_draw.draw(3, "train", 5, classes, 1, 64)
    assert (first == again).all() and objects == same
    for other in ((4, "train", 5), (3, "val", 5), (3, "train", 6)):
        pixels, _ = shapes_draw.draw(*other, classes, 1, 64)
        assert pixels.shape != first.shape or (pixels != first).mean() > 0.5
    assert (
        shapes_draw.place_classes(3, "val", 50, shapes_draw.class_counts(50, 0.3, 6))[0]
        == shapes_draw.place_classes(3, "val", 50, shapes_draw.class_counts(50, 0.3, 6))[0]
    ).all()


def test_the_drawings_have_not_changed_since_this_version() -> None:
    """When this fails because the drawing was changed on purpose: raise VERSION and write the new figures here.

    Mean colour and height of a few images, loose enough for another platform's rounding.
    """
    assert VERSION == 2
    figures = []
    for i in range(0, 17, 4):
        pixels, _ = shapes_draw.draw(0, "train", i, np.arange(i, i + 4), i % 4, 96)
        figures.append([*pixels.reshape(-1, 3).mean(0), pixels.shape[0]])
    expected = [
        [101.48, 71.02, 64.66, 83],
        [103.78, 95.64, 71.14, 95],
        [127.09, 78.83, 73.56, 93],
        [151.29, 131.13, 117.46, 75],
        [130.07, 100.11, 92.39, 76],
    ]
    np.testing.assert_allclose(figures, expected, atol=0.2)


def test_a_whole_set_is_reused_and_options_have_folders_of_their_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = shapes(root=str(tmp_path), **SMALL)
    again = shapes(root=str(tmp_path), **SMALL)
    assert first.train.fingerprint() == again.train.fingerprint()
    assert caplog.text.count("drew") == 1
    other = shapes(root=str(tmp_path), **{**SMALL, "seed": 1})
    assert caplog.text.count("drew") == 2 and other.train.fingerprint() != first.train.fingerprint()
    assert Path(first.train.path(0)).is_file() and Path(other.train.path(0)).is_file()


@pytest.mark.parametrize("damage", ["image gone", "image cut", "annotations cut", "manifest gone", "other version"])
def test_a_damaged_or_stale_set_is_made_again(tmp_path: Path, damage: str) -> None:
    shapes(root=str(tmp_path), **SMALL)
    before = snapshot(tmp_path)
    folder = made(tmp_path)
    if damage == "image gone":
        (folder / "val" / "000003.jpg").unlink()
    elif damage == "image cut":
        (folder / "train" / "000003.jpg").write_bytes(b"")
    elif damage == "annotations cut":
        (folder / "annotations" / "val.json").write_text("{")
    elif damage == "manifest gone":
        (folder / "manifest.json").unlink()
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 0}))
    assert snapshot(tmp_path) != before
    shapes(root=str(tmp_path), **SMALL)
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_a_failure_half_way_leaves_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = shapes_draw.draw

    def fails(*args: Any) -> Any:
        if args[1:3] == ("val", 5):
            raise OSError(28, "No space left on device")
        return original(*args)

    monkeypatch.setattr(shapes_draw, "draw", fails)
    with pytest.raises(DataError, match="No space left on device"):
        shapes(root=str(tmp_path), **SMALL)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_root_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"point paths\.data or dataset\.root"):
        shapes(root=str(tmp_path / "file" / "shapes"), **SMALL)


@pytest.mark.parametrize("lock", [True, False])
def test_threads_at_once_get_one_whole_set(tmp_path: Path, lock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not lock:
        monkeypatch.setattr("mltrain.files.fcntl", None)
    prints: list[str] = []
    threads = [
        threading.Thread(target=lambda: prints.append(shapes(root=str(tmp_path), **SMALL).train.fingerprint()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(prints) == 4 and len(set(prints)) == 1
    made(tmp_path)


def test_two_processes_at_once_get_one_whole_set(tmp_path: Path) -> None:
    code = (
        "import sys, logging; logging.basicConfig(level=20)\n"
        "from mltrain.datasets import check_files\n"
        "from mltrain.datasets.shapes import shapes\n"
        f"splits = shapes(root=sys.argv[1], **{SMALL!r})\n"
        "[check_files(labels) for labels in splits[:2]]\n"
        "print(splits.train.fingerprint())\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert sum(err.count("drew") for _, err in results) == 1
    made(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"num_train": 0}, {"image_size": 8}, {"seed": -1}, {"largest": 0.0}, {"largest": 1.5}, {"imbalance": 0.5}]
)
def test_options_that_cannot_be_are_wrong_arguments(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        shapes(root=str(tmp_path), **{**SMALL, **wrong})
