"""Promises of the VG500 reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mltrain.datasets import check_files, check_splits
from mltrain.datasets.vg500 import vg500
from mltrain.errors import DataError

LABELS: dict[str, Any] = {"1.jpg": [0, 499], "2.jpg": [7], "3.jpg": [], "9.jpg": [1]}


def tree(root: Path, labels: Any = LABELS, train: str = "1.jpg\n2.jpg\n", val: str = "3.jpg\n9.jpg\n") -> str:
    (root / "train_list_500.txt").write_text(train)
    (root / "test_list_500.txt").write_text(val)
    (root / "vg_category_500_labels_index.json").write_text(labels if isinstance(labels, str) else json.dumps(labels))
    for file in ("VG_100K/1.jpg", "VG_100K_2/2.jpg", "VG_100K/3.jpg", "VG_100K_2/9.jpg"):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).touch()
    return str(root)


def test_indices_become_targets_and_images_are_found_in_both_folders(tmp_path: Path) -> None:
    splits = vg500(root=tree(tmp_path))
    assert splits.train.num_classes == 500 and splits.train.class_names[7] == "object_007"
    assert [row.tolist() for row in splits.train.positive_pairs()] == [[0, 0, 1], [0, 499, 7]]
    assert [splits.train.file(i) for i in range(2)] == ["VG_100K/1.jpg", "VG_100K_2/2.jpg"]
    for labels in splits[:2]:
        check_files(labels)
    check_splits(splits)


def test_one_folder_with_all_images_does_too(tmp_path: Path) -> None:
    root = tree(tmp_path)
    for path in (tmp_path / "VG_100K_2").iterdir():
        path.rename(tmp_path / "VG_100K" / path.name)
    (tmp_path / "VG_100K_2").rmdir()
    check_files(vg500(root=root).train)


@pytest.mark.parametrize(("policy", "images"), [("negative", 2), ("drop", 1), ("unknown", 2)])
def test_images_without_an_object_follow_the_option(tmp_path: Path, policy: Any, images: int) -> None:
    val = vg500(root=tree(tmp_path), unlabelled=policy).val
    assert len(val) == images and val.fully_labelled == (policy != "unknown")


def test_a_classes_file_gives_the_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("".join(f"thing {k}\n" for k in range(500)))
    assert vg500(root=tree(tmp_path), classes=str(tmp_path / "names.txt")).val.class_names[1] == "thing 1"
    (tmp_path / "names.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"names.txt: 1 names, expected 500"):
        vg500(root=str(tmp_path), classes=str(tmp_path / "names.txt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "1.jpg\n\n8.jpg\n"}, "train_list_500.txt, line 3: "),
        ({"train": "1.jpg\n8.jpg\n"}, "has no labels of '8.jpg'"),
        ({"train": "1.jpg\n1.jpg\n"}, "train_list_500.txt, line 2: 1.jpg is listed a second time (line 1)"),
        ({"val": "\n"}, "test_list_500.txt: lists no image"),
        ({"labels": {**LABELS, "2.jpg": [500]}}, "'2.jpg' has [500], expected a list of indices from 0 to 499"),
        ({"labels": {**LABELS, "2.jpg": "cat"}}, "'2.jpg' has cat"),
        ({"labels": {**LABELS, "2.jpg": [True]}}, "'2.jpg' has [True]"),
        ({"labels": "{"}, "vg_category_500_labels_index.json: broken json"),
        ({"labels": [1]}, "found a list"),
    ],
)
def test_an_error_is_named_with_its_file(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        vg500(root=tree(tmp_path, **change))
    assert message in str(error.value) and str(tmp_path) in str(error.value)


def test_missing_data_is_one_message_with_every_path_and_the_site(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        vg500(root=str(tmp_path))
    message = str(error.value)
    assert "4 of 4 expected paths are missing" in message and "SSGRL" in message and "images2.zip" in message
