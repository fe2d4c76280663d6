"""Promises about tables and folders that are a little odd: each is read, or refused with the fix."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mltrain.config.build import instantiate, load
from mltrain.datasets import read_csv
from mltrain.datasets.auto import auto
from mltrain.datasets.class_lists import class_lists
from mltrain.datasets.csv import csv_file
from mltrain.datasets.json_file import json_file
from mltrain.datasets.splits import check_files
from mltrain.errors import DataError
from tests.datasets.formats import CASES, touch, write
from tests.datasets.more_formats import pack


def test_crosses_and_blanks_are_said_and_the_line_of_excel_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = write(tmp_path / "a.csv", "sep=;\nimage;cat;dog\n1.jpg;x;\n2.jpg;;X\n3.jpg;;\n")
    labels = read_csv(file)
    assert labels.dense().tolist() == [[1, 0], [0, 1], [0, 0]] and labels.fully_labelled
    assert "'x' is read as 1" in caplog.text and "cells: 2 are 1, 4 are blank (negative: dataset.blank)" in caplog.text
    write(file, "sep=;\nimage;cat;dog\n1.jpg;x;\n2.jpg;;;\n")
    with pytest.raises(DataError, match=r"a\.csv, line 4: 4 fields, the header has 3"):
        read_csv(file)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1.jpg;0,9;0,1", "2.jpg;0,2;0,8"], r"'0,9' in column 'cat' \(line 2\) is a number with a decimal comma"),
        (["1.jpg;0.9;0.1", "2.jpg;0.2;0.8"], r"'0\.9' in column 'cat' \(line 2\) is a number, such as a score"),
        ([*[f"{k}.jpg;1;0" for k in range(20)], "x.jpg;0,5;1"], r"line 22: '0,5' in column 'cat', which holds 1, 0, "),
    ],
)
def test_scores_are_no_targets(tmp_path: Path, rows: list[str], message: str) -> None:
    file = write(tmp_path / "a.csv", "\n".join(["image;cat;dog", *rows]))
    with pytest.raises(DataError, match=message) as error:
        read_csv(file, delimiter=";")
    assert "Write 1 where an image has the label and 0 where it does not" in str(error.value)


def test_blank_splits_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"{k}.jpg,cat,{'train' if k < 5 else 'val' if k < 7 else ''}" for k in range(10)]
    file = write(tmp_path / "a.csv", "\n".join(["image,labels,split", *rows]))
    for read in (csv_file(file=str(file)), auto(path=str(file))):
        assert [len(labels) for labels in read if labels is not None] == [5, 2]
    said = (
        "3 of 10 images have no split, because column 'split' is blank there; they are not used. Write train, val there"
    )
    assert caplog.text.count(said) == 2
    write(file, "image,labels,split\n" + "".join(f"{k}.jpg,cat,\n" for k in range(3)))
    with pytest.raises(DataError, match=r"column 'split' is blank for all 3 images.*dataset\.val_fraction=0\.2"):
        csv_file(file=str(file))


def test_messages_about_json_name_the_keys_of_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = write(
        tmp_path / "metadata.jsonl", '{"file_name": "1.jpg", "tags": ["a"]}\n{"file_name": "", "tags": ["b"]}\n'
    )
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2: key 'file_name' is empty"):
        json_file(file=str(file), val_fraction=0.5)
    write(file, '{"file_name": "1.jpg", "tags": []}\n{"file_name": "2.jpg", "tags": []}\n')
    with pytest.raises(DataError, match=r"key 'tags' is empty in every row"):
        json_file(file=str(file), val_fraction=0.5)
    write(file, '{"file_name": "1.jpg", "tags": ["a"], "w": 3}\n{"file_name": "2.jpg", "tags": ["b"], "w": 4}\n')
    json_file(file=str(file), val_fraction=0.5)
    assert "images in key 'file_name', labels in key 'tags'; keys not read: 'w'" in caplog.text


def test_one_missing_image_is_to_be_added_or_removed(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    file = write(tmp_path / "a.csv", "image,labels\n1.jpg,a\n2.jpg,b\n3.jpg,a\n")
    with pytest.raises(DataError, match=r"1 of 3 .*\(add it, or remove its row from the labels\)"):
        check_files(read_csv(file))


def test_the_archive_with_the_missing_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    archive = pack(tmp_path / "photos.zip", {"1.jpg": "", "2.jpg": ""})
    file = write(tmp_path / "a.csv", "image,labels\n1.jpg,a\n2.jpg,b\n")
    for root in (tmp_path, tmp_path / "empty"):
        with pytest.raises(DataError) as error:
            check_files(read_csv(file, root=root))
        assert f"{archive} has them: dataset.root={archive}" in str(error.value)
    check_files(read_csv(file, root=archive))
    check_files(read_csv(file))


def test_an_archive_without_known_labels_is_refused_with_advice(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"1.pdf": "", "2.pdf": ""})
    with pytest.raises(DataError, match=r"no format of labels that is read from an archive; it holds 0 folders, 0 ima"):
        auto(path=str(path))


def test_a_patient_of_chestxray14_is_in_one_split(tmp_path: Path) -> None:
    CASES["csv_of_chestxray14_with_its_lists"](tmp_path)
    findings = ["No Finding", *["cat"] * 7]
    rows = [f"a{k}.jpg,{findings[k - 1]},{k // 3}" for k in range(1, 9)]
    table = write(tmp_path / "Data_Entry_2017_v2020.csv", "\n".join(["Image Index,Finding Labels,Patient ID", *rows]))
    write(tmp_path / "train_val_list.txt", "a1.jpg\na2.jpg\na3.jpg\na4.jpg\na5.jpg")
    write(tmp_path / "test_list.txt", "a6.jpg\na7.jpg\na8.jpg")
    words = [f"dataset.file={table}", "dataset.group_column=Patient ID", "dataset.val_fraction=0.5"]
    splits = instantiate(load(["dataset=chestxray14", *words]).dataset, "dataset")
    assert sorted(map(len, splits)) == [2, 3, 3] and {len(splits.val), len(splits.train)} == {2, 3}


def test_a_list_of_one_class_says_which_line_is_wrong(tmp_path: Path) -> None:
    CASES["voc_with_a_list_per_class"](tmp_path)
    file = tmp_path / "ImageSets" / "Main" / "cat_train.txt"
    file.write_text("a1  1\na2  0\na3 -1\na4\n")
    with pytest.raises(DataError, match=r"cat_train\.txt, line 4: expected an image and 1, -1 or 0, found 'a4'"):
        class_lists(root=str(tmp_path))
    file.write_text("a1  1\na2  0\na3 -1\n")
    train = class_lists(root=str(tmp_path)).train
    assert train.dense()[:3, train.class_names.index("cat")].tolist() == [1, -1, 0]
