"""Promises of the COCO reader."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.datasets import check_files, check_splits, read_coco
from mltrain.datasets.coco import coco
from mltrain.errors import DataError

CATEGORIES = [{"id": 7, "name": "train"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]


def write(path: Path, images: list[int], pairs: list[tuple[int, int]], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "info": {"year": 2017},
        "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in images],
        "annotations": [
            {"id": k, "image_id": image, "category_id": category, "iscrowd": k % 2}
            for k, (image, category) in enumerate(pairs)
        ],
        "categories": CATEGORIES,
        **more,
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def tree(root: Path, year: int = 2017) -> Path:
    for split, images in (("train", [5, 3, 9]), ("val", [4, 8])):
        write(
            root / "annotations" / f"instances_{split}{year}.json",
            images,
            [(images[0], 90), (images[0], 1), (images[0], 90), (images[1], 7)],
        )
        folder = root / f"{split}{year}"
        folder.mkdir()
        for i in images:
            (folder / f"{i:012d}.jpg").touch()
    return root


@pytest.mark.parametrize("year", [2014, 2017])
def test_official_tree_gives_ascending_category_ids_and_crowds_as_present(tmp_path: Path, year: int) -> None:
    splits = coco(root=str(tree(tmp_path, year)), year=year, keep_unlabelled=True, name="mine")  # type: ignore[arg-type]
    train = splits.train
    assert train.class_names == ("person", "train", "toothbrush")
    assert train.dense().tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert [train.file(i) for i in range(3)] == ["000000000005.jpg", "000000000003.jpg", "000000000009.jpg"]
    assert (train.name, splits.val.name, splits.test) == ("mine/train", "mine/val", None)
    assert train.fully_labelled
    for labels in splits[:2]:
        check_files(labels)
    check_splits(splits)


def test_a_relative_root_is_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default of paths.data is relative, too."""
    tree(tmp_path / "data" / "coco")
    monkeypatch.chdir(tmp_path)
    splits = coco(root="data/coco", year=2017)
    assert [len(labels) for labels in splits[:2]] == [2, 2]
    for labels in splits[:2]:
        check_files(labels)


def test_unlabelled_images_are_left_out_unless_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    labels = read_coco(root=tree(tmp_path), year=2017, split="train")
    assert labels.dense().tolist() == [[1, 0, 1], [0, 1, 0]]
    assert "1 image without any annotation left out" in caplog.text


def test_own_file_names_are_patterns(tmp_path: Path) -> None:
    for split, image in (("train", 1), ("val", 2)):
        write(tmp_path / f"{split}.json", [image], [(image, 1)])
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "images" / split / f"{image:012d}.jpg").touch()
    splits = coco(root=str(tmp_path), annotations="{split}.json", images="images/{split}")
    check_files(splits.train)
    check_files(splits.val)


def test_missing_data_is_one_message_with_every_path_and_the_site(tmp_path: Path) -> None:
    tree(tmp_path, 2014)
    (tmp_path / "annotations" / "instances_val2014.json").unlink()
    with pytest.raises(DataError) as error:
        coco(root=str(tmp_path), year=2014)
    message = str(error.value)
    assert f"missing  {tmp_path}/annotations/instances_val2014.json" in message
    assert message.count("found    ") == 3 and "cocodataset.org" in message and "dataset.root" in message


