"""Sources of the public data sets: one table for the readers' messages and for mltrain prepare_data.

Sizes were quoted by people who downloaded the files; a server's own number takes precedence. Checksums are those that
torchvision publishes; for files without one, `prepare_data` notes the SHA-256 of the first download.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

MB, GB = 10**6, 10**9
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


# -- COCO and LVIS ---------------------------------------------------------------------------------------------------

COCO_SITE = "http://images.cocodataset.org"
COCO_IMAGES = {
    "train2014": (13_510_573_713, 82_783),
    "val2014": (6_645_013_297, 40_504),
    "train2017": (19_336_861_798, 118_287),
    "val2017": (815_585_330, 5_000),
}
COCO_ANNOTATIONS = {2014: 252_872_794, 2017: 252_907_541}
# (train, val): True counts all images, False those that have an annotation.
COCO_COUNTS = {
    2014: {True: (82_783, 40_504), False: (82_081, 40_137)},
    2017: {True: (118_287, 5_000), False: (117_266, 4_952)},
}


def _coco_images(folder: str) -> RemoteFile:
    size, images = COCO_IMAGES[folder]
    return RemoteFile((f"{COCO_SITE}/zips/{folder}.zip",), size, ((folder, images),), unpacked=size)


def _coco_annotations(year: int) -> RemoteFile:
    return RemoteFile(
        (f"{COCO_SITE}/annotations/annotations_trainval{year}.zip",),
        COCO_ANNOTATIONS[year],
        tuple((f"annotations/instances_{split}{year}.json", 1) for split in ("train", "val")),
        unpacked=820 * MB,
    )


def _coco(year: int) -> tuple[RemoteFile, ...]:
    return (_coco_annotations(year), _coco_images(f"val{year}"), _coco_images(f"train{year}"))


LVIS_SITE = "https://dl.fbaipublicfiles.com/LVIS"
LVIS = tuple(
    RemoteFile((f"{LVIS_SITE}/{file}.zip",), size, ((file, 1),), into="annotations", unpacked=unpacked)
    for file, size, unpacked in (
        ("lvis_v1_train.json", 350 * MB, 1_130 * MB),
        ("lvis_v1_val.json", 65 * MB, 195 * MB),
    )
)

COCO_HOW = (
    f"COCO comes from https://cocodataset.org/#download: {TOOL} downloads it (about 20 GB). By hand: unpack the "
    f"archives of train images, val images and train/val annotations side by side. {ELSEWHERE}"
)
LVIS_HOW = (
    f"LVIS v1 comes from https://www.lvisdataset.org/dataset: {TOOL} downloads it. By hand: unpack "
    "lvis_v1_train.json.zip and lvis_v1_val.json.zip into annotations/. Its images are COCO's 2017 train and val "
    "images (https://cocodataset.org/#download), also those of its own val set, mostly in train2017/. " + ELSEWHERE
)

# -- Pascal VOC ------------------------------------------------------------------------------------------------------


VOC_HOSTS = ("https://thor.robots.ox.ac.uk", "http://host.robots.ox.ac.uk")


def _voc(year: int, file: str, size: int, images: int, md5: str, *lists: str) -> RemoteFile:
    below = f"VOCdevkit/VOC{year}"
    gives = [(f"{below}/ImageSets/Main/{name}.txt", 1) for name in lists]
    gives += [(f"{below}/Annotations", images), (f"{below}/JPEGImages", images)]
    urls = tuple(f"{host}/pascal/VOC/voc{year}/{file}" for host in VOC_HOSTS)
    return RemoteFile(urls, size, tuple(gives), unpacked=size, md5=md5)


VOC_2007 = (
    _voc(2007, "VOCtrainval_06-Nov-2007.tar", 460_032_000, 5_011, "c52e279531787c972589f7e41ab4ae64", "trainval"),
    _voc(2007, "VOCtest_06-Nov-2007.tar", 451_020_800, 4_952, "b6e924de25625d8de591ea690078ad9f", "test"),
)
VOC_2012 = _voc(
    2012, "VOCtrainval_11-May-2012.tar", 1_999_639_040, 11_540, "6cd6e144f989b92b3379bac3b3de84fd",
    "train", "val", "trainval",
)  # fmt: skip
VOC = {2007: VOC_2007, 2012: (VOC_2012,), "07+12": (*VOC_2007, VOC_2012)}
VOC_COUNTS = {
    2007: PublishedCounts(20, 5_011, 4_952),
    2012: PublishedCounts(20, 5_717, 5_823),
    "07+12": PublishedCounts(20, 16_551, 4_952),
}

VOC_HOW = (
    f"Pascal VOC comes from http://host.robots.ox.ac.uk/pascal/VOC/: {TOOL} downloads it. By hand: unpack "
    f"{', '.join(file.name for file in VOC['07+12'])} into one folder. {ELSEWHERE}, the folder that "
    "holds VOCdevkit/ (or VOC2007/, VOC2012/)"
)

# -- VOC-MLT and COCO-MLT --------------------------------------------------------------------------------------------

MLT_PAGE = "https://github.com/wutong16/DistributionBalancedLoss"


def mlt_how(folder: str) -> str:
    """Say where the training set of a long-tailed benchmark is; `folder` is that of the published repository."""
    return (
        f"The split: dataset.split=FOLDER, the published class_freq.pkl, class_split.pkl and image ids ({MLT_PAGE}, "
        f"folder {folder}), or a split that mltrain import_longtail_split or mltrain create_longtail_dataset wrote"
    )


VOC_MLT_FOLDER = "appendix/VOCdevkit/longtail2012"
COCO_MLT_FOLDER = "appendix/coco/longtail2017"

# -- NUS-WIDE and VG500: by hand -------------------------------------------------------------------------------------

NUSWIDE_HOW = (
    "NUS-WIDE comes from https://github.com/NExTplusplus/NUS-WIDE (once lms.comp.nus.edu.sg): Groundtruth, ConceptsList"
    ", ImageList and, for the tags, NUS_WID_Tags, unpacked side by side; its images (the folder Flickr) are sent by "
    f"its authors on request. {ELSEWHERE}. The csv file of ASL is dataset=nuswide_csv"
)
NUSWIDE_CSV_HOW = (
    "The csv of ASL (nus_wid_data.csv, https://github.com/Alibaba-MIIL/ASL) and that of ML-Decoder (data.csv) are "
    "linked from their pages together with the images: dataset.file=FILE, and dataset.root=FOLDER when the images are "
    "not relative to its folder. The official files of NUS-WIDE are dataset=nuswide"
)
VG500_HOW = (
    "The lists and labels come from https://github.com/HCPLab-SYSU/SSGRL (folder data/VG), the images from "
    "https://homes.cs.washington.edu/~ranjay/visualgenome/ (images.zip and images2.zip, which unpack to VG_100K and "
    f"VG_100K_2). {ELSEWHERE}"
)

# -- Open Images -----------------------------------------------------------------------------------------------------

OPENIMAGES_SITE = "https://storage.googleapis.com/openimages"
OPENIMAGES = tuple(
    RemoteFile((f"{OPENIMAGES_SITE}/{file}",), size, ((file.rpartition("/")[2], 1),))
    for file, size in (
        ("v6/oidv6-classes-trainable.txt", MB),
        ("v6/oidv6-class-descriptions.csv", MB),
        ("v5/validation-annotations-human-imagelabels.csv", 30 * MB),
        ("v5/test-annotations-human-imagelabels.csv", 80 * MB),
        ("v6/oidv6-train-annotations-human-imagelabels.csv", 2_600 * MB),
    )
)
OPENIMAGES_IMAGES = (
    "The images of Open Images (train alone is about 500 GB): https://github.com/cvdfoundation/open-images-dataset has "
    "their archives. Unpack them below dataset.root; if they "
    "are in folders by first digit: dataset.train_images='train_{first}/{id}.jpg'"
)
OPENIMAGES_HOW = (
    f"Open Images V6 comes from {OPENIMAGES_SITE}/web/download.html: {TOOL} downloads the labels and classes. By hand: "
    f"{', '.join(source.urls[0] for source in OPENIMAGES)}. {OPENIMAGES_IMAGES}. {ELSEWHERE}"
)

# -- MNIST and CIFAR -------------------------------------------------------------------------------------------------

MNIST_HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
MNIST = tuple(
    RemoteFile(tuple(f"{host}/{file}" for host in MNIST_HOSTS), size, ((file, 1),), into="MNIST/raw", md5=md5)
    for file, size, md5 in (
        ("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    )
)


def _cifar(name: str, folder: str, files: int, size: int, md5: str) -> RemoteFile:
    return RemoteFile(
        (f"https://www.cs.toronto.edu/~kriz/{name}.tar.gz",), size, ((folder, files),), unpacked=187 * MB, md5=md5
    )


CIFAR10 = (_cifar("cifar-10-python", "cifar-10-batches-py", 7, 170_498_071, "c58f30108f718f92721af3b95e74349a"),)
CIFAR100 = (_cifar("cifar-100-python", "cifar-100-python", 3, 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),)


def torchvision_how(title: str) -> str:
    """Say where MNIST, CIFAR10 or CIFAR100 comes from."""
    return (
        f"{TOOL} downloads it, and so does torchvision: "
        f'python -c "from torchvision.datasets import {title}; {title}(ROOT, download=True)". '
        "To use a copy elsewhere: dataset.root=ROOT"
    )


# -- from a dataset section to its retrieval -------------------------------------------------------------------------


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
        return Retrieval((VOC_2007[1], VOC_2012), mlt_how(VOC_MLT_FOLDER), PublishedCounts(20, None, None, 4_952))
    if reader == "coco_mlt":
        return Retrieval(_coco(2017), mlt_how(COCO_MLT_FOLDER), PublishedCounts(80, None, None, 5_000))
    if reader == "lvis":
        images = (_coco_images("val2017"), _coco_images("train2017"))
        own = options["annotations"] != "annotations/lvis_v1_{split}.json"
        return Retrieval() if own else Retrieval((*LVIS, *images), counts=PublishedCounts(1_203, 100_170, 19_809))
    if reader == "openimages":
        named = {options[key] for key in ("train_labels", "val_labels", "test_labels", "classes", "descriptions")}
        return Retrieval(tuple(file for file in OPENIMAGES if file.name in named), OPENIMAGES_IMAGES)
    if reader in ("mnist", "cifar10", "cifar100"):
        return _retrieval_torchvision(reader, options)
    return _retrieval_by_hand(reader, options)


def _retrieval_coco(options: Mapping[str, Any]) -> Retrieval:
    if (options["annotations"], options["images"]) != ("annotations/instances_{split}{year}.json", "{split}{year}"):
        return Retrieval()  # the user's own data in COCO's format
    year = options["year"]
    return Retrieval(_coco(year), counts=PublishedCounts(80, *COCO_COUNTS[year][options["keep_unlabelled"]]))


def _retrieval_torchvision(reader: str, options: Mapping[str, Any]) -> Retrieval:
    files = {"mnist": MNIST, "cifar10": CIFAR10, "cifar100": CIFAR100}[reader]
    classes = {"fine": 100, "coarse": 20}[options["labels"]] if reader == "cifar100" else 10
    images = 60_000 if reader == "mnist" else 50_000
    held_out = options["val_fraction"] > 0
    counts = PublishedCounts(classes, None, None, 10_000) if held_out else PublishedCounts(classes, images, 10_000)
    return Retrieval(files, counts=counts)


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
