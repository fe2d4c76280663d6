"""dataset=auto recognises shards, Parquet files and data sets of Hugging Face; the options it prints read the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mltrain.datasets.auto import READERS, auto, explicit
from mltrain.datasets.recognise import candidates
from mltrain.datasets.splits import Splits
from tests.datasets.test_shards import positives, shard, sides
from tests.storage.made import make_parquet


def as_auto_and_as_printed(path: Path) -> tuple[Splits, str]:
    found = explicit(path)
    reader, options = READERS[found.group]
    ours, printed = auto(path=str(path)), reader(**{**options, **found.options})
    assert positives(ours.train) == positives(printed.train) and ours.val.files == printed.val.files
    return ours, found.command.replace(str(path), "FOLDER")


def test_shards(tmp_path: Path) -> None:
    for k in range(3):
        shard(tmp_path / f"train-{k:02d}.tar", sides(["0\n", "1"], "cls", 2 * k))
    shard(tmp_path / "val-00.tar", sides(["1"], "cls", 9))
    splits, command = as_auto_and_as_printed(tmp_path)
    assert command == """dataset=webdataset dataset.root=FOLDER 'dataset.train="train-0*.tar"' dataset.val=val-00.tar"""
    assert (len(splits.train), len(splits.val)) == (6, 1)


def test_shards_without_names_of_splits_hold_validation_images_out(tmp_path: Path) -> None:
    for k in range(2):
        shard(tmp_path / f"{k:06d}.tar", sides(["0"] * 30, "cls", 30 * k))
    splits, command = as_auto_and_as_printed(tmp_path)
    assert "dataset.val_fraction=0.2" in command
    assert len(splits.train) + len(splits.val) == 60 and len(splits.val) > 5


def test_tar_files_without_labels_are_no_shards(tmp_path: Path) -> None:
    shard(tmp_path / "photos.tar", {"1.jpg": b"image", "2.jpg": b"image"})
    assert candidates(tmp_path) == []


def test_parquet_files(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        make_parquet(tmp_path / f"{name}.parquet", [b"1", b"2"], {"labels": [["cat", "sun"], ["dog"]]})
    splits, command = as_auto_and_as_printed(tmp_path)
    assert command.startswith("dataset=parquet dataset.root=FOLDER") and "val_fraction" not in command
    assert positives(splits.train) == [["cat", "sun"], ["dog"]] * 2 and positives(splits.val) == [
        ["cat", "sun"],
        ["dog"],
    ]


def test_a_saved_data_set_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for k in range(20):
        Image.new("RGB", (5, 5), (k, 0, 0)).save(tmp_path / f"{k}.png")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {"image": [str(tmp_path / f"{k}.png") for k in range(20)], "label": [k % 2 for k in range(20)]}
    whole = datasets.Dataset.from_dict(columns, features=features)
    whole.save_to_disk(tmp_path / "whole")
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(tmp_path / "parts")
    splits, command = as_auto_and_as_printed(tmp_path / "whole")
    assert command == "dataset=hf dataset.path=FOLDER dataset.val_fraction=0.2"
    assert len(splits.train) + len(splits.val) == 20
    splits, command = as_auto_and_as_printed(tmp_path / "parts")
    assert command == "dataset=hf dataset.path=FOLDER dataset.test_split=test dataset.val_fraction=0.2"
    assert splits.test is not None and len(splits.test) == 20
