"""Evaluation needs what it evaluates: readers of public sets, without what only training needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mltrain.datasets.celeba import celeba
from mltrain.datasets.class_lists import class_lists
from mltrain.datasets.labelme import labelme
from mltrain.datasets.lvis import lvis
from mltrain.datasets.mlt import voc_mlt
from mltrain.datasets.nuswide import nuswide
from mltrain.datasets.nuswide_csv import nuswide_csv
from mltrain.datasets.openimages import openimages
from mltrain.datasets.splits import Splits, in_class_order
from mltrain.datasets.torchvision_sets import cifar10, mnist
from mltrain.datasets.vg500 import vg500
from mltrain.datasets.voc import voc
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from tests.datasets import more_formats as more_formats  # adds its cases
from tests.datasets import test_lvis, test_nuswide, test_openimages, test_torchvision_sets, test_vg500, test_voc
from tests.datasets.formats import CASES
from tests.datasets.mlt_files import ids, targets, write_official, write_voc

Make = Callable[[Path], tuple[Callable[..., Splits], dict[str, Any], list[str]]]
"""makes a set in a folder; returns its reader, its options, and the files that only training needs, as patterns"""


def of_voc_mlt(root: Path) -> tuple[Callable[..., Splits], dict[str, Any], list[str]]:
    write_voc(root, ids())
    split = write_official(root / "split", targets(), ids())
    return voc_mlt, {"root": str(root), "split": str(split)}, ["**/VOC2012"]


def cifar10_root(root: Path) -> Path:
    test_torchvision_sets.cifar10_tree(root)
    return root


def of_nuswide_csv(root: Path) -> tuple[Callable[..., Splits], dict[str, Any], list[str]]:
    (root / "all.csv").write_text("image,labels,split\n1.jpg,[a],train\n2.jpg,[a],val\n", encoding="utf-8")
    (root / "val.csv").write_text("image,labels,split\n2.jpg,[a],val\n", encoding="utf-8")
    return nuswide_csv, {"file": str(root / "all.csv")}, []


SETS: dict[str, Make] = {
    "celeba": lambda root: (celeba, {"root": str(CASES["celeba_txt"](root).path)}, []),
    "cifar10": lambda root: (cifar10, {"root": str(cifar10_root(root))}, ["**/data_batch_*"]),
    "class_lists": lambda root: (
        class_lists,
        {"root": str(CASES["voc_with_a_list_per_class"](root).path)},
        ["**/*_train.txt"],
    ),
    "labelme": lambda root: (
        labelme,
        {"root": str(CASES["json_of_labelme_per_split"](root).path), "test": "test"},
        ["train"],
    ),
    "lvis": lambda root: (lvis, {"root": str(test_lvis.tree(root))}, ["annotations/lvis_v1_train.json"]),
    "mnist": lambda root: (mnist, {"root": test_torchvision_sets.mnist_tree(root)}, ["MNIST/raw/train-*"]),
    "nuswide": lambda root: (
        nuswide,
        {"root": str(test_nuswide.tree(root))},
        ["ImageList/Train*", "Groundtruth/*/*_Train.txt"],
    ),
    "nuswide_csv": of_nuswide_csv,
    "openimages": lambda root: (openimages, {"root": str(test_openimages.tree(root))}, ["*-train-annotations-*"]),
    "vg500": lambda root: (vg500, {"root": test_vg500.tree(root)}, ["train_list_500.txt"]),
    "voc2007": lambda root: (voc, {"root": str(test_voc.tree(root))}, ["**/VOC2007/ImageSets/Main/trainval.txt"]),
    "voc2012": lambda root: (
        voc,
        {"root": str(test_voc.tree(root)), "year": 2012},
        ["**/VOC2012/ImageSets/Main/train.txt"],
    ),
    "voc_mlt": of_voc_mlt,
}


@pytest.mark.parametrize("name", SETS)
def test_what_is_evaluated_is_read_without_the_training_data(name: str, tmp_path: Path) -> None:
    for folder in ("whole", "part"):
        (tmp_path / folder).mkdir()
    reader, options, _ = SETS[name](tmp_path / "whole")
    whole = reader(**options)
    reader, options, patterns = SETS[name](tmp_path / "part")
    if name == "nuswide_csv":
        options["file"] = options["file"].replace("all.csv", "val.csv")
    gone = [place for pattern in patterns for place in sorted((tmp_path / "part").glob(pattern))]
    assert gone or name in ("celeba", "nuswide_csv")
    for place in gone:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    if name != "celeba":  # whose three files are for all splits
        with pytest.raises(DataError):
            reader(**options)
    part = reader(**options, need_train=False)
    for one, other in zip(whole[1:], part[1:], strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one.fingerprint(), one.files) == (other.fingerprint(), other.files)


def test_classes_that_only_the_model_has_are_absent_in_what_is_evaluated(tmp_path: Path) -> None:
    val = LabelSet.from_lists(name="val", root=tmp_path, files=["1", "2"], class_names=["c", "a"], positives=[[0], [1]])
    splits = in_class_order(Splits(val.select([], "train"), val), ["a", "b", "c"])
    assert splits.val.class_names == splits.train.class_names == ("a", "b", "c")
    assert splits.val.dense().tolist() == [[0, 0, 1], [1, 0, 0]]
    other = in_class_order(Splits(val.select([], "train"), val), ["a", "b"])
    assert other.val.class_names == ("c", "a"), "a class that the model lacks is refused later"
    trained = in_class_order(Splits(val, val), ["a", "b", "c"])
    assert trained.val.class_names == ("c", "a"), "with training images the classes must be the same"
