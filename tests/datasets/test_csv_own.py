"""Promises of the csv reader about files that people have: lists, one column per class, other spellings, splits."""

from __future__ import annotations

import inspect
import logging
import shlex
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mltrain.config import load
from mltrain.datasets import read_csv
from mltrain.datasets.csv import csv_file
from mltrain.errors import DataError

ROWS = ["cat;dog", "cat", "dog;bird", "bird", "dog", "cat;bird", "fish", "fish;cat"]


def write(folder: Path, text: str, name: str = "labels.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def table(cells: list[str], repeat: int = 4) -> str:
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells] * repeat
    return "image,labels\n" + "".join(f"{k}.jpg,{cell}\n" for k, cell in enumerate(quoted))


def follow(message: str, file: str) -> dict[str, Any]:
    """Return the options that a message advises, as the command line reads them."""
    words = [word for word in shlex.split(message.replace(". ", " ")) if word.startswith("dataset.") and "=" in word]
    overrides = [word for word in words if not word.endswith("=FILE")]
    assert overrides
    cfg = load(["dataset=csv", f"dataset.file={file}", *overrides])
    own = inspect.signature(csv_file).parameters.keys() - {"val_fraction"}
    return {str(key): value for key, value in cfg.dataset.items() if key in own}


# -- one column per class --------------------------------------------------------------------------------------------


def test_one_column_per_class_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    labels = read_csv(write(tmp_path, "image,cat,dog\n1.jpg,1,0\n2.jpg,0,1\n3.jpg,1,1\n4.jpg,0,0\n"))
    assert labels.class_names == ("cat", "dog") and labels.fully_labelled
    assert labels.dense().tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    lines = [record.getMessage() for record in caplog.records if "one column per class" in record.getMessage()]
    assert len(lines) == 1 and "2 classes (cat, dog), images in column 'image'" in lines[0]
    assert "cells: 4 are 1, 4 are 0" in lines[0]


def test_classes_csv_of_roboflow(tmp_path: Path) -> None:
    labels = read_csv(write(tmp_path, "filename, Cat, Dog\nb_jpg.rf.1.jpg, 1, 0\na_jpg.rf.2.jpg, 0, 1\n"))
    assert labels.class_names == ("Cat", "Dog")
    assert labels.dense().tolist() == [[1, 0], [0, 1]] and labels.file(0) == "b_jpg.rf.1.jpg"


@pytest.mark.parametrize(("blank", "fill"), [("negative", 0), ("unknown", -1)])
def test_chexpert_has_unknown_and_blank_cells_and_columns_that_are_no_class(
    tmp_path: Path, blank: Any, fill: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    header = "Path,Sex,Age,Frontal/Lateral,No Finding,Edema,Support Devices\n"
    rows = "a/1.jpg,Female,68,Frontal,1.0,,-1.0\na/2.jpg,Male,0,Lateral,,0.0,1.0\na/3.jpg,Male,1,Frontal,,,\n"
    labels = read_csv(write(tmp_path, header + rows), blank=blank)
    assert labels.class_names == ("No Finding", "Edema", "Support Devices")
    assert labels.dense().tolist() == [[1, fill, -1], [fill, 0, 1], [fill, fill, fill]]
    assert "columns not read: 'Sex', 'Age', 'Frontal/Lateral'" in caplog.text


def test_columns_of_classes_with_a_split_an_index_and_words_for_numbers(tmp_path: Path) -> None:
    text = ",image,a,b,split,is_valid\n0,1.jpg,True,false,train,0\n1,2.jpg,0,1.0,val,1\n2,3.jpg,no,yes,test,0\n"
    splits = csv_file(file=write(tmp_path, text))
    assert splits.train.class_names == ("a", "b") and splits.test is not None
    assert [labels.dense().tolist() for labels in splits if labels is not None] == [[[1, 0]], [[0, 1]], [[0, 1]]]


def test_a_classes_file_chooses_and_orders_the_columns(tmp_path: Path) -> None:
    classes = write(tmp_path, "dog\ncat\n", "classes.txt")
    text = "image,cat,count,dog\n1.jpg,1,1,0\n2.jpg,0,1,1\n"
    labels = read_csv(write(tmp_path, text), classes=classes)
    assert labels.class_names == ("dog", "cat") and labels.dense().tolist() == [[0, 1], [1, 0]]
    with pytest.raises(DataError, match=r"no column for 1 classes .*\(bird\)"):
        read_csv(write(tmp_path, text), classes=write(tmp_path, "dog\nbird\n", "classes.txt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,cat,dog\n" + "1.jpg,1,0\n" * 1 + "".join(f"x{k}.jpg,0,1\n" for k in range(20)) + "2.jpg,l,0\n",
            "line 23: 'l'",
        ),
        ("image,cat,dog\n1.jpg,1,0\n1.jpg,0,1\n", "line 3: 1.jpg has another target of 'cat' here than in line 2"),
        ("image,cat,cat\n1.jpg,1,0\n", "two columns are called 'cat'"),
        ("image,label\n1.jpg,1\n2.jpg,0\n", "no column 'labels'; found image, label"),
        ("image,weight\n1.jpg,3.5\n2.jpg,0\n", "no column 'labels'; found image, weight"),
    ],
)
def test_columns_that_cannot_be_classes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_csv(write(tmp_path, text))
    assert message in str(error.value)


