from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path

import pytest

from mltrain.datasets.shards import webdataset
from mltrain.datasets.splits import check_files
from mltrain.errors import DataError


def shard(path: Path, files: dict[str, str | bytes]) -> None:
    with tarfile.open(path, "w") as packed:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))


def sides(labels: list[object], side: str, first: int = 0) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {}
    for k, label in enumerate(labels, first):
        files[f"a/{k:03d}.jpg"] = b"image"
        files[f"a/{k:03d}.{side}"] = label if isinstance(label, str) else json.dumps(label)
    return files


def positives(labels) -> list[list[str]]:
    return [[labels.class_names[c] for c in labels.targets(i).nonzero()[0]] for i in range(len(labels))]


def test_class_indices_of_several_shards(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for k in range(3):
        shard(tmp_path / f"train-{k:02d}.tar", sides(["0\n", "2 1"], "cls", 2 * k))
    shard(tmp_path / "val-00.tar", sides(["1"], "cls"))
    (tmp_path / "names.txt").write_text("cat\ndog\nsun\n")
    for train in ("train-*.tar", "train-{00..02}.tar", "train-0{0..2}.tar"):
        splits = webdataset(root=str(tmp_path), train=train, classes=str(tmp_path / "names.txt"))
        assert positives(splits.train) == [["cat"], ["dog", "sun"]] * 3
        assert splits.train.file(5) == "train-02.tar/a/005.jpg" and positives(splits.val) == [["dog"]]
        check_files(splits.train)
    assert "webdataset/train: 3 shards, labels from .cls" in caplog.text
    splits = webdataset(root=str(tmp_path), val="none", val_fraction=0.5)
    assert splits.train.class_names == ("class_0", "class_1", "class_2") and len(splits.val) == 3


@pytest.mark.parametrize(
    ("labels", "side", "options"),
    [
        ([{"labels": ["sun", "cat"]}, {"labels": "cat;sun"}, {"labels": []}], "json", {}),
        ([{"tags": ["sun", "cat"], "labels": 3}, {"tags": ["cat", "sun"]}, {"tags": None}], "json", {"key": "tags"}),
        ([["cat", "sun"], ["cat", "sun"], []], "json", {}),
        (["cat\nsun\n", "sun ; cat", ""], "txt", {}),
        ([{"labels": [1, 0, 1]}, {"labels": [1.0, 0, 1]}, {"labels": [0, 0, 0]}], "json", {"classes": True}),
    ],
)
def test_names_in_json_and_text(tmp_path: Path, labels: list[object], side: str, options: dict[str, object]) -> None:
    shard(tmp_path / "train-0.tar", sides(labels, side))
    shard(tmp_path / "val-0.tar", sides(labels[:1], side))
    if options.get("classes"):
        (tmp_path / "names.txt").write_text("cat\ndog\nsun\n")
        options = {"classes": str(tmp_path / "names.txt")}
    splits = webdataset(root=str(tmp_path), **options)
    assert positives(splits.train) == [["cat", "sun"], ["cat", "sun"], []]


def test_several_images_or_labels_in_a_sample_are_chosen(tmp_path: Path) -> None:
    files = {**sides(["0", "1"], "cls"), **{f"a/00{k}.{e}": "cat" for k in range(2) for e in ("PNG", "txt", "seg.npy")}}
    for part in ("train", "val"):
        shard(tmp_path / f"{part}-0.tar", files)
    with pytest.raises(DataError, match=r"\.cls \(2\).*choose the labels: dataset.labels=cls"):
        webdataset(root=str(tmp_path))
    with pytest.raises(DataError, match=r"a/000 has the images .*choose one by its suffix, such as dataset.image="):
        webdataset(root=str(tmp_path), labels="cls")
    splits = webdataset(root=str(tmp_path), labels="cls", image="png")
    assert splits.train.file(0) == "train-0.tar/a/000.PNG"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.jpg": b"x", "1.cls": "zero"}, "train-0.tar/1.cls: expected a class index, found 'zero'"),
        ({"1.jpg": b"x", "1.json": "{"}, "train-0.tar/1.json: broken json"),
        ({"1.jpg": b"x", "1.json": '{"tags": 1}'}, "no key 'labels' among tags; name it: dataset.key=KEY"),
        ({"1.jpg": b"x", "1.json": '{"labels": true}'}, "train-0.tar/1.jpg has the label True; expected a class index"),
        ({"1.jpg": b"x", "1.json": '{"labels": [1.5]}'}, "has the label 1.5"),
        ({"1.jpg": b"x", "1.json": '{"labels": ["a", 1]}'}, "some labels are class indices .1. and others are names"),
        ({"1.jpg": b"x", "1.cls": "0", "2.jpg": b"x"}, "1 of 2 samples lacks an image or their labels .cls."),
        ({"1.jpg": b"x", "1.cls": "0", "2.cls": "0"}, "2: no image among cls"),
        ({"1.jpg": b"x"}, "labels are in .cls, .json or .txt files; found .jpg .1."),
        ({"1.jpg": b"x", "1.txt": "caat"}, "has the label 'caat', none of the 2 classes; did you mean 'cat'"),
        ({"1.jpg": b"x", "1.cls": "2"}, "has the label 2, none of the 2 classes"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    shard(tmp_path / "train-0.tar", files)
    shard(tmp_path / "val-0.tar", files)
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=message):
        webdataset(root=str(tmp_path), classes=str(tmp_path / "names.txt"))


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", sides(["0"], "cls"))
    with pytest.raises(
        DataError, match=r"dataset.train=train-\{0\.\.2\}.tar: 2 of 3 files are missing in .*\n  train-1"
    ):
        webdataset(root=str(tmp_path), train="train-{0..2}.tar")
    with pytest.raises(DataError, match=r"dataset.val=val-\*.tar: no such file in"):
        webdataset(root=str(tmp_path))


def test_evaluation_needs_no_training_shards(tmp_path: Path) -> None:
    shard(tmp_path / "val-00.tar", sides([["dog"], ["cat"]], "json"))
    splits = webdataset(root=str(tmp_path), key="labels", need_train=False)
    assert (len(splits.train), positives(splits.val)) == (0, [["dog"], ["cat"]])
    with pytest.raises(DataError, match=r"dataset\.train=train-\*\.tar: no such file"):
        webdataset(root=str(tmp_path))
