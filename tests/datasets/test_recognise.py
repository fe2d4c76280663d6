"""Promises of `dataset=auto` about what is odd: several formats, none, broken files; and of each reader's messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.datasets.auto import READERS, auto
from mltrain.datasets.found import split_of
from mltrain.datasets.recognise import recognise
from mltrain.errors import DataError
from tests.datasets.formats import CASES, CLASSES, LABELS, TRAIN, VAL, boxes, coco, touch, voc_xml, write
from tests.datasets.test_formats import by_name, read


def messages(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(caplog.messages)


# -- which format ----------------------------------------------------------------------------------------------------


def test_several_formats_are_refused_with_the_command_of_each(tmp_path: Path) -> None:
    CASES["csv_labels"](tmp_path)
    write(tmp_path / "export.json", json.dumps(LABELS))
    with pytest.raises(DataError, match="may be read in 2 ways") as error:
        recognise(tmp_path)
    commands = [line[line.index("dataset=") :] for line in sorted(str(error.value).splitlines()[1:])]
    assert [command.split()[0] for command in commands] == ["dataset=csv", "dataset=json"]
    assert all(by_name(read(command.split())) == LABELS for command in commands)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "hello\nworld\n"),
        ("empty.csv", ""),
        ("numbers.csv", "a,b\n1,2\n3,4\n"),
        ("config.yaml", "runner:\n  epochs: 3\n"),
        ("page.xml", "<html></html>"),
        ("photo.jpg", "x"),
        ("caption.json", '[{"image": "1.jpg", "width": 3}]'),
    ],
)
def test_what_is_no_labels_is_refused_in_one_message(tmp_path: Path, name: str, text: str) -> None:
    file = write(tmp_path / name, text)
    for path in (file, tmp_path):
        with pytest.raises(DataError, match=r"no known format of labels; .*docs/datasets\.md lists the formats"):
            recognise(path)
    with pytest.raises(DataError, match=r"missing  .*none"):
        auto(path=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.json", '{"images": [', "broken json"),
        ("x.jsonl", '{"image": "1.jpg", "label": "a"}\n{"image": \n', r"x\.jsonl, line 2: broken json"),
        ("x.csv", "1.jpg,cat\n2.jpg,dog\n", "no header line: the first line has an image, '1.jpg'"),
        ("x.csv", b"image;labels\n1.jpg;\xe9t\xe9\n", r"x\.csv: not UTF-8"),
        ("x.csv", "image,label\n" + "1.jpg,1\n2.jpg,0\n", "that begins with 'image,label'"),
    ],
)
def test_a_named_file_says_what_is_wrong_with_it(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=said):
        recognise(tmp_path / name)


def test_labels_that_are_numbers_are_classes_not_a_class(tmp_path: Path) -> None:
    rows = "".join(f"{k},{k % 3}\n" for k in range(1, 40))
    assert auto(path=str(write(tmp_path / "train.csv", "id,label\n" + rows))).train.class_names == ("0", "1", "2")


def test_a_label_file_comes_before_folders_that_its_images_lie_in(tmp_path: Path) -> None:
    touch(tmp_path, "beach/1.jpg", "park/2.jpg")
    write(tmp_path / "labels.csv", "image,labels\nbeach/1.jpg,sea\npark/2.jpg,tree\n")
    assert recognise(tmp_path).group == "csv"


def test_lvis_is_not_read_as_coco(tmp_path: Path) -> None:
    content = json.loads(coco(TRAIN))
    content["images"][0]["neg_category_ids"] = [1]
    with pytest.raises(DataError, match="no known format"):
        recognise(write(tmp_path / "lvis.json", json.dumps(content)))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            ("train", "train"),
            ("instances_val2017", "val"),
            ("Valid", "val"),
            ("my-test", "test"),
            ("train2017", "train"),
        ),
        *(("trainval", None), ("cat", None), ("train_val", None), ("contest", None), ("2017", None)),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize("column", ["split", "Set", "partition"])
def test_splits_that_are_called_otherwise_are_found(tmp_path: Path, column: str) -> None:
    called = {"train": "Training", "val": "Valid", "test": "testing"}
    rows = [f"{k}.jpg,{'cat' if k % 2 else 'dog'},{called[s]}\n" for k, s in enumerate(["train", "val", "test"] * 4)]
    file = write(tmp_path / "x.csv", f"image,labels,{column}\n" + "".join(rows))
    splits = auto(path=str(file))
    assert [len(labels) for labels in splits if labels is not None] == [4, 4, 4]


def test_all_rows_decide_not_only_the_first(tmp_path: Path) -> None:
    splits = ["train"] * 2500 + ["val"] * 10
    one_hot = "".join(f"{k}.jpg,{-1 if k < 2400 else 0},1,{split}\n" for k, split in enumerate(splits))
    found = recognise(write(tmp_path / "x.csv", "image,cat,dog,split\n" + one_hot))
    assert found.options == {"file": str(tmp_path / "x.csv")}


def test_images_are_found_below_the_file_also_where_those_of_train_are_missing(tmp_path: Path) -> None:
    rows = [f"{k}.jpg,{'cat' if k % 2 else 'dog'},{'val' if k >= 90 else 'train'}\n" for k in range(100)]
    file = write(tmp_path / "x.csv", "image,labels,split\n" + "".join(rows))
    touch(tmp_path / "deep" / "photos", *(f"{k}.jpg" for k in range(90, 100)))
    touch(tmp_path / "other", "readme.jpg")
    assert Path(auto(path=str(file)).val.root) == tmp_path / "deep" / "photos"


# -- what the readers say --------------------------------------------------------------------------------------------


def test_one_line_says_rows_images_and_what_was_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    auto(path=str(CASES["csv_of_chestxray14"](tmp_path).path))
    text = messages(caplog)
    assert "8 rows of 8 images, images in column 'Image Index', labels in column 'Finding Labels'" in text
    assert "columns not read: 'Follow-up #', 'Patient ID'; 'No Finding' means no label (1 rows)" in text
    caplog.clear()
    columns = ["dataset.image_column=Image Index", "dataset.labels_column=Finding Labels", "dataset.separator='|'"]
    read(["dataset=csv", f"dataset.file={tmp_path}/Data_Entry_2017.csv", *columns, "dataset.val_fraction=0.2"])
    assert "'No Finding' is a class; 'dataset.no_label=\"No Finding\"' makes it no label" in messages(caplog)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json_of_label_studio", "1 tasks without an annotation left out"),
        ("json_labels_of_fiftyone", "1 images without an annotation left out"),
        ("cvat_for_images", "1 images without a tag or shape have no label"),
        ("yolo_of_ultralytics", "1 images without a file of labels have none"),
        ("csv_with_minus_one_for_no", "-1 means that the image does not have the label"),
        ("csv_of_roboflow_per_split", "one column per class: 3 classes (cat, dog, sun), images in column 'filename'"),
    ],
)
def test_what_is_left_out_or_decided_is_said(
    tmp_path: Path, name: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    auto(path=str(CASES[name](tmp_path).path))
    assert said in messages(caplog)


def test_a_file_of_1_and_minus_1_needs_the_meaning_of_minus_1(tmp_path: Path) -> None:
    file = CASES["csv_with_minus_one_for_no"](tmp_path).path
    words = ["dataset=csv", f"dataset.file={file}", "dataset.val_fraction=0.2"]
    with pytest.raises(DataError, match=r"dataset\.minus_one=negative; if nobody knows: dataset\.minus_one=unknown"):
        read(words)
    assert read([*words, "dataset.minus_one=negative"]).train.fully_labelled
    assert not read([*words, "dataset.minus_one=unknown"]).train.fully_labelled


def test_a_label_that_means_none_must_occur(tmp_path: Path) -> None:
    file = CASES["csv_labels"](tmp_path).path
    with pytest.raises(DataError, match=r"no row has the label of dataset\.no_label='sum'; did you mean 'sun'\?"):
        read(["dataset=csv", f"dataset.file={file}", "dataset.no_label=sum"])


def test_two_controls_of_label_studio_need_a_choice(tmp_path: Path) -> None:
    file = CASES["json_of_label_studio"](tmp_path).path
    tasks = json.loads(file.read_text(encoding="utf-8"))
    box = {"value": {"rectanglelabels": ["wheel"]}, "from_name": "boxes", "to_name": "image", "type": "rectanglelabels"}
    tasks[0]["annotations"][0]["result"].append(box)
    file.write_text(json.dumps(tasks), encoding="utf-8")
    words = ["dataset=json", f"dataset.file={file}", "dataset.val_fraction=0.2"]
    with pytest.raises(DataError, match=r"labels of 2 controls or fields: scene, boxes\. .*dataset\.labels_key=scene"):
        read(words)
    assert by_name(read([*words, "dataset.labels_key=scene"])) == LABELS
    assert read([*words, "dataset.labels_key=boxes"]).train.class_names == ("wheel",)


def test_two_addresses_with_one_file_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    rows = "https://host/a/1.jpg,cat\nhttps://host/b/1.jpg,dog\n"
    with pytest.raises(DataError, match=r"are both found as 1\.jpg, by their name"):
        read(["dataset=csv", f"dataset.file={write(tmp_path / 'x.csv', 'image,labels' + chr(10) + rows)}"])


def test_class_indices_of_json_records_need_their_names(tmp_path: Path) -> None:
    records = [{"file_name": image, "label": [CLASSES.index(name) for name in own]} for image, own in LABELS.items()]
    file = write(tmp_path / "metadata.json", json.dumps(records))
    classes = write(tmp_path / "names.txt", "".join(f"{name}\n" for name in CLASSES))
    words = ["dataset=json", f"dataset.file={file}", "dataset.val_fraction=0.2"]
    assert read(words).train.class_names == ("0", "1", "2")
    assert by_name(read([*words, f"dataset.classes={classes}"])) == LABELS


def test_json_records_with_a_key_per_class_and_null_for_unknown(tmp_path: Path) -> None:
    records = [{"image": "1.jpg", "cat": True, "dog": 0}, {"image": "2.jpg", "cat": -1, "dog": None}]
    file = write(tmp_path / "x.jsonl", "".join(json.dumps(record) + "\n" for record in records * 2))
    splits = read(["dataset=json", f"dataset.file={file}", "dataset.val_fraction=0.5", "dataset.blank=unknown"])
    targets = {splits_.file(0): splits_.targets(0).tolist() for splits_ in splits[:2]}
    assert targets == {"1.jpg": [1, 0], "2.jpg": [-1, -1]}


def test_names_in_json_have_no_marks(tmp_path: Path) -> None:
    records = [{"image": f"{k}.jpg", "labels": ["-80C", "cat"] if k % 2 else ["cat"]} for k in range(8)]
    file = write(tmp_path / "x.json", json.dumps(records))
    splits = read(["dataset=json", f"dataset.file={file}", "dataset.val_fraction=0.5"])
    assert splits.train.class_names == ("-80C", "cat") and splits.train.fully_labelled


def test_voc_files_of_one_image_are_joined_and_difficult_decides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path / "photos", "a1.jpg", "a2.jpg")
    write(tmp_path / "one" / "a1.xml", voc_xml("a1.jpg"))
    hard = "<annotation><object><name>bird</name><difficult>1</difficult></object></annotation>"
    write(tmp_path / "two" / "a1.xml", hard)
    write(tmp_path / "two" / "a2.xml", voc_xml("a2.jpg"))
    words = ["dataset=voc_files", f"dataset.root={tmp_path}", "dataset.train=.", "dataset.images=photos"]
    for difficult, target in (("positive", 1), ("ignore", -1), ("negative", 0)):
        splits = read([*words, "dataset.val_fraction=0.5", f"dataset.difficult={difficult}"])
        labels = next(part for part in splits[:2] if part.files == ["photos/a1.jpg"])
        assert labels.class_names == ("bird", "cat", "dog") and labels.targets(0).tolist() == [target, 1, 1]
    assert "1 images have several annotations" in messages(caplog)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 0.5 0.5 0.1 0.1", r"a1\.txt, line 1: a box begins with its class, 0 to 2"),
        ("cat 1", "begins with its class"),
    ],
)
def test_a_box_of_no_class_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = CASES["yolo_of_ultralytics"](tmp_path).path
    write(path / "labels" / "train" / "a1.txt", f"{line}\n")
    with pytest.raises(DataError, match=message):
        auto(path=str(path))


def test_a_yolo_set_without_any_labels_is_refused(tmp_path: Path) -> None:
    path = CASES["yolo_of_ultralytics"](tmp_path).path
    (path / "labels").rename(path / "label")
    with pytest.raises(DataError, match=r"none of 4 images has a file of labels; expected, for the first, .*labels"):
        auto(path=str(path))


# -- the same image twice (each reader merges or refuses) -----------------------------------------------------------


def test_an_image_that_is_listed_twice_is_one_image_or_refused(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "2.jpg")
    absolute = f"{tmp_path}/1.jpg"
    for name, text in {
        "a.json": json.dumps([{"image": "1.jpg", "labels": ["a"]}, {"image": absolute, "labels": ["b"]}]),
        "a.csv": f"image,labels\n1.jpg,a\n{absolute},b\n",
    }.items():
        file = write(tmp_path / name, text)
        splits = read([f"dataset={name[2:]}", f"dataset.file={file}", "dataset.val_split=train"])
        assert splits.train.dense().tolist() == [[1, 1]]
    write(tmp_path / "train.txt", f"1.jpg 0\n{absolute} 1\n")
    write(tmp_path / "val.txt", "2.jpg 0\n")
    with pytest.raises(DataError, match=r"train\.txt, line 2: .*1\.jpg is listed a second time \(line 1\)"):
        read(["dataset=list", f"dataset.root={tmp_path}"])
    one_file = json.loads(coco(TRAIN))
    one_file["images"][1]["file_name"] = "a1.jpg"
    write(tmp_path / "train.json", json.dumps(one_file))
    write(tmp_path / "val.json", coco(VAL))
    train = read(["dataset=coco_files", f"dataset.root={tmp_path}"]).train
    assert train.files == ["a1.jpg", "a3.jpg", "a4.jpg"] and train.targets(0).tolist() == [1, 1, 0]


# -- evaluation needs what it evaluates ------------------------------------------------------------------------------


def without_train_of(case: str) -> Callable[[Path], tuple[str, dict[str, Any]]]:
    """Make a case, remove what only training needs, and return the reader's group and options."""

    def make(folder: Path) -> tuple[str, dict[str, Any]]:
        path = CASES[case](folder).path
        found = recognise(path)
        for name in ("train", "images/train", "labels/train", "train.txt", "train.csv", "ImageSets/Main/train.txt"):
            place = path / name
            if place.exists():
                place.rename(folder.with_name(f"gone_{name.replace('/', '_')}"))
        for file in path.glob("annotations/*train*.json"):
            file.unlink()
        return found.group, found.options

    return make


