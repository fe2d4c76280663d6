"""Promises of the LVIS reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mltrain.datasets import check_files, check_splits
from mltrain.datasets.lvis import lvis, read_lvis
from mltrain.errors import DataError

SITE = "http://images.cocodataset.org"


def image(number: int, folder: str, negative: list[int], partial: list[int]) -> dict[str, Any]:
    return {
        "id": number,
        "coco_url": f"{SITE}/{folder}/{number:012d}.jpg",
        "height": 480,
        "width": 640,
        "license": 1,
        "neg_category_ids": negative,
        "not_exhaustive_category_ids": partial,
    }


def annotation(image_id: int, category_id: int) -> dict[str, Any]:
    return {
        "id": 10 * image_id + category_id,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": [[1.5, 2.0, 3.0, 4.0, 5.0, 6.5]],
        "bbox": [1.5, 2.0, 1.5, 4.5],
        "area": 3.25,
    }


def official() -> dict[str, dict[str, Any]]:
    categories = [
        {"id": k, "name": label, "synset": f"{label}.n.01", "def": "", "synonyms": [label], "frequency": "r"}
        for k, label in ((3, "dog"), (1, "aerosol_can"), (2, "zebra"), (7, "owl"), (9, "yak"))
    ]
    return {
        "train": {
            "images": [image(11, "train2017", [2], [3, 7]), image(5, "train2017", [], [])],
            "annotations": [annotation(11, 3), annotation(11, 3), annotation(11, 1)],
            "categories": categories,
        },
        "val": {
            "images": [image(8, "train2017", [9, 1], []), image(9, "val2017", [3], [])],
            "annotations": [annotation(9, 7), annotation(8, 2)],
            "categories": categories,
        },
    }


def tree(root: Path, data: dict[str, dict[str, Any]] | None = None) -> Path:
    (root / "annotations").mkdir()
    for split, content in (data or official()).items():
        (root / "annotations" / f"lvis_v1_{split}.json").write_text(json.dumps(content))
    for file in ("train2017/000000000011.jpg", "train2017/000000000005.jpg", "train2017/000000000008.jpg",
                 "val2017/000000000009.jpg"):  # fmt: skip
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).touch()
    return root


def test_annotated_is_1_looked_for_in_vain_is_0_and_the_rest_unknown(tmp_path: Path) -> None:
    splits = lvis(root=str(tree(tmp_path)))
    assert splits.train.class_names == ("aerosol_can", "zebra", "dog", "owl", "yak")
    # dog is not exhaustively outlined and stays positive; owl is listed so without an annotation, and stays unknown.
    assert splits.train.dense().tolist() == [[1, 0, 1, -1, -1], [-1, -1, -1, -1, -1]]
    assert splits.val.dense().tolist() == [[0, 1, -1, -1, 0], [-1, -1, 0, 1, -1]]
    assert not splits.train.fully_labelled


def test_unchecked_categories_may_be_negative_in_train_but_never_in_val(tmp_path: Path) -> None:
    splits = lvis(root=str(tree(tmp_path)), train_absent="negative")
    assert splits.train.dense().tolist() == [[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert splits.train.fully_labelled and not splits.val.fully_labelled


def test_val_images_lie_in_the_train_folder_of_coco_too(tmp_path: Path) -> None:
    splits = lvis(root=str(tree(tmp_path)))
    assert [splits.val.file(i) for i in range(2)] == ["train2017/000000000008.jpg", "val2017/000000000009.jpg"]
    check_files(splits.train)
    check_files(splits.val)
    check_splits(splits)


def test_an_image_of_both_sets_is_refused(tmp_path: Path) -> None:
    data = official()
    data["val"]["images"][0]["coco_url"] = data["train"]["images"][0]["coco_url"]
    splits = lvis(root=str(tree(tmp_path, data)))
    with pytest.raises(DataError, match="shares 1 of its 2 images"):
        check_splits(splits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["images"][0].update(neg_category_ids=[2, 3]),
            "1 categories of an image are both annotated and in",
        ),
        (lambda d: d["images"][0].update(neg_category_ids=[2, 3]), "'dog' of train2017/000000000011.jpg (image 11)"),
        (lambda d: d["images"][0].update(neg_category_ids=[99]), "unknown category id, the first 99"),
        (lambda d: d["annotations"][0].update(image_id=77), "unknown image id, the first 77"),
        (lambda d: d["images"][0].update(coco_url="http://x.org/1.jpg"), "of image 11 names no image of COCO 2017"),
        (
            lambda d: d["images"][0].pop("neg_category_ids"),
            "not in the format of LVIS v1 (KeyError: 'neg_category_ids')",
        ),
        (lambda d: d.update(images=[]), "lists 0 images and 5 categories"),
    ],
)
def test_an_error_is_named_with_its_file(tmp_path: Path, change: Any, message: str) -> None:
    data = official()
    change(data["train"])
    root = tree(tmp_path, data)
    with pytest.raises(DataError) as error:
        lvis(root=str(root))
    assert message in str(error.value) and f"{root}/annotations/lvis_v1_train.json" in str(error.value)


def test_missing_data_is_one_message_with_every_path_and_the_site(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        lvis(root=str(tmp_path))
    message = str(error.value)
    assert "4 of 4 expected paths are missing" in message and "lvisdataset.org" in message and "dataset.root" in message


def test_a_value_outside_the_choice_is_a_wrong_argument(tmp_path: Path) -> None:
    wrong: Any = "drop"
    with pytest.raises(ValueError, match="must be unknown or negative"):
        read_lvis(tmp_path / "x.json", root=tmp_path, absent=wrong)
