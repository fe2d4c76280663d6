"""Promises of the folder and list readers."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mltrain.datasets import check_files, check_splits
from mltrain.datasets.folder import folder
from mltrain.datasets.lists import list_files
from mltrain.datasets.splits import check_one_label
from mltrain.errors import DataError

FILES = (
    "train/cat/2.JPG",
    "train/cat/deep/1.png",
    "train/cat/notes.txt",
    "train/cat/.hidden.jpg",
    "train/big dog/3.webp",
    "train/.cache/x.jpg",
    "val/cat/4.jpg",
)


def touch(root: Path, *files: str) -> str:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return str(root)


def test_every_image_has_the_class_of_its_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    splits = folder(root=touch(tmp_path, *FILES))
    assert splits.train.class_names == splits.val.class_names == ("big dog", "cat")
    assert [splits.train.file(i) for i in range(3)] == ["big dog/3.webp", "cat/2.JPG", "cat/deep/1.png"]
    assert splits.train.dense().tolist() == [[1, 0], [0, 1], [0, 1]] and splits.val.dense().tolist() == [[0, 1]]
    assert splits.test is None and splits.train.fully_labelled
    assert "folder/train: 1 file without the suffix of an image" in caplog.text
    check_files(splits.train)
    check_splits(splits)


def test_a_share_of_train_becomes_val_wherever_the_classes_lie(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"{label}/{i}.jpg" for label in ("cat", "dog") for i in range(10)))
    splits = folder(root=root, train=".", val_fraction=0.2)
    assert (len(splits.train), len(splits.val)) == (16, 4) and splits.val.name == "folder/val"
    check_splits(splits)
    again = folder(root=root, train=".", val_fraction=0.2)
    other = folder(root=root, train=".", val_fraction=0.2, split_seed=1)
    assert again.val.image_paths == splits.val.image_paths != other.val.image_paths


def test_a_test_folder_is_read_on_demand(tmp_path: Path) -> None:
    splits = folder(root=touch(tmp_path, *FILES, "test/cat/9.jpg"), test="test")
    assert splits.test is not None and splits.test.file(0) == "cat/9.jpg"


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (("train/cat/1.jpg", "val/cta/2.jpg"), {}, "1 folders are no classes of train: cta"),
        (("train/1.jpg", "val/2.jpg"), {}, "train: has no folder, so there is no class"),
        (("train/cat/1.txt", "val/cat/2.jpg"), {}, "train: no image in its 1 folders"),
        (("train/cat/1.jpg", "val/cat/2.jpg"), {"train": "."}, "inside train"),
        (("train/cat/1.jpg",), {"val_fraction": 0.5}, "leaves train or val empty"),
        (("train/cat/1.jpg",), {}, "1 of 2 expected paths is missing"),
        (("train/cat/1.jpg",), {}, "dataset.val_fraction=0.1"),
    ],
)
def test_folders_that_make_no_set_are_refused(tmp_path: Path, files: Any, options: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        folder(root=touch(tmp_path, *files), **options)
    assert message in str(error.value)


# -- list files ------------------------------------------------------------------------------------------------------


def lists(root: Path, **texts: str) -> str:
    for part, text in texts.items():
        (root / f"{part}.txt").write_text(text)
    return str(root)


def test_a_line_is_a_path_and_its_class_indices(tmp_path: Path) -> None:
    train = "bus/a 1.jpg 3\nb.jpg 0 2\nc.jpg\n\n./d.jpg,1,3 \ne\\f.jpg\t2\n"
    splits = list_files(root=lists(tmp_path, train=train, val="v 2.jpg 0\n"))
    assert splits.train.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert [splits.train.file(i) for i in range(5)] == ["bus/a 1.jpg", "b.jpg", "c.jpg", "d.jpg", "e/f.jpg"]
    assert splits.train.dense().tolist() == [[0, 0, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert splits.val.path(0) == str(tmp_path / "v 2.jpg")


def test_the_folder_of_an_image_names_its_class(tmp_path: Path) -> None:
    root = lists(tmp_path, TrainImages="pool inside/1.jpg\nbar/2_3 4.jpg\n", TestImages="bar/5.jpg\n")
    (tmp_path / "Images").mkdir()
    options: Any = {"train": "TrainImages.txt", "val": "TestImages.txt", "images": "Images", "labels": "folder"}
    splits = list_files(root=root, **options)
    assert splits.train.class_names == ("bar", "pool inside")
    assert splits.train.dense().tolist() == [[0, 1], [1, 0]] and splits.train.file(1) == "bar/2_3 4.jpg"
    assert splits.val.path(0) == str(tmp_path / "Images" / "bar" / "5.jpg")


def test_names_come_from_the_classes_file(tmp_path: Path) -> None:
    root = lists(tmp_path, train="a.jpg 1\n", val="b.jpg 0\n", test="c.jpg 2\n", names="sea\nsun\nsky\n")
    splits = list_files(root=root, classes="names.txt", test="test.txt")
    assert splits.train.class_names == ("sea", "sun", "sky") and splits.test is not None
    assert splits.test.dense().tolist() == [[0, 0, 1]]


def test_a_share_of_the_list_becomes_val(tmp_path: Path) -> None:
    root = lists(tmp_path, train="".join(f"{i}.jpg {i % 2}\n" for i in range(10)))
    splits = list_files(root=root, val_fraction=0.3)
    assert (len(splits.train), len(splits.val), splits.val.name) == (7, 3, "list/val")
    check_splits(splits)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ("a.jpg 1\n\nb.jpg 7\n", {"classes": "names.txt"}, "train.txt, line 3: class 7 is not one of the 2 of"),
        ("a.jpg 1\na.jpg 0\n", {}, "train.txt, line 2: a.jpg is listed a second time (line 1)"),
        ("a.jpg 0 1 0\n", {}, "train.txt, line 1: an index is listed twice"),
        ("a.jpg\nb.jpg\n", {}, "no line has a class index; with dataset.labels=folder"),
        ("\n", {}, "train.txt: lists no image"),
        ("a.jpg\n", {"labels": "folder"}, "train.txt, line 1: 'a.jpg' lies in no folder"),
        ("cat/a.jpg\n", {"labels": "folder", "classes": "names.txt"}, "line 1: class cat is not one of the 2"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, train: str, options: Any, message: str) -> None:
    root = lists(tmp_path, train=train, val="x/b.jpg 1\n", names="sea\nsun\n")
    with pytest.raises(DataError) as error:
        list_files(root=root, **options)
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_a_list_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt: not UTF-8"):
        list_files(root=lists(tmp_path, val="a.jpg 0\n"))


@pytest.mark.parametrize("wrong", [{"labels": "name"}, {"val_fraction": 1.0}])
def test_a_value_outside_the_choice_is_a_wrong_argument(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        list_files(root=lists(tmp_path, train="a.jpg 0\n", val="b.jpg 0\n"), **wrong)


def test_folders_that_programs_leave_are_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    extra = ("train/@eaDir/x.jpg", "train/.ipynb_checkpoints/y.jpg", "train/__MACOSX/z.jpg", "train/cat/@eaDir/2.JPG")
    labels = folder(root=touch(tmp_path, *FILES, *extra)).train
    assert labels.class_names == ("big dog", "cat") and len(labels) == 3
    assert "folders left out, hidden or of no data: .cache, .ipynb_checkpoints, @eaDir, __MACOSX" in caplog.text
    assert "(.txt 1)" in caplog.text


def test_rarer_suffixes_are_read(tmp_path: Path) -> None:
    names = [f"train/cat/{k}{suffix}" for k, suffix in enumerate((".avif", ".jfif", ".jp2", ".JP2"))]
    assert len(folder(root=touch(tmp_path, *FILES, *names)).train) == 3 + 4


def test_a_copy_in_two_class_folders_is_one_image_with_both_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = touch(tmp_path, *FILES)
    for file, content in (
        ("cat/9.jpg", b"same"),
        ("big dog/9.jpg", b"same"),
        ("cat/8.jpg", b"this"),
        ("big dog/8.jpg", b"that"),
    ):
        (tmp_path / "train" / file).write_bytes(content)
    splits = folder(root=root)
    targets = dict(zip(splits.train.files, splits.train.dense().tolist(), strict=True))
    assert targets == {
        "big dog/3.webp": [1, 0],
        "big dog/8.jpg": [1, 0],
        "big dog/9.jpg": [1, 1],
        "cat/2.JPG": [0, 1],
        "cat/8.jpg": [0, 1],
        "cat/deep/1.png": [0, 1],
    }
    assert "1 file in several class folders" in caplog.text
    with pytest.raises(DataError, match=r"big dog/9\.jpg: big dog, cat"):
        check_one_label(splits.train)


def test_class_folders_that_look_the_same_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nfc, nfd = (unicodedata.normalize(form, "for\u00eat") for form in ("NFC", "NFD"))
    files = (f"train/{nfc}/1.jpg", f"train/{nfd}/2.jpg", "train/Cat/3.jpg", "train/cat/4.jpg", f"val/{nfd}/5.jpg")
    splits = folder(root=touch(tmp_path, *files))
    assert splits.train.class_names == ("Cat", "cat", nfc)
    assert sorted(splits.train.dense().argmax(1).tolist()) == [0, 1, 2, 2]
    assert splits.val.dense().tolist() == [[0, 0, 1]]
    check_files(splits.train)
    check_files(splits.val)
    assert "'Cat' and 'cat'" in caplog.text


def one_list(root: Path, train: str, **options: Any) -> Any:
    (root / "train.txt").write_text(train, encoding="utf-8")
    return list_files(root=str(root), val_fraction=0.5, **options)


@pytest.mark.parametrize("lines", ["1.jpg 0,1\n2.jpg 1,0\n", "1.jpg 0 1\n2.jpg 0 1\n3.jpg\n"])
def test_a_zero_or_one_per_class_is_not_read_as_two_indices(tmp_path: Path, lines: str) -> None:
    with pytest.raises(DataError, match="looks like a 0 or 1 per class"):
        one_list(tmp_path, lines)
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    assert one_list(tmp_path, lines, classes="names.txt").train.num_classes == 3, "two of three classes"
    assert one_list(tmp_path, "1.jpg 0,1\n2.jpg 1\n").train.num_classes == 2


@pytest.mark.parametrize("number", ["20230101", "1000"])
def test_a_number_that_is_no_index_is_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(DataError, match=rf"largest class index is {number}, but only 2 different .*dataset\.classes"):
        one_list(tmp_path, f"1.jpg {number}\n2.jpg 0\n")
    many = "".join(f"{k}.jpg {20 * k}\n" for k in range(60))
    assert one_list(tmp_path, many).train.num_classes == 1181, "a sample of many classes"


def test_lists_find_files_as_the_csv_reader_does(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.png")
    splits = one_list(tmp_path, "a\\1.jpg 0\na/2 1\n")
    assert sorted([*splits.train.files, *splits.val.files]) == ["a/1.jpg", "a/2.png"]
    with pytest.raises(DataError, match="listed a second time"):
        one_list(tmp_path, "a/1.jpg 0\na/1 1\n")


def test_links_that_lead_around_are_left_out(tmp_path: Path) -> None:
    root = Path(touch(tmp_path, "train/cat/1.jpg", "train/cat/deep/2.jpg", "train/dog/3.jpg", "val/cat/4.jpg"))
    (root / "train/cat/deep/up").symlink_to(root / "train/cat")
    (root / "train/cat/other").symlink_to(root / "train/dog")
    (root / "train/dog/other").symlink_to(root / "train/cat")
    (root / "train/cat/self").symlink_to(root / "train/cat/self")
    labels = folder(root=str(root)).train
    assert {labels.file(i) for i in range(len(labels))} == {
        "cat/1.jpg",
        "cat/deep/2.jpg",
        "cat/other/3.jpg",
        "dog/3.jpg",
        "dog/other/1.jpg",
        "dog/other/deep/2.jpg",
    }
