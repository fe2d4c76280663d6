"""VG500: Visual Genome (Krishna et al., IJCV 2017) with its 500 most frequent objects, as split by SSGRL (Chen et al.,
ICCV 2019, arXiv:1908.07325) and used by Query2Label.

The files name no class: a class is an index from 0 to 499. The option `classes`, a file of 500 names, gives them names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mltrain.datasets.reading import read_class_names, read_image_list, read_json_object, require_paths
from mltrain.datasets.sources import VG500_HOW as HOW
from mltrain.datasets.splits import Splits, make_splits, treat_unlabelled
from mltrain.errors import DataError
from mltrain.labels import LabelSet

NUM_CLASSES = 500
FOLDERS = ("VG_100K", "VG_100K_2")


def vg500(
    *,
    name: str = "vg500",
    root: str,
    train_list: str = "train_list_500.txt",
    val_list: str = "test_list_500.txt",
    labels: str = "vg_category_500_labels_index.json",
    classes: str | None = None,
    unlabelled: Literal["drop", "negative", "unknown"] = "negative",
    need_train: bool = True,
) -> Splits:
    """Train (98,249 images) and test (10,000, as commonly quoted), which stands in for val.

    Args:
        name: name of the LabelSets and the run folder.
        root: folder with the files below, and with the images in `VG_100K/`, `VG_100K_2/` or both.
        train_list: file with one image name per line.
        val_list: the same for val.
        labels: json file: image name -> list of class indices.
        classes: file with 500 names, one per line, in the order of the indices; default: object_000 to object_499.
        unlabelled: images with an empty list: drop leaves them out, negative keeps them as all negative, unknown keeps
            them with all targets -1.
        need_train: the program sets it to False to evaluate; train may then be missing, and is empty in that case.

    Raises:
        DataError: files are missing or broken.
    """
    folder = Path(root)
    lists = {"train": folder / train_list, "val": folder / val_list}
    if not need_train and not lists["train"].exists():
        del lists["train"]
    images = [folder / place for place in FOLDERS if (folder / place).is_dir()] or [folder / FOLDERS[0]]
    require_paths(name, [*lists.values(), folder / labels, *images, *([classes] if classes else [])], HOW)
    names = list(read_class_names(classes)) if classes else [f"object_{k:03d}" for k in range(NUM_CLASSES)]
    if len(names) != NUM_CLASSES:
        raise DataError(f"{classes}: {len(names)} names, expected {NUM_CLASSES}")
    indices = _indices(folder / labels)
    second = {path.name for path in images[1].iterdir()} if len(images) > 1 else set()
    made = {}
    for part, path in lists.items():
        listed = read_image_list(path)
        for image, number in listed.items():
            if image not in indices:
                raise DataError(f"{path}, line {number}: {folder / labels} has no labels of {image!r}")
        files = [f"{images[1 if image in second else 0].name}/{image}" for image in listed]
        positives = [indices[image] for image in listed]
        given = LabelSet.from_lists(
            name=f"{name}/{part}", root=folder, files=files, class_names=names, positives=positives
        )
        made[part] = treat_unlabelled(given, unlabelled)
    return make_splits(name, made)


def _indices(path: Path) -> dict[str, list[int]]:
    data = read_json_object(path, "a json object of image name -> list of indices")
    for image, given in data.items():
        if not isinstance(given, list) or any(type(k) is not int or not 0 <= k < NUM_CLASSES for k in given):
            raise DataError(
                f"{path}: {image!r} has {str(given)[:60]}, expected a list of indices from 0 to {NUM_CLASSES - 1}"
            )
    return data
