"""Sources of the public data sets (sources.yaml): for the readers' messages and for mltrain prepare_data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mltrain.safe_yaml import read_yaml

MB = 10**6
TOOL = "mltrain prepare_data, with the same dataset=... arguments,"
ELSEWHERE = "To use a copy elsewhere: dataset.root=FOLDER"


@dataclass(frozen=True)
class RemoteFile:
    """A file to download."""

    urls: tuple[str, ...]
    """addresses of the file, tried in turn"""
    size: int
    """bytes, for the check of free space"""
    gives: tuple[tuple[str, int], ...]
    """(path below `into`, least number of files there; 1 for a file)"""
    into: str = "."
    """folder below dataset.root that the file is unpacked into or, if it is no archive, moved into"""
    unpacked: int | None = None
    """approximate bytes once unpacked; None: it is no archive, and stays as it is"""
    md5: str | None = None

    @property
    def name(self) -> str:
        """File name in the first address."""
        return self.urls[0].rpartition("/")[2]


class PublishedCounts(NamedTuple):
    """Published numbers of classes and of images in each split."""

    classes: int
    train: int | None
    val: int | None
    test: int | None = None


class Retrieval(NamedTuple):
    """Files to download, or instructions, to get a data set."""

    files: tuple[RemoteFile, ...] = ()
    by_hand: str = ""
    """what a program cannot download, and where it is"""
    counts: PublishedCounts | None = None


def _file(urls: list[str], size: int, gives: list[list[Any]], **other: Any) -> RemoteFile:
    return RemoteFile(tuple(urls), size, tuple((path, count) for path, count in gives), **other)


_TABLE = read_yaml(Path(__file__).with_name("sources.yaml"))
_FILES = {name: tuple(_file(**row) for row in rows) for name, rows in _TABLE["files"].items()}
_TEXTS = {k: text.replace("TOOL", TOOL).replace("ELSEWHERE", ELSEWHERE) for k, text in _TABLE["texts"].items()}

COCO_HOW, LVIS_HOW, VOC_HOW = (_TEXTS[name] for name in ("coco", "lvis", "voc"))
NUSWIDE_HOW, NUSWIDE_CSV_HOW, VG500_HOW = (_TEXTS[name] for name in ("nuswide", "nuswide_csv", "vg500"))
OPENIMAGES_HOW = f"{_TEXTS['openimages']}. {_TEXTS['openimages_images']}. {ELSEWHERE}"

COCO = {2014: _FILES["coco_2014"], 2017: _FILES["coco_2017"]}
# (train, val): True counts all images, False those that have an annotation.
COCO_COUNTS = {
    2014: {True: (82_783, 40_504), False: (82_081, 40_137)},
    2017: {True: (118_287, 5_000), False: (117_266, 4_952)},
}
VOC = {2007: _FILES["voc_2007"], 2012: _FILES["voc_2012"], "07+12": (*_FILES["voc_2007"], *_FILES["voc_2012"])}
VOC_COUNTS = {
    2007: PublishedCounts(20, 5_011, 4_952),
    2012: PublishedCounts(20, 5_717, 5_823),
    "07+12": PublishedCounts(20, 16_551, 4_952),
}
MNIST, CIFAR10, CIFAR100 = (_FILES[name] for name in ("mnist", "cifar10", "cifar100"))

MLT_PAGE = "https://github.com/wutong16/DistributionBalancedLoss"
VOC_MLT_FOLDER = "appendix/VOCdevkit/longtail2012"
COCO_MLT_FOLDER = "appendix/coco/longtail2017"


def mlt_how(folder: str) -> str:
    """Say where the training set of a long-tailed benchmark is; `folder` is that of the published repository."""
    return (
        f"The split: dataset.split=FOLDER, the published class_freq.pkl, class_split.pkl and image ids ({MLT_PAGE}, "
        f"folder {folder}), or a split that mltrain import_longtail_split or mltrain create_longtail_dataset wrote"
    )


def torchvision_how(title: str) -> str:
    """Say where MNIST, CIFAR10 or CIFAR100 comes from."""
    return (
        f"{TOOL} downloads it, and so does torchvision: "
        f'python -c "from torchvision.datasets import {title}; {title}(ROOT, download=True)". '
        "To use a copy elsewhere: dataset.root=ROOT"
    )


def retrieval(target: str, options: Mapping[str, Any]) -> Retrieval:
    """Return how to get the data of a dataset section; empty for the user's own data and for generated data.

    Args:
        target: the function that the config targets, e.g. ``mltrain.datasets.coco.coco``.
        options: all options of that function.
    """
    reader = target.rpartition(".")[2] if target.startswith("mltrain.datasets.") else ""
    if reader == "coco":
        return _retrieval_coco(options)
    if reader == "voc":
        year = options["year"]
        return Retrieval(VOC[year], counts=VOC_COUNTS[year])
    if reader == "voc_mlt":
        return Retrieval(VOC["07+12"][1:], mlt_how(VOC_MLT_FOLDER), PublishedCounts(20, None, None, 4_952))
    if reader == "coco_mlt":
        return Retrieval(COCO[2017], mlt_how(COCO_MLT_FOLDER), PublishedCounts(80, None, None, 5_000))
    if reader == "lvis":
        own = options["annotations"] != "annotations/lvis_v1_{split}.json"
        files = (*_FILES["lvis"], *COCO[2017][1:])
        return Retrieval() if own else Retrieval(files, counts=PublishedCounts(1_203, 100_170, 19_809))
    if reader == "openimages":
        named = {options[key] for key in ("train_labels", "val_labels", "test_labels", "classes", "descriptions")}
        return Retrieval(
            tuple(file for file in _FILES["openimages"] if file.name in named), _TEXTS["openimages_images"]
        )
    if reader in ("mnist", "cifar10", "cifar100"):
        return _retrieval_torchvision(reader, options)
    return _retrieval_by_hand(reader, options)


def _retrieval_coco(options: Mapping[str, Any]) -> Retrieval:
    if (options["annotations"], options["images"]) != ("annotations/instances_{split}{year}.json", "{split}{year}"):
        return Retrieval()  # the user's own data in COCO's format
    year = options["year"]
    return Retrieval(COCO[year], counts=PublishedCounts(80, *COCO_COUNTS[year][options["keep_unlabelled"]]))


def _retrieval_torchvision(reader: str, options: Mapping[str, Any]) -> Retrieval:
    classes = {"fine": 100, "coarse": 20}[options["labels"]] if reader == "cifar100" else 10
    images = 60_000 if reader == "mnist" else 50_000
    held_out = options["val_fraction"] > 0
    counts = PublishedCounts(classes, None, None, 10_000) if held_out else PublishedCounts(classes, images, 10_000)
    return Retrieval(_FILES[reader], counts=counts)


def _retrieval_by_hand(reader: str, options: Mapping[str, Any]) -> Retrieval:
    if reader == "nuswide":
        classes = {"concepts": 81, "tags": 1_000, "zero_shot": 1_006}[options["labels"]]
        kept = options["unlabelled"] != "drop"
        return Retrieval(
            (), NUSWIDE_HOW, PublishedCounts(classes, 161_789 if kept else None, 107_859 if kept else None)
        )
    if reader == "nuswide_csv":
        return Retrieval((), NUSWIDE_CSV_HOW)
    if reader == "vg500":
        kept = options["unlabelled"] != "drop"
        return Retrieval((), VG500_HOW, PublishedCounts(500, 98_249, 10_000) if kept else None)
    return Retrieval()
