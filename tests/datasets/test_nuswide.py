"""Promises of the NUS-WIDE readers: the official files, and the csv of ASL."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mltrain.datasets import check_files, check_splits, nuswide
from mltrain.datasets.nuswide_csv import nuswide_csv
from mltrain.errors import DataError
from mltrain.labels import LabelStats

CONCEPTS = ["lake", "sky", "zebra"]
TAGS = ["nature", "sky", "blue", "zebra"]  # lake is no tag, as 6 of the 81 are not
LISTS = {
    "Train": ["actor\\0001_11.jpg", "lake\\0002_12.jpg", "actor\\0003_13.jpg"],
    "Test": ["sky\\0004_14.jpg", "a\\5.jpg"],
}
TRUTH = {"Train": [[1, 1, 0], [0, 0, 0], [0, 0, 1]], "Test": [[0, 0, 0], [0, 1, 1]]}
TAGGED = {"Train": [[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]], "Test": [[0, 1, 0, 0], [0, 0, 1, 0]]}


def tree(root: Path, end: str = "\r\n", concepts: str = "Concepts81.txt") -> Path:
    truth = root / "Groundtruth" / "TrainTestLabels"
    for folder in (truth, root / "ImageList", root / "NUS_WID_Tags", (root / concepts).parent):
        folder.mkdir(parents=True, exist_ok=True)
    write(root / concepts, CONCEPTS, end)
    write(root / "NUS_WID_Tags" / "TagList1k.txt", TAGS, end)
    for part, files in LISTS.items():
        write(root / "ImageList" / f"{part}Imagelist.txt", files, end)
        for k, concept in enumerate(CONCEPTS):
            write(truth / f"Labels_{concept}_{part}.txt", [str(row[k]) for row in TRUTH[part]], end)
        tagged = ["".join(f"{value}\t" for value in row) for row in TAGGED[part]]
        write(root / "NUS_WID_Tags" / f"{part}_Tags1k.dat", tagged, end)
        for file in files:
            image = root / "Flickr" / file.replace("\\", "/")
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
    return root


def write(path: Path, lines: list[str], end: str = "\n") -> None:
    path.write_bytes("".join(line + end for line in lines).encode())


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("concepts", ["Concepts81.txt", "ConceptsList/Concepts81.txt"])
def test_concepts_come_in_the_official_order_with_the_official_split(tmp_path: Path, end: str, concepts: str) -> None:
    splits = nuswide.nuswide(root=str(tree(tmp_path, end, concepts)), unlabelled="negative")
    assert splits.train.class_names == tuple(CONCEPTS)
    assert splits.train.dense().tolist() == TRUTH["Train"] and splits.val.dense().tolist() == TRUTH["Test"]
    assert splits.train.file(0) == "actor/0001_11.jpg"
    check_files(splits.train)
    check_files(splits.val)
    check_splits(splits)


@pytest.mark.parametrize(
    ("policy", "train"),
    [
        ("drop", [[1, 1, 0], [0, 0, 1]]),
        ("negative", [[1, 1, 0], [0, 0, 0], [0, 0, 1]]),
        ("unknown", [[1, 1, 0], [-1, -1, -1], [0, 0, 1]]),
    ],
)
def test_images_without_a_concept_follow_the_option_and_are_counted(
    tmp_path: Path, policy: Any, train: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    splits = nuswide.nuswide(root=str(tree(tmp_path)), unlabelled=policy)
    assert splits.train.dense().tolist() == train
    assert len(splits.val) == (1 if policy == "drop" else 2)
    assert splits.train.fully_labelled == (policy != "unknown")
    assert ("nuswide/train: 1 image without a label" in caplog.text) == (policy != "negative")


def test_tags_are_targets_of_their_own(tmp_path: Path) -> None:
    splits = nuswide.nuswide(root=str(tree(tmp_path)), labels="tags", unlabelled="negative")
    assert splits.train.class_names == tuple(TAGS)
    assert splits.train.dense().tolist() == TAGGED["Train"] and splits.val.dense().tolist() == TAGGED["Test"]


def test_zero_shot_trains_on_tags_that_are_no_concept_and_tests_on_both(tmp_path: Path) -> None:
    root = str(tree(tmp_path))
    splits = nuswide.nuswide(root=root, labels="zero_shot", unlabelled="negative")
    assert splits.train.class_names == ("nature", "blue", "lake", "sky", "zebra")
    assert splits.train.dense().tolist() == [[1, 0, -1, -1, -1], [0, 1, -1, -1, -1], [0, 0, -1, -1, -1]]
    assert splits.val.dense().tolist() == [[0, 0, 0, 0, 0], [0, 1, 0, 1, 1]]
    dropped = nuswide.nuswide(root=root, labels="zero_shot")
    assert len(dropped.train) == 2, "the one without a seen tag is left out"
    assert [dropped.val.file(i) for i in range(len(dropped.val))] == ["a/5.jpg"], (
        "the one without a concept is left out"
    )


def test_the_known_defect_of_the_official_file_is_one_unknown_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = tree(tmp_path)
    path = root / "Groundtruth" / "TrainTestLabels" / "Labels_lake_Train.txt"
    write(path, ["1", "0", "-1130179"])
    with pytest.raises(DataError, match="line 3: expected 0 or 1, found '-1130179'"):
        nuswide.nuswide(root=str(root))
    assert nuswide.DEFECT == ("Labels_lake_Train.txt", 78372, "-1130179")
    monkeypatch.setattr(nuswide, "DEFECT", ("Labels_lake_Train.txt", 3, "-1130179"))
    assert nuswide.nuswide(root=str(root)).train.dense().tolist() == [[1, 1, 0], [-1, 0, 1]]
    assert "a known defect" in caplog.text


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        ("Groundtruth/TrainTestLabels/Labels_sky_Test.txt", ["0", "2"], "line 2: expected 0 or 1, found '2'"),
        ("Groundtruth/TrainTestLabels/Labels_sky_Test.txt", ["0"], "1 lines, but "),
        ("Groundtruth/TrainTestLabels/Labels_sky_Test.txt", ["0 1"], "line 1: expected 0 or 1, found '0 1'"),
        (
            "ImageList/TrainImagelist.txt",
            ["a\\1.jpg", "a\\1.jpg", "b\\1.jpg"],
            "line 2: a/1.jpg is listed a second time (line 1)",
        ),
        ("ImageList/TrainImagelist.txt", [], "lists no image"),
        ("Concepts81.txt", ["sky", "sky"], "line 2: class 'sky' appears more than once"),
        ("NUS_WID_Tags/Train_Tags1k.dat", ["1\t0\t0\t1"], "1 lines, but "),
        ("NUS_WID_Tags/Train_Tags1k.dat", ["1\t0\t0\t1", "1\t0\t1"], "line 2: expected 4 values of 0 or 1, found 3"),
        ("NUS_WID_Tags/Train_Tags1k.dat", ["1\t0\t0\t7"], "line 1: expected 4 values of 0 or 1"),
        ("NUS_WID_Tags/Train_Tags1k.dat", ["10\t01"], "line 1: expected 4 values of 0 or 1, found 2"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, file: str, lines: list[str], message: str) -> None:
    root = tree(tmp_path)
    write(root / file, lines)
    with pytest.raises(DataError) as error:
        nuswide.nuswide(root=str(root), labels="zero_shot")
    assert message in str(error.value) and str(root / file) in str(error.value)


def test_missing_files_are_one_message_for_what_the_labels_need(tmp_path: Path) -> None:
    for labels, needed in (("concepts", 5), ("tags", 6), ("zero_shot", 8)):
        choice: Any = labels
        with pytest.raises(DataError, match=f"{needed} of {needed} expected paths are missing") as error:
            nuswide.nuswide(root=str(tmp_path), labels=choice)
        assert "github.com/NExTplusplus/NUS-WIDE" in str(error.value)
    (tree(tmp_path) / "Groundtruth" / "TrainTestLabels" / "Labels_zebra_Test.txt").unlink()
    with pytest.raises(DataError, match=r"1 of 6 expected(?s:.*)missing  \S+Labels_zebra_Test.txt"):
        nuswide.nuswide(root=str(tmp_path))


@pytest.mark.parametrize("wrong", [{"labels": "both"}, {"unlabelled": "keep"}])
def test_a_value_outside_the_choice_is_a_wrong_argument(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        nuswide.nuswide(root=str(tree(tmp_path)), **wrong)


# -- the csv of ASL --------------------------------------------------------------------------------------------------

ROWS = [
    "images/1_11.jpg,\"['sky', 'clouds']\",train",
    'images/2_12.jpg,"[sky, tall tree]",train',
    "images/3_13.jpg,[],train",
    "images/4_14.jpg,['clouds'],val",
]


def table(folder: Path, rows: list[str]) -> str:
    write(folder / "nus_wid_data.csv", ["filepath,label,split_name", *rows])
    return str(folder / "nus_wid_data.csv")


def test_lists_in_brackets_with_or_without_quotes(tmp_path: Path) -> None:
    splits = nuswide_csv(file=table(tmp_path, ROWS))
    assert splits.train.class_names == ("clouds", "sky", "tall tree")
    assert splits.train.dense().tolist() == [[1, 1, 0], [0, 1, 1]] and splits.val.dense().tolist() == [[1, 0, 0]]
    assert splits.train.path(0) == str(tmp_path / "images" / "1_11.jpg") and splits.test is None


def test_an_empty_list_follows_the_option(tmp_path: Path) -> None:
    file = table(tmp_path, ROWS)
    assert nuswide_csv(file=file, unlabelled="negative").train.dense().tolist()[2] == [0, 0, 0]
    assert nuswide_csv(file=file, unlabelled="unknown").train.dense().tolist()[2] == [-1, -1, -1]


def test_a_classes_file_fixes_the_order(tmp_path: Path) -> None:
    write(tmp_path / "Concepts81.txt", ["tall tree", "sky", "clouds", "zebra"])
    splits = nuswide_csv(file=table(tmp_path, ROWS), classes=str(tmp_path / "Concepts81.txt"))
    assert splits.val.class_names == ("tall tree", "sky", "clouds", "zebra")
    assert splits.train.dense().tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]


def test_images_are_found_by_name_in_other_folders(tmp_path: Path) -> None:
    for file in ("Flickr/actor/1_11.jpg", "Flickr/lake/2_12.jpg", "Flickr/3_13.jpg", "Flickr/a/4_14.jpg", "x/y.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    file = table(tmp_path, ROWS)
    splits = nuswide_csv(file=file, root=str(tmp_path / "Flickr"), match_names=True)
    assert splits.train.file(0) == "actor/1_11.jpg"
    check_files(splits.train)
    (tmp_path / "Flickr" / "lake" / "1_11.jpg").touch()
    with pytest.raises(DataError, match=r"1 name stands for several files, the first 1_11\.jpg"):
        nuswide_csv(file=file, root=str(tmp_path / "Flickr"), match_names=True)
    with pytest.raises(DataError, match="4 of 4 images are nowhere below it"):
        nuswide_csv(file=file, root=str(tmp_path / "x"), match_names=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/1.jpg,[sky, sea],train", "line 6: 4 fields, expected 3"),
        ("images/1.jpg,sky,train", "line 6: labels 'sky', expected a list in brackets"),
        ('images/1.jpg,"[sky, ]",train', "line 6: an empty label"),
        ("images/1.jpg,[sky],training", "line 6: split 'training', expected one of train, val, test"),
        ("images/1_11.jpg,[sky],val", "line 6: images/1_11.jpg is listed a second time"),
        (",[sky],val", "line 6: no image"),
        ('images/1.jpg,"[sky],val', "not a csv file"),
    ],
)
def test_a_broken_row_is_named_with_its_line(tmp_path: Path, row: str, message: str) -> None:
    file = table(tmp_path, [*ROWS, row])
    with pytest.raises(DataError) as error:
        nuswide_csv(file=file)
    assert message in str(error.value) and file in str(error.value)


def test_a_label_that_the_classes_file_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path / "classes.txt", ["sky", "clouds"])
    with pytest.raises(DataError, match="line 3: label 'tall tree' is not in the classes file"):
        nuswide_csv(file=table(tmp_path, ROWS), classes=str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [(ROWS[:3], "no row of split 'val'"), (["a.jpg,[],train", "b.jpg,[],val"], "there is no class")],
)
def test_a_file_without_a_val_set_or_without_labels_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        nuswide_csv(file=table(tmp_path, rows))


# -- zero-shot files of ML-Decoder -----------------------------------------------------------------------------------

ZERO_SHOT = [
    "images/1.jpg,\"['sky', 'cats']\",train",
    'images/2.jpg,"[sea, dogs]",train',
    "images/3.jpg,[dogs],train",
    'images/4.jpg,"[sky, dogs]",val',
    "images/5.jpg,[sea],val",
    "images/6.jpg,[],val",
]


def split_file(folder: Path, content: object) -> str:
    (folder / "benchmark.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / "benchmark.json")


def test_unseen_classes_are_unknown_in_train_and_known_in_val(tmp_path: Path) -> None:
    unseen = split_file(tmp_path, {"test class": ["dogs", "cats"]})
    splits = nuswide_csv(file=table(tmp_path, ZERO_SHOT), unseen=unseen)
    assert splits.train.class_names == splits.val.class_names == ("cats", "dogs", "sea", "sky")
    assert splits.train.dense().tolist() == [[-1, -1, 0, 1], [-1, -1, 1, 0]], "3.jpg has dogs alone"
    assert splits.val.dense().tolist() == [[0, 1, 0, 1]] and splits.val.file(0) == "images/4.jpg"
    stats = LabelStats.from_labels(splits.train)
    assert stats.group_indices()["unseen"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("unlabelled", "train", "val"),
    [
        ("negative", [-1, -1, 0, 0], [[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]),
        ("unknown", [-1, -1, -1, -1], [[0, 1, 0, 1], [0, 0, 1, 0], [-1, -1, -1, -1]]),
    ],
)
def test_images_of_the_other_classes_alone_follow_the_option(
    tmp_path: Path, unlabelled: str, train: list[int], val: list[list[int]]
) -> None:
    unseen = split_file(tmp_path, {"test class": ["dogs", "cats"]})
    splits = nuswide_csv(file=table(tmp_path, ZERO_SHOT), unseen=unseen, unlabelled=unlabelled)  # type: ignore[arg-type]
    assert splits.train.dense().tolist()[2] == train and splits.val.dense().tolist() == val


def test_seen_classes_may_be_named_and_the_others_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unseen = split_file(tmp_path, {"test class": ["dogs", "yak"], "train class": ["sky"]})
    splits = nuswide_csv(file=table(tmp_path, ZERO_SHOT), unseen=unseen)
    assert splits.train.class_names == ("dogs", "sky") and splits.train.dense().tolist() == [[-1, 1]]
    assert "1 of its classes have no image and are left out, the first 'yak'" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken json"),
        ([1], "expected {"),
        ({"train class": ["sky"]}, "expected {"),
        ({"test class": "dogs"}, "expected {"),
        ({"test class": ["dogs"], "train class": ["dogs"]}, "1 class in both lists, the first 'dogs'"),
        ({"test class": ["yak"]}, "4 seen and 0 unseen classes among the 4"),
        ({"test class": ["cats", "dogs", "sea", "sky"]}, "0 seen and 4 unseen"),
    ],
)
def test_a_split_of_classes_that_is_none_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError) as error:
        nuswide_csv(file=table(tmp_path, ZERO_SHOT), unseen=split_file(tmp_path, content))
    assert message in str(error.value) and "benchmark.json" in str(error.value)
    with pytest.raises(DataError, match="missing"):
        nuswide_csv(file=table(tmp_path, ZERO_SHOT), unseen=str(tmp_path / "none.json"))
