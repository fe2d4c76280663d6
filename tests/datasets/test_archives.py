"""Readers find images and annotations in archives as in folders, and check them alike."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mltrain.datasets.coco import coco
from mltrain.datasets.csv import csv_file, read_csv
from mltrain.datasets.folder import folder
from mltrain.datasets.lists import list_files
from mltrain.datasets.splits import Splits, check_files, check_splits
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.prepare.shrink import carry, shrink
from tests.storage.made import make_tar, make_zip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    place = tmp_path / "images"
    for split, count in (("train", 3), ("val", 2)):
        for label in ("cat", "dog"):
            (place / split / label).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (8, 8), (k, len(label + split), 0)).save(place / split / label / f"{k} {label}é.png")
    return place


def packed(images: Path) -> list[Path]:
    files = [str(path.relative_to(images)) for path in sorted(images.rglob("*")) if path.is_file()]
    return [make_tar(images.parent / "i.tar", images, files), make_zip(images.parent / "i.zip", images, files)]


def same(made: Splits, expected: Splits) -> None:
    check_splits(made)
    for labels, other in zip(made, expected, strict=True):
        assert (labels is None) == (other is None)
        if labels is not None and other is not None:
            check_files(labels)
            assert labels.fingerprint() == other.fingerprint()


def test_folders_of_classes(images: Path) -> None:
    (images / "train/cat/notes.txt").write_text("no image")
    (images / "val/cat/0 dogé.png").write_bytes((images / "val/dog/0 dogé.png").read_bytes())  # in two class folders
    expected = folder(root=str(images))
    assert len(expected.train) == 6 and len(expected.val) == 4
    for archive in packed(images):
        same(folder(root=str(archive)), expected)
        inner = folder(root=str(archive), train="train", val="train/cat", val_fraction=0.5)
        same(inner, folder(root=str(images), train="train", val_fraction=0.5))
        with pytest.raises(DataError, match=r"missing  .*/none"):
            folder(root=str(archive), train="none")


def test_csv_and_lists_by_names_that_are_not_written_as_in_the_archive(images: Path, tmp_path: Path) -> None:
    table = tmp_path / "l.csv"
    names = [
        ("train\\cat\\0 cate\u0301.png", "cat,train"),
        ("train/dog/1 dogé", "dog,train"),
        ("val/cat/0 caté.png", "cat,val"),
    ]
    table.write_text("image,labels,split\n" + "".join(f"{image},{rest}\n" for image, rest in names))
    expected = csv_file(file=str(table), root=str(images))
    assert expected.train.files == ["train/cat/0 caté.png", "train/dog/1 dogé.png"]
    (images / "train.txt").write_text("train/cat/0 caté.png 0\ntrain/dog/1 dogé.png 1\n")
    (images / "val.txt").write_text("val/dog/0 dogé.png 1\n")
    (images / "inside.csv").write_text(table.read_text())
    for archive in packed(images):
        same(csv_file(file=str(table), root=str(archive)), expected)
        same(list_files(root=str(archive)), list_files(root=str(images)))
        same(csv_file(file=f"{archive}/inside.csv"), expected)
        beside = tmp_path / f"{archive.suffix[1:]}.csv"
        beside.write_text("image,labels\n" + "".join(f"{archive.name}/{image},{rest[:3]}\n" for image, rest in names))
        labels = read_csv(beside)
        check_files(labels)
        assert labels.file(1) == f"{archive.name}/train/dog/1 dogé.png"


def test_coco_with_annotations_in_the_archive_or_images_alone(images: Path) -> None:
    (images / "annotations").mkdir()
    for split in ("train", "val"):
        content = {
            "images": [{"id": 1, "file_name": "0 caté.png"}, {"id": 2, "file_name": "1 caté.png"}],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"image_id": 2, "category_id": 1}, {"image_id": 1, "category_id": 1}],
        }
        (images / f"annotations/{split}.json").write_text(json.dumps(content))
    options = {"annotations": "annotations/{split}.json", "images": "{split}/cat"}
    expected = coco(root=str(images), **options)
    for archive in packed(images):
        same(coco(root=str(archive), **options), expected)
        mixed = {"annotations": "images/annotations/{split}.json", "images": archive.name + "/{split}/cat"}
        same(coco(root=str(images.parent), **mixed), expected)


def test_missing_members_are_listed_like_missing_files(images: Path) -> None:
    for archive in packed(images):
        files = ["train/cat/0 caté.png", "train/cat/9.png", "none/1.png", "train/cat/0 caté.jpg", "train/cat"]
        labels = LabelSet.from_lists(name="x", root=archive, files=files, class_names=["c"], positives=[[0]] * 5)
        with pytest.raises(DataError) as error:
            check_files(labels)
        message = str(error.value)
        assert message.startswith(
            f"x: 4 of 5 image files are missing, expected under {archive} (check dataset.root; for"
        )
        assert "for 0 caté.jpg there is 0 caté.png" in message and "\n  none/1.png" in message


def test_the_same_member_in_two_splits_is_noticed(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(b"%d" % k)
    archive = make_tar(tmp_path / "a.tar", tmp_path, ["0.png", "1.png", "2.png"])
    with tarfile.open(archive, "a") as out:
        entry = tarfile.TarInfo("hard.png")
        entry.type, entry.linkname = tarfile.LNKTYPE, "./1.png"
        out.addfile(entry)
    (tmp_path / "link.tar").symlink_to(archive)

    def labels(root: Path, *files: str) -> LabelSet:
        return LabelSet.from_lists(name="v", root=root, files=files, class_names=["c"], positives=[[0]] * len(files))

    for shared in (labels(archive, "0.png"), labels(tmp_path, "link.tar/0.png"), labels(archive, "hard.png")):
        with pytest.raises(DataError, match=r"v shares 1 of its 1 image with"):
            check_splits(Splits(labels(archive, "0.png", "1.png"), shared))
    check_splits(Splits(labels(archive, "0.png", "1.png"), labels(archive, "2.png")))
    check_splits(Splits(labels(archive, "0.png"), labels(tmp_path, "1.png")))


def test_a_smaller_copy_of_an_archive_is_a_folder(images: Path, tmp_path: Path) -> None:
    (images / "notes.txt").write_text("kept")
    archive = packed(images)[0]
    splits = folder(root=str(archive))
    out = tmp_path / "small"
    shrink([splits.train, splits.val], archive, out, size=4)
    assert carry(archive, out) == 1 and (out / "notes.txt").read_text() == "kept"
    same(folder(root=str(out)), splits)
    with Image.open(out / "train/cat/1 caté.png") as image:
        assert image.size == (4, 4)
    elsewhere = LabelSet.from_lists(
        name="x", root=tmp_path, files=["i.tar/train/cat/1 caté.png"], class_names=["c"], positives=[[0]]
    )
    with pytest.raises(DataError, match=r"lies in the archive .*i.tar, which the copy cannot replace"):
        shrink([elsewhere], tmp_path, tmp_path / "other", size=4)