def test_rows_of_one_image_add_up_if_a_blank_is_unknown(tmp_path: Path) -> None:
    labels = read_csv(write(tmp_path, "image,cat,dog\n1.jpg,1,\n1.jpg,,0\n2.jpg,,\n"), blank="unknown")
    assert labels.dense().tolist() == [[1, 0], [-1, -1]]


def test_a_class_column_named_as_labels_is_refused_with_the_fix(tmp_path: Path) -> None:
    file = write(tmp_path, "image,cat,dog\n1.jpg,1,0\n2.jpg,0,1\n")
    with pytest.raises(DataError, match=r"column 'cat' holds 0 and 1 only.*leave dataset\.labels_column out"):
        read_csv(file, labels_column="cat")


def test_the_option_blank_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset\.blank=unknown is for files with one column per class"):
        read_csv(write(tmp_path, table(ROWS)), blank="unknown")


# -- lists and separators --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda items: repr(items),
        lambda items: str(tuple(items)),
        lambda items: "[" + " ".join(map(repr, items)) + "]",
        lambda items: "[" + ", ".join(f'"{item}"' for item in items) + "]",
        lambda items: "[" + ", ".join(items) + "]",
        lambda items: "[" + ",".join(items) + "]",
    ],
)
def test_lists_in_cells_are_read(tmp_path: Path, form: Any) -> None:
    expected = read_csv(write(tmp_path, table([*ROWS, ""])))
    labels = read_csv(write(tmp_path, table([form(row.split(";")) for row in ROWS] + ["[]"]), "lists.csv"))
    assert labels.class_names == expected.class_names == ("bird", "cat", "dog", "fish")
    assert labels.fingerprint() == expected.fingerprint()


def test_marks_quotes_and_commas_within_a_list(tmp_path: Path) -> None:
    labels = read_csv(write(tmp_path, table(["['cat', '!dog']", "['dog', \"it's, so\"]"], 1)))
    assert labels.class_names == ("cat", "dog", "it's, so")
    assert labels.dense().tolist() == [[1, 0, -1], [-1, 1, 1]]


def test_a_list_of_ones_and_zeros_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: '\[1, 0, 0\]' is 1 or 0 per class; .* one column per class"):
        read_csv(write(tmp_path, table(["[1, 0, 0]", "[0, 1, 1]"])))


@pytest.mark.parametrize("separator", [",", "|", " ", "/", "+", "\t", ", ", " | "])
def test_another_separator_is_refused_with_advice_that_works(tmp_path: Path, separator: str) -> None:
    file = write(tmp_path, table([row.replace(";", separator) for row in ROWS]))
    with pytest.raises(DataError, match="makes 4 classes of these 8") as error:
        read_csv(file)
    assert "dataset.classes=FILE" in str(error.value)
    options = follow(str(error.value), file)
    splits = csv_file(**options, val_fraction=0.25)
    assert splits.train.class_names == ("bird", "cat", "dog", "fish")
    names = "".join(f"{name}\n" for name in sorted({row.replace(";", separator) for row in ROWS}))
    assert read_csv(file, classes=write(tmp_path, names, "classes.txt")).num_classes == 8, "the other advice"


