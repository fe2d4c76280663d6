"""Promises of the VOC reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mltrain.datasets import check_files, check_splits, read_voc
from mltrain.datasets.voc import CLASSES, voc
from mltrain.errors import DataError

PART = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"


def annotate(year_root: Path, image_id: str, objects: list[tuple[str, int]]) -> None:
    body = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{hard}</difficult>{PART}</object>"
        for name, hard in objects
    )
    path = year_root / "Annotations" / f"{image_id}.xml"
    path.write_text(f"<annotation><filename>{image_id}.jpg</filename>{body}</annotation>\n")


def tree(root: Path) -> Path:
    for year, lists in (
        (2007, {"trainval": ["000005", "000007"], "test": ["000001"]}),
        (2012, {"train": ["2008_000002"], "val": ["2008_000003"], "trainval": ["2008_000002", "2008_000003"]}),
    ):
        folder = root / "VOCdevkit" / f"VOC{year}"
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        for split, ids in lists.items():
            (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
            for image_id in ids:
                (folder / "JPEGImages" / f"{image_id}.jpg").touch()
                annotate(folder, image_id, [("person", 0)])
    annotate(root / "VOCdevkit" / "VOC2007", "000001", [("person", 0), ("sheep", 1)])
    annotate(root / "VOCdevkit" / "VOC2007", "000005", [("chair", 0), ("chair", 1), ("bottle", 1), ("sofa", 0)])
    return root


@pytest.mark.parametrize(("difficult", "bottle"), [("positive", 1), ("negative", 0), ("ignore", -1)])
def test_difficult_objects_follow_the_option_and_body_parts_are_no_objects(
    tmp_path: Path, difficult: Any, bottle: int
) -> None:
    tree(tmp_path)
    train = voc(root=str(tmp_path), year=2007, difficult=difficult).train
    alone = voc(root=str(tmp_path), year=2007, train_difficult=difficult)
    assert alone.train.fingerprint() == train.fingerprint()
    assert alone.val.fingerprint() == voc(root=str(tmp_path), year=2007).val.fingerprint()
    row = dict(zip(train.class_names, train.targets(0).tolist(), strict=True))
    assert train.class_names == CLASSES == tuple(sorted(CLASSES)) and len(CLASSES) == 20
    assert {name: value for name, value in row.items() if value} == {
        "chair": 1,
        "sofa": 1,
        **({"bottle": bottle} if bottle else {}),
    }
    assert train.fully_labelled == (difficult != "ignore")


@pytest.mark.parametrize(
    ("year", "train", "val"),
    [
        (2007, ["VOC2007/JPEGImages/000005.jpg", "VOC2007/JPEGImages/000007.jpg"], ["VOC2007/JPEGImages/000001.jpg"]),
        (2012, ["VOC2012/JPEGImages/2008_000002.jpg"], ["VOC2012/JPEGImages/2008_000003.jpg"]),
        (
            "07+12",
            [
                "VOC2007/JPEGImages/000005.jpg",
                "VOC2007/JPEGImages/000007.jpg",
                "VOC2012/JPEGImages/2008_000002.jpg",
                "VOC2012/JPEGImages/2008_000003.jpg",
            ],
            ["VOC2007/JPEGImages/000001.jpg"],
        ),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_splits_are_those_of_papers(tmp_path: Path, year: Any, train: list[str], val: list[str], inside: bool) -> None:
    root = tree(tmp_path) / ("VOCdevkit" if inside else "")
    splits = voc(root=str(root), year=year)
    assert [splits.train.file(i) for i in range(len(splits.train))] == train
    assert [splits.val.file(i) for i in range(len(splits.val))] == val
    check_files(splits.train)
    check_files(splits.val)
    check_splits(splits)


def test_missing_data_is_one_message_with_every_path_and_the_site(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        voc(root=str(tmp_path / "none"), year="07+12")
    message = str(error.value)
    for place in ("VOC2007/ImageSets/Main/test.txt", "VOC2012/ImageSets/Main/trainval.txt", "VOC2012/JPEGImages"):
        assert message.count(f"{tmp_path}/none/VOCdevkit/{place}\n") == 1
    assert "host.robots.ox.ac.uk" in message and "dataset.root" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "broken xml"),
        ("<annotation><object><name> </name></object></annotation>", "an object has no name"),
        (None, "annotation missing"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tree(tmp_path) / "VOCdevkit" / "VOC2007" / "Annotations" / "000007.xml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError) as error:
        read_voc(root=tmp_path, parts=[(2007, "trainval")])
    assert str(path) in str(error.value) and message in str(error.value)


def test_an_image_listed_twice_is_refused(tmp_path: Path) -> None:
    path = tree(tmp_path) / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    path.write_text("000001\n000001\n")
    with pytest.raises(DataError, match=r"test\.txt, line 2: 000001 is listed a second time \(line 1\)"):
        read_voc(root=tmp_path, parts=[(2007, "test")])


@pytest.mark.parametrize("wrong", [{"year": 2010}, {"difficult": "skip"}])
def test_a_value_outside_the_choice_is_a_wrong_argument(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        voc(root=str(tree(tmp_path)), **wrong)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg"])
def test_an_own_set_has_its_own_classes_and_suffixes(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path)
    place = root / "VOCdevkit" / "VOC2007"
    annotate(place, "000005", [("zebra", 0), ("person", 1)])
    annotate(place, "000007", [("hard hat", 0)])
    annotate(place, "000001", [("apron", 0), ("zebra", 0)])
    for path in list((place / "JPEGImages").iterdir()):
        path.rename(path.with_suffix(suffix))
    splits = voc(root=str(root), year=2007)
    assert splits.train.class_names == splits.val.class_names == ("apron", "hard hat", "person", "zebra")
    assert splits.train.dense().tolist() == [[0, 0, -1, 1], [0, 1, 0, 0]]
    assert splits.val.dense().tolist() == [[1, 0, 0, 1]]
    assert splits.train.file(0) == f"VOC2007/JPEGImages/000005{suffix}"
    check_files(splits.train)
    check_files(splits.val)
    check_splits(splits)
    assert "of the annotations, 3 classes are none of VOC's 20 (apron, hard hat, zebra)" in caplog.text
    (place / "JPEGImages" / f"000005{suffix}").rename(place / "JPEGImages" / "000005.gif")
    (place / "JPEGImages" / "000005.bmp").touch()
    with pytest.raises(DataError, match=r"trainval\.txt, line 1: there are .*000005\.bmp, .*000005\.gif"):
        voc(root=str(root), year=2007)