def edit(path: Path, change: Any) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("annotations"), "annotations"),
        (lambda d: d["images"][0].pop("file_name"), "file_name"),
        (lambda d: d["annotations"][0].update(category_id=2), "unknown category id, the first 2"),
        (lambda d: d["annotations"][0].update(image_id=77), "unknown image id, the first 77"),
        (lambda d: d["images"].append(d["images"][0]), "image id 5 appears more than once"),
        (lambda d: d.update(images=[]), "0 images"),
        (lambda d: d["annotations"][0].update(image_id="x"), "unknown image id, the first x"),
        (lambda d: d["annotations"][0].update(image_id=None), "the id null is neither a number nor text"),
        (lambda d: d["annotations"][0].update(category_id=[1]), "the id [1] is neither a number nor text"),
        (lambda d: d["images"][0].update(file_name=None), "file_name of image 5 is null"),
        (lambda d: d["images"][0].update(file_name=""), 'file_name of image 5 is ""'),
    ],
)
def test_a_broken_annotation_file_is_named_with_what_is_wrong(tmp_path: Path, change: Any, message: str) -> None:
    path = tree(tmp_path) / "annotations" / "instances_train2017.json"
    edit(path, change)
    with pytest.raises(DataError) as error:
        read_coco(root=tmp_path, year=2017, split="train")
    assert str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("text", ['{"images": [', "", "[1, 2]", "\x00\x01"])
def test_a_truncated_annotation_file_is_named(tmp_path: Path, text: str) -> None:
    path = tree(tmp_path) / "annotations" / "instances_train2017.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"instances_train2017\.json"):
        read_coco(root=tmp_path, year=2017, split="train")


def test_outlines_are_skipped_and_names_that_look_like_them_are_not(tmp_path: Path) -> None:
    path = tree(tmp_path) / "annotations" / "instances_train2017.json"

    def change(data: dict[str, Any]) -> None:
        data["images"][0]["file_name"] = 'a "bbox": [1] [2].jpg'
        data["categories"][0]["name"] = "bbox"
        data["annotations"][0].update(segmentation=[[1.5, -2e-3], [3]], bbox=[], area=2)
        data["annotations"][1].update(segmentation={"counts": [1, 2], "size": [4, 5]}, bbox=[1, 2, 3, 4])
        data["annotations"][2].update(segmentation={"counts": "[1]abc", "size": [4, 5]})

    before = read_coco(root=tmp_path, year=2017, split="train").dense()
    edit(path, change)
    after = read_coco(root=tmp_path, year=2017, split="train")
    assert (after.dense() == before).all()
    assert after.file(0) == 'a "bbox": [1] [2].jpg' and after.class_names[1] == "bbox"


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_coco_equals_pycocotools_and_prints_nothing(
    shared_data: Path, split: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO

    root = shared_data / "coco_tiny"
    labels = read_coco(root=root, year=2017, split=split)
    assert capfd.readouterr().out == ""
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(root / "annotations" / f"instances_{split}2017.json")
    assert len(labels) == 80 == len(theirs.imgToAnns) and labels.num_classes == 80
    ids = sorted(theirs.getCatIds())
    assert labels.class_names == tuple(entry["name"] for entry in theirs.loadCats(ids))
    by_file = {entry["file_name"]: entry["id"] for entry in theirs.loadImgs(theirs.getImgIds())}
    expected = np.zeros((80, 80), dtype=np.int8)
    for i in range(80):
        for entry in theirs.imgToAnns[by_file[labels.file(i)]]:
            expected[i, ids.index(entry["category_id"])] = 1
    assert (labels.dense() == expected).all()
    check_files(labels)


def test_a_year_that_does_not_exist_is_a_wrong_argument() -> None:
    with pytest.raises(ValueError, match="2014 or 2017"):
        coco(root="x", year=2015)  # type: ignore[arg-type]


def renumber(make: Any) -> Any:
    def change(data: dict[str, Any]) -> None:
        for part, keys in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["image_id", "category_id"])):
            for entry in data[part]:
                entry.update({key: make(entry[key]) for key in keys})

    return change


@pytest.mark.parametrize(
    "make",
    [
        str,
        lambda k: k + 2**63,
        lambda k: -k,
        lambda k: float(k),
        lambda k: f"img-{k:03d}",
        lambda k: k if k > 4 else str(k),
    ],
)
def test_ids_may_be_text_or_large(tmp_path: Path, make: Any) -> None:
    path = tree(tmp_path) / "annotations" / "instances_train2017.json"
    before = read_coco(root=tmp_path, year=2017, split="train", keep_unlabelled=True)
    edit(path, renumber(make))
    after = read_coco(root=tmp_path, year=2017, split="train", keep_unlabelled=True)
    reverse = make(1) == -1
    assert after.class_names == (before.class_names[::-1] if reverse else before.class_names)
    assert after.with_classes(before.class_names).fingerprint() == before.fingerprint()