@pytest.mark.parametrize("cell", ["cat,dog", "cat|dog", "cat|dog|bird"])
def test_one_combination_for_all_images_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match="look like several labels each"):
        read_csv(write(tmp_path, table([cell])))


@pytest.mark.parametrize(
    "cells",
    [
        ["traffic light", "sea", "big sea", "teddy bear", "bear"],
        ["red car", "blue car", "red bike", "blue bike"],
        ["tench, Tinca tinca", "goldfish, Carassius auratus", "crane"],
        ["and/or", "either", "neither"],
        ["No Finding", "Pleural Effusion", "Pleural Other"],
    ],
)
def test_names_of_several_words_stay_names(tmp_path: Path, cells: list[str], caplog: pytest.LogCaptureFixture) -> None:
    assert read_csv(write(tmp_path, table(cells, 10))).class_names == tuple(sorted(cells))
    assert "look like" not in caplog.text


def test_a_separator_that_some_rows_use_is_offered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = read_csv(write(tmp_path, table(["cat;dog", "cat,dog", "cat,bird", "bird"])))
    assert labels.num_classes == 5
    assert "'dataset.separator=\",\"' makes 3 classes of these 5" in caplog.text


def test_labels_that_are_nearly_all_different_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"40 images have 40 different labels .*dataset\.labels_column"):
        read_csv(write(tmp_path, table([f"caption{k}" for k in range(40)], 1)))


# -- delimiters, splits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["\t", "\\t", "tab"])
def test_a_tab_can_be_written(tmp_path: Path, spelled: str) -> None:
    labels = read_csv(write(tmp_path, "image\tlabels\n1\ta;b\n2\ta\n"), delimiter=spelled)
    assert labels.class_names == ("a", "b")


@pytest.mark.parametrize(("mark", "between"), [(";", ","), ("\t", ";"), ("|", ";")])
def test_the_delimiter_is_named_so_that_following_it_works(tmp_path: Path, mark: str, between: str) -> None:
    text = f"image{mark}labels\n1.jpg{mark}a{between}b\n2.jpg{mark}a\n3.jpg{mark}b\n4.jpg{mark}a\n"
    file = write(tmp_path, text)
    with pytest.raises(DataError, match="found one column") as error:
        read_csv(file)
    splits = csv_file(**follow(str(error.value).replace(" (separator: between labels)", ""), file), val_fraction=0.25)
    assert splits.train.class_names == ("a", "b")


def test_the_command_line_may_change_the_case_of_a_split(tmp_path: Path) -> None:
    file = write(tmp_path, "image,labels,is_train\n1,a,True\n2,a,False\n")
    cfg = load(
        ["dataset=csv", "dataset.split_column=is_train", "dataset.train_split='true'", "dataset.val_split='false'"]
    )
    options = {str(key): cfg.dataset[key] for key in ("split_column", "train_split", "val_split")}
    splits = csv_file(file=file, **options)
    assert (splits.train.file(0), splits.val.file(0)) == ("1", "2")


def test_rows_called_test_are_the_test_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, "image,labels,split\na,x,train\nb,y,val\nc,x,test\nd,y,train\ne,x,train\nf,y,train\n")
    splits = csv_file(file=file)
    assert splits.test is not None and splits.test.files == ["c"]
    assert csv_file(file=file, val_split="test").test is None, "asked for as val"
    held_out = csv_file(file=file, val_fraction=0.5)
    assert held_out.test is not None and held_out.test.files == ["c"] and "b" not in held_out.val.files
    assert "the 1 images of split val are not used; without dataset.val_fraction and dataset.folds" in caplog.text


# -- spellings of classes and images ---------------------------------------------------------------------------------

NFC, NFD = (unicodedata.normalize(form, "forêt") for form in ("NFC", "NFD"))


