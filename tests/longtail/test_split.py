"""Promises of the split folder: it is written atomically, and reads back equal."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from mltrain.datasets import read_csv
from mltrain.errors import DataError
from mltrain.labels import LabelSet, LabelStats
from mltrain.longtail import is_split, read_split, write_split
from mltrain.longtail.split import image_ids

NAMES = ("cat", "dog", "!x", "salt; pepper")


def labels(fill: int = 0, name: str = "pets/train", prefix: str = "a", n: int = 30) -> LabelSet:
    rng = np.random.default_rng(0)
    targets = rng.choice([1, 0, -1], p=(0.3, 0.6, 0.1) if fill == 0 else (0.2, 0.1, 0.7), size=(n, len(NAMES)))
    files = [f"images/{prefix}{i}, x.jpg" for i in range(n)]
    made = LabelSet.from_dense(name=name, root="data/pets", files=files, class_names=NAMES, targets=targets)
    assert made.fill == fill
    return made


@pytest.mark.parametrize("fill", [0, -1])
def test_reading_gives_what_was_written_with_unknown_targets(tmp_path: Path, fill: int) -> None:
    train, val = labels(fill), labels(fill, "pets/val", "b", 20)
    folder = write_split(tmp_path / "x" / "split", train=train, val=val, manifest={"method": "test"})
    split = read_split(folder, root="elsewhere")
    assert split.val is not None and split.manifest["method"] == "test"
    for made, found in ((train, split.train), (val, split.val)):
        assert found.fingerprint() == made.fingerprint() and found.name == made.name and found.root == "elsewhere"
        assert np.array_equal(found.dense(), made.dense()) and (found.dense() == -1).any()
    assert read_split(folder).train.root == "data/pets"


@pytest.mark.parametrize("fill", [0, -1])
def test_dataset_csv_reads_labels_csv_with_unknown_targets(tmp_path: Path, fill: int) -> None:
    train, val = labels(fill), labels(fill, "pets/val", "b", 20)
    folder = write_split(tmp_path / "split", train=train, val=val, manifest={})
    separator = read_split(folder).manifest["labels"]["separator"]
    for part, made in (("train", train), ("val", val)):
        found = read_csv(folder / "labels.csv", classes=folder / "classes.txt", split=part, separator=separator)
        assert found.fingerprint() == made.fingerprint()


def test_the_folder_holds_ids_counts_groups_and_cooccurrence(tmp_path: Path) -> None:
    train, val = labels(), labels(name="pets/val", prefix="b", n=20)
    folder = write_split(
        tmp_path / "split", train=train, val=val, source_counts=[9, 8, 7, 6], targets=[4, 3, 2, 1],
        head_min=9, medium_min=8, manifest={},
    )  # fmt: skip
    stats = LabelStats.from_labels(train, 9, 8)
    assert (folder / "image_ids.txt").read_text().splitlines() == [f"a{i}, x" for i in range(30)]
    assert (folder / "val_image_ids.txt").read_text().splitlines() == [f"b{i}, x" for i in range(20)]
    rows = list(csv.DictReader((folder / "class_counts.csv").open()))
    assert [row["class"] for row in rows] == list(NAMES)
    assert [int(row["train"]) for row in rows] == stats.positives.tolist()
    assert [int(row["val"]) for row in rows] == (val.dense() == 1).sum(0).tolist()
    assert [(row["source"], row["target"]) for row in rows] == [("9", "4"), ("8", "3"), ("7", "2"), ("6", "1")]
    groups = json.loads((folder / "class_split.json").read_text())
    assert groups == {key: [NAMES[k] for k in index] for key, index in stats.group_indices().items()}
    assert (sparse.load_npz(folder / "cooccurrence.npz") != stats.cooccurrence).nnz == 0


def test_ids_are_stems_unless_two_images_share_one() -> None:
    def ids(*files: str) -> list[str]:
        return image_ids(files)

    assert ids("a/1.jpg", "b/2.jpg") == ["1", "2"]
    assert ids("a/1.jpg", "b/1.jpg") == ["a/1", "b/1"]
    assert ids("a/1.jpg", "a/1.png") == ["a/1.jpg", "a/1.png"]


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        assert (folder / "labels.csv").exists()
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot write the split .*: No space left on device"):
        write_split(tmp_path / "split", train=labels(), manifest={}, finish=fail)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_split_is_replaced_only_when_asked_and_other_folders_never(tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    write_split(folder, train=labels(), manifest={"a": 1})  # an empty folder is free
    with pytest.raises(DataError, match="holds a split already; overwrite=true"):
        write_split(folder, train=labels(), manifest={"a": 2})
    assert read_split(folder).manifest["a"] == 1
    write_split(folder, train=labels(), manifest={"a": 2}, overwrite=True)
    assert read_split(folder).manifest["a"] == 2 and list(tmp_path.iterdir()) == [folder]
    other = tmp_path / "home"
    other.mkdir()
    (other / "letter.txt").write_text("keep me")
    with pytest.raises(DataError, match="exists and holds no split"):
        write_split(other, train=labels(), manifest={}, overwrite=True)
    assert (other / "letter.txt").exists() and not is_split(other)


def test_an_edited_or_damaged_split_is_refused(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "split", train=labels(), manifest={})
    text = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(text.rsplit("\n", 2)[0] + "\n")
    with pytest.raises(DataError, match="not those that were written"):
        read_split(folder)
    (folder / "labels.csv").write_text(text + "z.jpg,tiger,train\n")
    with pytest.raises(DataError, match="damaged split"):
        read_split(folder)
    with pytest.raises(DataError, match="holds no split"):
        read_split(tmp_path)


def test_a_class_name_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    for name in (" space", ""):
        made = LabelSet.from_lists(name="x", root="", files=["a"], class_names=[name], positives=[[0]])
        with pytest.raises(DataError, match="cannot be stored"):
            write_split(tmp_path / "split", train=made, manifest={})
