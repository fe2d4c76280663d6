"""Promises of the csv reader."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.datasets import check_files, check_splits, read_csv
from mltrain.datasets.csv import csv_file
from mltrain.errors import DataError

PLAIN = "image,labels,split\na.jpg,sea;sun,train\nb.jpg,,train\nc.jpg,sun,val\nd.jpg,tree,test\n"


def write(folder: Path, text: str, name: str = "labels.csv", encoding: str = "utf-8") -> str:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return str(path)


def test_plain_file_is_fully_labelled_and_its_classes_are_sorted(tmp_path: Path) -> None:
    splits = csv_file(file=write(tmp_path, PLAIN), name="mine", test_split="test")
    assert splits.train.class_names == ("sea", "sun", "tree")
    assert splits.train.dense().tolist() == [[1, 1, 0], [0, 0, 0]]
    assert splits.val.dense().tolist() == [[0, 1, 0]]
    assert splits.test is not None and splits.test.dense().tolist() == [[0, 0, 1]]
    assert splits.train.name == "mine/train" and splits.train.fully_labelled
    assert splits.train.path(0) == str(tmp_path / "a.jpg")
    check_splits(splits)


@pytest.mark.parametrize("mark", ["-", "!", "- ", "! "])
def test_one_verified_negative_makes_unlisted_labels_unknown_everywhere(tmp_path: Path, mark: str) -> None:
    text = PLAIN.replace("d.jpg,tree", f"d.jpg,tree;{mark}sea")
    splits = csv_file(file=write(tmp_path, text), test_split="test")
    assert splits.train.dense().tolist() == [[1, 1, -1], [-1, -1, -1]]
    assert splits.test is not None and splits.test.dense().tolist() == [[0, -1, 1]]
    assert not splits.train.fully_labelled


def test_a_question_mark_is_one_unknown_label_and_leaves_the_rest_negative(tmp_path: Path) -> None:
    splits = csv_file(file=write(tmp_path, PLAIN.replace("sea;sun,train", "sea;?sun,train")), test_split="test")
    assert splits.train.dense().tolist() == [[1, -1, 0], [0, 0, 0]]
    assert splits.val.dense().tolist() == [[0, 1, 0]]


def test_classes_file_fixes_the_order_and_may_name_a_class_with_a_mark(tmp_path: Path) -> None:
    classes = write(tmp_path, "tree\nsun\n\n-sea\nboat\n", "classes.txt")
    text = "image,labels,split\na.jpg,-sea;!boat,train\nb.jpg,--sea;sun,val\n"
    splits = csv_file(file=write(tmp_path, text), classes=classes)
    assert splits.train.class_names == ("tree", "sun", "-sea", "boat")
    assert splits.train.dense().tolist() == [[-1, -1, 1, 0]]
    assert splits.val.dense().tolist() == [[-1, 1, 0, -1]]


def test_quotes_spaces_byte_order_mark_blank_lines_and_extra_columns(tmp_path: Path) -> None:
    text = '\ufeffid, image , labels,split\r\n1,"a, b.jpg"," big sea ; sun;", train\r\n\r\n2, é.jpg ,sun,val\r\n'
    splits = csv_file(file=write(tmp_path, text))
    assert splits.train.class_names == ("big sea", "sun")
    assert (splits.train.file(0), splits.val.file(0)) == ("a, b.jpg", "é.jpg")
    assert splits.train.dense().tolist() == [[1, 1]]


def test_separator_delimiter_columns_and_split_names_are_options(tmp_path: Path) -> None:
    text = "path\ttags\tfold\nx\ta,b\t1\ny\tb\t2\nz\tb\t3\n"
    splits = csv_file(
        file=write(tmp_path, text),
        separator=",",
        delimiter="\t",
        image_column="path",
        labels_column="tags",
        split_column="fold",
        train_split="1",
        val_split="3",
        root=str(tmp_path / "images"),
    )
    assert (len(splits.train), len(splits.val)) == (1, 1)
    assert splits.val.path(0) == str(tmp_path / "images" / "z")
    assert splits.train.dense().tolist() == [[1, 1]]


def test_splits_that_are_not_used_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    csv_file(file=write(tmp_path, PLAIN.replace(",test", ",dev")))
    assert "splits not used: dev (1 image)" in caplog.text


def test_rows_of_one_image_are_merged(tmp_path: Path) -> None:
    text = "image,labels,split\na.jpg,sea,train\n./a.jpg,sun;sea,train\nb.jpg,sun,val\n"
    splits = csv_file(file=write(tmp_path, text))
    assert splits.train.dense().tolist() == [[1, 1]]


@pytest.mark.parametrize("rows", [1, 7])
def test_held_out_share_is_deterministic_and_independent_of_the_order_of_rows(tmp_path: Path, rows: int) -> None:
    lines = [f"{i}.jpg,{'sea' if i % 2 else 'sun'}" for i in range(100)]
    given = csv_file(file=write(tmp_path, "\n".join(["image,labels", *lines])), val_fraction=0.2)
    turned = csv_file(file=write(tmp_path, "\n".join(["image,labels", *lines[rows:], *lines[:rows]])), val_fraction=0.2)
    other = csv_file(file=write(tmp_path, "\n".join(["image,labels", *lines])), val_fraction=0.2, split_seed=1)
    val = set(given.val.image_paths)
    assert len(val) == 20 and len(given.train) == 80 and not val & set(given.train.image_paths)
    assert val == set(turned.val.image_paths) != set(other.val.image_paths)


def test_held_out_share_leaves_the_test_rows_alone(tmp_path: Path) -> None:
    rows = "".join(f"{i}.jpg,sea,{'test' if i < 4 else 'train'}\n" for i in range(12))
    splits = csv_file(file=write(tmp_path, "image,labels,split\n" + rows), val_fraction=0.25, test_split="test")
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6, 2, 4)
    check_splits(splits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,labels,split\na,sea,train\nb,sae,val\n", "line 3: label 'sae' is not in the classes file"),
        ("image,labels,split\na,sea,train\nb,sae,val\n", "did you mean 'sea'"),
        ("image,labels,split\na,sea;!,train\n", "line 2: label '!' is a mark without a name"),
        ("image,labels,split\na,sea;-sea,train\n", "line 2: a has 'sea' twice, with two values"),
        ("image,labels,split\na,sea,train\n\na,-sea,train\n", "line 4: a has 'sea' twice"),
        ("image,labels,split\na,sea,train\na,sea,val\n", "line 3: a is of split 'val' here and 'train' in line 2"),
        ("image,labels,split\na,sea\n", "line 2: 2 fields, the header has 3"),
        ("image,labels,split\n,sea,train\n", "line 2: column 'image' is empty"),
        ('image,labels,split\na,"sea,train\n', "check its quotes"),
        ("file,labels\na,sea\n", "no column 'image'; found file, labels"),
        ("image,image,labels\na,b,sea\n", "more than one column 'image'"),
        ("", "an empty file"),
        ("image,labels,split\n", "no row below the header"),
        ("image,labels,split\na,sea,train\n", "no image of split 'val'"),
        (
            "image,labels,split\na,sea,train\n",
            "all 1 are train. Set dataset.val_fraction=0.2, or name",
        ),
        ("image,labels\na,sea\n", "no image of split 'val'"),
    ],
)
def test_a_broken_rule_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(DataError) as error:
        csv_file(file=file, classes=write(tmp_path, "sea\nsun\n", "classes.txt"))
    assert message in str(error.value) and file in str(error.value)


def test_labels_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no class"):
        csv_file(file=write(tmp_path, "image,labels,split\na,,train\nb,,val\n"))


@pytest.mark.parametrize(("text", "message"), [("sea\nsea\n", "line 2: class 'sea'"), ("\n", "no class name")])
def test_a_broken_classes_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    classes = write(tmp_path, text, "classes.txt")
    with pytest.raises(DataError) as error:
        csv_file(file=write(tmp_path, PLAIN), classes=classes)
    assert message in str(error.value) and classes in str(error.value)


@pytest.mark.parametrize("which", ["labels.csv", "classes.txt"])
def test_a_file_that_is_not_utf8_is_named(tmp_path: Path, which: str) -> None:
    classes = write(tmp_path, "sea\nsun\ntree\ncafé\n", "classes.txt", "latin-1" if which == "classes.txt" else "utf-8")
    file = write(tmp_path, PLAIN + "é.jpg,sea,val\n", encoding="latin-1" if which == "labels.csv" else "utf-8")
    with pytest.raises(DataError, match=f"{which}: not UTF-8"):
        csv_file(file=file, classes=classes)


def test_missing_files_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        csv_file(file=str(tmp_path / "no.csv"), classes=str(tmp_path / "no.txt"))
    assert "2 of 2 expected paths" in str(error.value) and "dataset.file=FILE" in str(error.value)


@pytest.mark.parametrize("wrong", [{"val_fraction": 1.0}, {"separator": ""}, {"delimiter": ";;"}, {"blank": "no"}])
def test_options_that_cannot_be_are_wrong_arguments(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError):
        csv_file(file=write(tmp_path, PLAIN), **wrong)


def test_a_share_that_leaves_a_split_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves train or val empty"):
        csv_file(file=write(tmp_path, PLAIN), val_fraction=0.1)


def test_real_corel5k_has_its_published_counts(shared_data: Path) -> None:
    root = shared_data / "corel5k"
    splits = csv_file(file=str(root / "labels.csv"), classes=str(root / "words.txt"), val_split="test")
    assert (len(splits.train), len(splits.val), splits.train.num_classes) == (4500, 499, 374)
    both = (splits.train.dense() == 1).any(0) & (splits.val.dense() == 1).any(0)
    assert int(both.sum()) == 260
    counts = (splits.train.dense() == 1).sum(0) + (splits.val.dense() == 1).sum(0)
    assert splits.train.class_names[int(np.argmax(counts))] == "water"
    check_files(splits.train)
    check_files(splits.val)
    check_splits(splits)


def test_one_split_and_all_rows_by_the_library_call(tmp_path: Path) -> None:
    file = write(tmp_path, PLAIN)
    assert len(read_csv(file)) == 4 and len(read_csv(file, split="train")) == 2
    with pytest.raises(DataError, match="no image of split 'dev'; found test, train, val"):
        read_csv(file, split="dev")


def test_a_folder_instead_of_the_file_is_refused_with_the_right_option(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is a directory, expected one csv file .*dataset=folder dataset\.root=FOLDER"
    ):
        csv_file(file=str(tmp_path))