def test_class_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    assert NFC != NFD
    labels = read_csv(write(tmp_path, table([NFC, f"{NFD};hot  dog", "hot dog", "hot\u00a0dog"], 1)))
    assert labels.class_names == tuple(sorted([NFC, "hot dog"]))
    assert labels.dense()[:, labels.class_names.index("hot dog")].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("spelled", [NFC, NFD])
def test_a_name_in_one_spelling_stays_and_a_classes_file_decides(tmp_path: Path, spelled: str) -> None:
    assert read_csv(write(tmp_path, table([spelled, "x"], 1))).class_names == tuple(sorted([spelled, "x"]))
    classes = write(tmp_path, f"{NFC}\nx\n", "classes.txt")
    labels = read_csv(write(tmp_path, table([spelled, f"!{spelled};x"], 1)), classes=classes)
    assert labels.class_names == (NFC, "x") and labels.dense().tolist() == [[1, -1], [0, 1]]
    with pytest.raises(DataError, match=r"classes\.txt: .* is there twice, with other code points"):
        read_csv(write(tmp_path, table(["x"])), classes=write(tmp_path, f"{NFC}\n{NFD}\nx\n", "classes.txt"))


def test_classes_that_differ_in_case_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_csv(write(tmp_path, table(["Cat", "cat", "dog"]))).num_classes == 3
    assert "differ in upper and lower case only are kept apart: 'Cat' and 'cat'" in caplog.text


@pytest.mark.parametrize(("written", "on_disk"), [(NFC, NFD), (NFD, NFC)])
def test_files_are_found_in_other_code_points(tmp_path: Path, written: str, on_disk: str) -> None:
    (tmp_path / on_disk).mkdir()
    (tmp_path / on_disk / f"{on_disk}.jpg").touch()
    labels = read_csv(write(tmp_path, f"image,labels\n{written}/{written}.jpg,a\n"))
    assert Path(labels.path(0)).is_file()


def test_backslashes_and_missing_suffixes_are_found(tmp_path: Path) -> None:
    for name in ("photos/1.jpg", "photos/deep/2.PNG", "3.jpeg", "3.txt", "4", "5.jpg/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rows = ["photos\\1.jpg", "photos/deep\\2", "3", "4", ".\\photos\\none.jpg"]
    labels = read_csv(write(tmp_path, "image,labels\n" + "".join(f"{row},a\n" for row in rows)))
    assert labels.files == ["photos/1.jpg", "photos/deep/2.PNG", "3.jpeg", "4", "photos/none.jpg"]


def test_a_missing_suffix_with_two_candidates_is_refused(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.png"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"line 2: '1' has no suffix, and there are 1\.jpg, 1\.png"):
        read_csv(write(tmp_path, "image,labels\n1,a\n"))


def test_an_image_by_two_paths_is_one_image(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    forms = ["1.jpg", f"{tmp_path}/1.jpg", "x/../1.jpg", f"../{tmp_path.name}/1.jpg", "1", ".\\1.jpg"]
    labels = read_csv(write(tmp_path, "image,labels\n" + "".join(f"{form},c{k}\n" for k, form in enumerate(forms))))
    assert labels.files == ["1.jpg"] and labels.dense().tolist() == [[1] * 6]
    rows = f"image,labels,split\n1.jpg,a,train\n{tmp_path}/1.jpg,a,val\n"
    with pytest.raises(DataError, match=r"line 3: .* of split 'val' here and 'train' in line 2"):
        csv_file(file=write(tmp_path, rows))


# -- marks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["-80C", "!sun"])
def test_the_line_with_the_mark_is_named_and_the_advice_works(
    tmp_path: Path, mark: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["sea;sun", "sea", "sun", mark] + ["sun", "tree;sea"] * 18
    file = write(tmp_path, table(rows, 1))
    assert not read_csv(file).fully_labelled
    assert f"the first is {mark!r} in line 5" in caplog.text and "classes have no known negative" in caplog.text
    classes = write(tmp_path, f"sea\nsun\ntree\n{mark}\n", "classes.txt")
    assert read_csv(file, classes=classes).fully_labelled