def test_a_file_under_two_ids_is_one_image_with_all_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tree(tmp_path) / "annotations" / "instances_train2017.json"

    def change(data: dict[str, Any]) -> None:
        data["images"].insert(0, {"id": 77, "file_name": "./000000000005.jpg"})
        data["annotations"].append({"id": 99, "image_id": 77, "category_id": 7})

    edit(path, change)
    labels = read_coco(root=tmp_path, year=2017, split="train", keep_unlabelled=True)
    assert labels.files == ["000000000005.jpg", "000000000003.jpg", "000000000009.jpg"]
    assert labels.dense().tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert "1 image listed under several ids" in caplog.text


def test_categories_of_one_name_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tree(tmp_path) / "annotations" / "instances_train2017.json"

    def change(data: dict[str, Any]) -> None:
        data["categories"].insert(0, {"id": 0, "name": "train", "supercategory": "none"})

    edit(path, change)
    splits = coco(root=str(tmp_path), year=2017)
    assert splits.train.class_names == splits.val.class_names == ("train", "person", "toothbrush")
    assert splits.train.dense().tolist() == splits.val.dense().tolist() == [[0, 1, 1], [1, 0, 0]]
    assert "categories that share a name are one class: train" in caplog.text
    check_splits(splits)


def test_val_may_list_only_its_own_categories_in_another_order(tmp_path: Path) -> None:
    path = tree(tmp_path) / "annotations" / "instances_val2017.json"
    names = {1: "toothbrush", 2: "person"}
    new = {90: 1, 1: 2, 7: 2}

    def change(data: dict[str, Any]) -> None:
        data["categories"] = [{"id": key, "name": name} for key, name in names.items()]
        for entry in data["annotations"]:
            entry["category_id"] = new[entry["category_id"]]

    edit(path, change)
    splits = coco(root=str(tmp_path), year=2017)
    assert splits.val.class_names == splits.train.class_names == ("person", "train", "toothbrush")
    assert splits.val.dense().tolist() == [[1, 0, 1], [1, 0, 0]]
    check_splits(splits)
    edit(path, lambda data: data["categories"][0].update(name="boat"))
    with pytest.raises(DataError, match=r"1 categories with annotations are not among the 3 of .*: boat\."):
        coco(root=str(tmp_path), year=2017)


def test_an_image_with_backslashes_is_found(tmp_path: Path) -> None:
    path = tree(tmp_path) / "annotations" / "instances_train2017.json"
    (tmp_path / "train2017" / "a").mkdir()
    (tmp_path / "train2017" / "a" / "b.jpg").touch()
    edit(path, lambda data: data["images"][0].update(file_name="a\\b.jpg"))
    labels = read_coco(root=tmp_path, year=2017, split="train")
    assert labels.file(0) == "a/b.jpg"
    check_files(labels)


def test_evaluation_needs_no_training_images(tmp_path: Path) -> None:
    root = tree(tmp_path)
    expected = coco(root=str(root), year=2017)
    shutil.rmtree(root / "train2017")
    with pytest.raises(DataError, match=r"missing .*train2017"):
        coco(root=str(root), year=2017)
    without_images = coco(root=str(root), year=2017, need_train=False)
    (root / "annotations" / "instances_train2017.json").unlink()
    without_file = coco(root=str(root), year=2017, need_train=False)
    assert without_images.train.fingerprint() == expected.train.fingerprint() and len(without_file.train) == 0
    for splits in (without_images, without_file):
        assert splits.val.fingerprint() == expected.val.fingerprint()
        check_splits(splits)
