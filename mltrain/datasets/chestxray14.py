"""ChestX-ray14 (Wang et al., CVPR 2017, arXiv:1705.02315) as published: findings in a csv file, two lists of images.

``train_val_list.txt`` and ``test_list.txt`` divide the images by patient. Findings are separated by ``|``; an image of
"No Finding" has no label.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mltrain.datasets.label_files import LabelFile, SplitNames, choose_splits
from mltrain.datasets.reading import read_image_list, require_paths
from mltrain.datasets.splits import Splits, check_fraction
from mltrain.datasets.table import Layout, csv_table, with_split
from mltrain.datasets.table_reader import read_tables

HOW = (
    "ChestX-ray14 comes from https://nihcc.app.box.com/v/ChestXray-NIHCC: Data_Entry_2017.csv, train_val_list.txt, "
    "test_list.txt, and the images in one or more folders beside them. To use another place: dataset.file=FILE"
)


def chestxray14(
    *,
    name: str = "chestxray14",
    file: str,
    root: str | None = None,
    train_list: str = "train_val_list.txt",
    test_list: str = "test_list.txt",
    no_label: str | None = "No Finding",
    val_fraction: float = 0.1,
    split_seed: int = 0,
    need_val: bool = True,
    need_train: bool = True,
) -> Splits:
    """ChestX-ray14 train, val and test: 86,524 and 25,596 images in the two lists, as commonly quoted; 14 classes.

    Args:
        name: name of the LabelSets and the run folder.
        file: the csv file. Its column "Patient ID" may be `group_column`, so that no patient is in train and val.
        root: folder of the images; None: the folder of `file`, or those below it that have the images.
        train_list: list of the images of train, beside `file`.
        test_list: list of the images of test, beside `file`.
        no_label: label that means none; None: it is a class.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; at 0 the test
            set stands in for it.
        split_seed: seed of that choice, independent of the run's.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.
        need_train: the program sets it to False to evaluate; train may then be empty.

    Raises:
        DataError: files are missing or broken, or a list lacks an image; the message names the line.
    """
    check_fraction(val_fraction)
    path = Path(file)
    lists = {"train": path.parent / train_list, "test": path.parent / test_list}
    require_paths(name, [path, *lists.values()], HOW)
    splits = {image: split for split, listed in lists.items() for image in read_image_list(listed)}
    table = with_split(csv_table(path, ","), splits, "train_val_list.txt or test_list.txt")
    layout = Layout(separator="|", image_column="Image Index", labels_column="Finding Labels", no_label=no_label)
    images = path.parent if root is None else Path(root)
    listing = read_tables(images, [LabelFile(path, "", None)], root is None, None, layout, lambda _: table, path)
    val = "val" if val_fraction > 0 else "test"
    names = SplitNames("train", val, None, val_fraction, split_seed, need_val, need_train)
    return choose_splits(listing, name, replace(names, where=f"{train_list} and {test_list}"))
