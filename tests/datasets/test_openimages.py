"""Promises of the Open Images reader."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.datasets import check_files, check_splits, openimages_csv
from mltrain.datasets.openimages import openimages, read_openimages
from mltrain.errors import DataError

HEADER = "ImageID,Source,LabelName,Confidence\n"
CLASSES = ["/m/011k07", "/m/0cyhj_", "/m/01", "/g/11b6qmyslq"]
DESCRIPTIONS = 'LabelName,DisplayName\n/m/011k07,Tortoise\n/m/0cyhj_,"Orange, sweet"\n/m/01,Cat\n/g/11b6qmyslq,Cat\n'
A, B, C, D = "000002b66c9c498e", "000002b97e5471a0", "ffffffffffffffff", "0000000000000001"


def rows(*cells: tuple[str, str, str]) -> str:
    return HEADER + "".join(f"{image},verification,{label},{confidence}\n" for image, label, confidence in cells)


def tree(root: Path) -> Path:
    (root / "oidv6-classes-trainable.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "oidv6-class-descriptions.csv").write_text(DESCRIPTIONS)
    files = {
        "oidv6-train-annotations-human-imagelabels.csv": rows(
            (A, "/m/011k07", "1"), (A, "/m/0cyhj_", "0"), (A, "/m/0untrainable", "1"), (B, "/g/11b6qmyslq", "1")
        ),
        "validation-annotations-human-imagelabels.csv": rows((C, "/m/01", "0"), (C, "/m/011k07", "1")),
        "test-annotations-human-imagelabels.csv": rows((D, "/m/0cyhj_", "1")),
    }
    for name, text in files.items():
        (root / name).write_text(text)
    for folder, images in (("train", [A, B]), ("validation", [C]), ("test", [D])):
        (root / folder).mkdir()
        for image in images:
            (root / folder / f"{image}.jpg").touch()
    return root


def labels_file(folder: Path, text: str) -> dict[str, Path]:
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    (folder / "labels.csv").write_bytes(text.encode())
    return {"labels": folder / "labels.csv", "classes": folder / "classes.txt"}


def read(folder: Path, text: str, **options: Any) -> Any:
    files = labels_file(folder, text)
    return read_openimages(files["labels"], classes=files["classes"], **options)


def test_verified_labels_are_1_and_0_and_all_others_unknown(tmp_path: Path) -> None:
    splits = openimages(root=str(tree(tmp_path)))
    assert splits.train.dense().tolist() == [[1, 0, -1, -1], [-1, -1, -1, 1]]
    assert splits.val.dense().tolist() == [[1, -1, 0, -1]]
    assert splits.test is not None and splits.test.dense().tolist() == [[-1, 1, -1, -1]]
    assert [splits.train.file(i) for i in range(2)] == [f"train/{A}.jpg", f"train/{B}.jpg"]
    for labels in (splits.train, splits.val, splits.test):
        check_files(labels)
        assert labels.fill == -1
    check_splits(splits)


def test_names_come_from_the_descriptions_and_shared_ones_keep_their_id(tmp_path: Path) -> None:
    root = tree(tmp_path)
    named = ("Tortoise", "Orange, sweet", "Cat (/m/01)", "Cat (/g/11b6qmyslq)")
    assert openimages(root=str(root)).train.class_names == named
    assert openimages(root=str(root), descriptions=None).train.class_names == tuple(CLASSES)


def test_absent_classes_may_be_negative_in_train_but_never_in_validation(tmp_path: Path) -> None:
    splits = openimages(root=str(tree(tmp_path)), train_absent="negative", test_labels=None)
    assert splits.train.dense().tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    assert splits.train.fully_labelled and splits.test is None
    assert splits.val.dense().tolist() == [[1, -1, 0, -1]]


@pytest.mark.parametrize("block", [1, 50, 97, 2**24])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blocks_order_and_line_ends_do_not_matter(
    tmp_path: Path, block: int, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    images = [f"{int(k):016x}" for k in random.integers(0, 2**63, 40)]
    truth = random.integers(-1, 2, (40, 4))
    cells = [
        (image, CLASSES[k], f"{value}.0" if k == 2 else str(value))
        for image, targets in zip(images, truth, strict=True)
        for k, value in enumerate(targets)
        if value >= 0
    ] + [(image, "/m/other", "1") for image in images]
    random.shuffle(cells)
    monkeypatch.setattr(openimages_csv, "BLOCK", block)
    labels = read(tmp_path, rows(*cells).replace("\n", end).rstrip(end))
    expected = {image: targets for image, targets in zip(images, truth, strict=True) if (targets >= 0).any()}
    assert [labels.file(i) for i in range(len(labels))] == [f"{image}.jpg" for image in sorted(expected)]
    assert labels.dense().tolist() == [expected[image].tolist() for image in sorted(expected)]


@pytest.mark.parametrize("absent", ["unknown", "negative"])
def test_repeated_rows_count_once_and_contradictions_become_unknown(
    tmp_path: Path, absent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    text = rows(
        (A, "/m/01", "1"), (A, "/m/011k07", "1"), (A, "/m/01", "0"), (A, "/m/011k07", "1"), (A, "/m/0cyhj_", "0")
    )
    labels = read(tmp_path, text, absent=absent)
    assert labels.dense().tolist() == [[1, 0, -1, 0 if absent == "negative" else -1]]
    assert "1 row a repeat of another" in caplog.text and "verified as both present and absent: 1 class" in caplog.text


def test_images_without_a_class_of_the_list_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    labels = read(tmp_path, rows((A, "/m/0untrainable", "1"), (B, "/m/01", "1"), (A, "/m/0untrainable", "0")))
    assert len(labels) == 1 and "1 image without a verified class of the 4 left out" in caplog.text


def test_image_folders_by_the_first_digit(tmp_path: Path) -> None:
    labels = read(tmp_path, rows((A, "/m/01", "1"), (C, "/m/01", "0")), images="train_{first}/{id}.jpg")
    assert [labels.file(i) for i in range(2)] == [f"train_0/{A}.jpg", f"train_f/{C}.jpg"]


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    text = f"Confidence,LabelName,ImageID\n1,/m/01,{A}\n0,/m/011k07,{A}\n"
    assert read(tmp_path, text).dense().tolist() == [[0, -1, 1, -1]]


def test_every_class_of_a_large_list_is_found(tmp_path: Path) -> None:
    ids = [f"/m/0{k:x}" for k in range(20_000)]
    (tmp_path / "classes.txt").write_text("\n".join(ids))
    chosen = np.random.default_rng(0).permutation(20_000)[:500]
    (tmp_path / "labels.csv").write_text(rows(*((f"{i:016x}", ids[k], "1") for i, k in enumerate(chosen))))
    labels = read_openimages(tmp_path / "labels.csv", classes=tmp_path / "classes.txt")
    assert labels.positive_pairs()[1].tolist() == chosen.tolist()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            f"{A},verification,/m/01,0.7",
            "Confidence '0.7', expected 1 (present) or 0 (absent). Fractions are those of machine",
        ),
        (f"{A},verification,/m/01,2", "Confidence '2'"),
        (f"{A},verification,/m/01,", "Confidence ''"),
        (f"{A},verification,/m/01", "3 fields, the header has 4"),
        (f"{A},verification,/m/01,1,1", "5 fields, the header has 4"),
        ("", "1 fields"),
        ("2b66c9c498e,verification,/m/01,1", "'2b66c9c498e' is no image id"),
        ("000002B66C9C498E,verification,/m/01,1", "is no image id"),
        (f"{A},verification,,1", "no class id"),
    ],
)
@pytest.mark.parametrize("block", [64, 2**24])
def test_a_broken_row_is_named_with_its_line(
    tmp_path: Path, row: str, message: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openimages_csv, "BLOCK", block)
    good = rows(*((A, "/m/011k07", "1"),) * 5)
    with pytest.raises(DataError) as error:
        read(tmp_path, f"{good}{row}\n{A},verification,/m/01,1\n")
    assert f"{tmp_path}/labels.csv, line 7: " in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column ImageID; found an empty file"),
        ("ImageID,Source,LabelName\n", "no column Confidence"),
        (HEADER, "no row below the header"),
        (rows((A, "/m/0none", "1")), "its rows (1) have none of the classes (4)"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert message in str(error.value) and "labels.csv" in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("oidv6-classes-trainable.txt", "/m/01\n/m/01\n", "line 2: class '/m/01' appears more than once"),
        ("oidv6-classes-trainable.txt", "/m/01,Cat\n", "line 1: '/m/01,Cat' is no class id"),
        ("oidv6-classes-trainable.txt", "\n", "no class name; expected one per line"),
        ("oidv6-class-descriptions.csv", "/m/011k07,Tortoise\n", "no name for 3 of 4 classes, the first /m/0cyhj_"),
        ("oidv6-class-descriptions.csv", "/m/011k07\n", "line 1: 1 fields"),
    ],
)
def test_broken_class_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tree(tmp_path) / name
    path.write_text(text)
    with pytest.raises(DataError) as error:
        openimages(root=str(tmp_path))
    assert message in str(error.value) and str(path) in str(error.value)


def test_missing_files_are_one_message_with_their_addresses(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        openimages(root=str(tmp_path))
    message = str(error.value)
    assert "5 of 5 expected paths are missing" in message and "v5/test-annotations-human-imagelabels.csv" in message


@pytest.mark.parametrize("wrong", [{"train_absent": "drop"}, {"train_images": "train/x.jpg"}])
def test_a_value_outside_the_choice_is_a_wrong_argument(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        openimages(root=str(tree(tmp_path)), **wrong)