@pytest.mark.parametrize(
    "case",
    [
        *("csv_of_roboflow_per_split", "csv_files_of_splits", "jsonl_metadata_of_an_image_folder", "list_files"),
        *("coco_of_roboflow", "coco_with_text_ids_and_no_boxes", "coco_2017", "voc_of_cvat", "voc_of_roboflow"),
        *("yolo_of_ultralytics", "yolo_of_roboflow", "class_folders"),
    ],
)
def test_evaluation_needs_no_training_data(tmp_path: Path, case: str) -> None:
    before = auto(path=str(CASES[case](tmp_path / "whole").path))
    group, options = without_train_of(case)(tmp_path / "part")
    reader, fixed = READERS[group]
    with pytest.raises(DataError):
        reader(**{**fixed, **options})
    after = reader(**{**fixed, **options}, need_train=False)
    assert len(after.train) == 0
    recognised = auto(path=str(tmp_path / "part"), need_train=False)
    for one, other in zip(recognised, after, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or one.fingerprint() == other.fingerprint()
    for one, other in zip(before[1:], after[1:], strict=True):
        if one is None or other is None:
            assert one is other
            continue
        shared = [name for name in one.class_names if name in other.class_names]
        columns = [[labels.class_names.index(name) for name in shared] for labels in (one, other)]
        assert one.files == other.files
        assert np.array_equal(one.dense()[:, columns[0]], other.dense()[:, columns[1]])


def test_boxes_of_the_case_are_those_of_its_labels() -> None:
    assert boxes("a1.jpg").splitlines() == ["0 0.5 0.5 0.1 0.2", "1 0.5 0.5 0.1 0.2"]


def test_each_count_of_a_coco_file_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    content = json.loads(coco(list(LABELS)))
    content["annotations"] += [{**one, "id": 1000 + k} for k, one in enumerate(content["annotations"][:5])]
    touch(tmp_path, *LABELS)
    auto(path=str(write(tmp_path / "all.json", json.dumps(content))))
    labels = sum(map(len, LABELS.values()))
    text = messages(caplog)
    assert f"{labels + 5} annotations make {labels} labels, because several of one category in an image" in text
    assert "auto/train: 1 images without any annotation are negative for all classes (dataset.keep_unlabelled" in text
    assert text.count("auto/train: 6 images") == 1 and "8 images, " not in text
