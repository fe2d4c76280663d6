"""CelebA's attributes (Liu et al., ICCV 2015, arXiv:1411.7766): 40 classes, 1 or -1 for each image.

Both forms are read: ``list_attr_celeba.txt`` as published (a line with the number of images, a line with the names, a
line for each image) and the csv files that others made of it. -1 means that the image does not have the attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mltrain.datasets.label_files import LabelFile, SplitNames, choose_splits
from mltrain.datasets.reading import read_csv_rows, read_lines, require_paths
from mltrain.datasets.splits import Splits, check_fraction
from mltrain.datasets.table import Layout, Table, csv_table, with_split
from mltrain.datasets.table_reader import read_tables
from mltrain.errors import DataError

HOW = (
    "CelebA comes from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: list_attr_celeba.txt, "
    "list_eval_partition.txt and the folder img_align_celeba. Other names: dataset.attributes, dataset.partition, "
    "dataset.images; to use another place: dataset.root=FOLDER"
)
PARTITION = {"0": "train", "1": "val", "2": "test"}


def celeba(
    *,
    name: str = "celeba",
    root: str,
    attributes: str = "list_attr_celeba.txt",
    partition: str | None = "list_eval_partition.txt",
    images: str = "img_align_celeba",
    val_fraction: float = 0.0,
    split_seed: int = 0,
    need_val: bool = True,
    need_train: bool = True,
) -> Splits:
    """CelebA train (162,770 images), val (19,867) and test (19,962, as commonly quoted).

    Args:
        name: name of the LabelSets and the run folder.
        root: folder that the three below are relative to.
        attributes: file with the attributes, txt or csv.
        partition: file with 0 (train), 1 (val) or 2 (test) for each image, txt or csv; None: all images are train, so
            `val_fraction` is needed.
        images: folder of the images.
        val_fraction: above 0, val is this share of train, chosen by a hash of `split_seed` and the path; the val images
            of `partition` are then not used.
        split_seed: seed of that choice, independent of the run's.
        need_val: the program sets it to False for tools that read the training images only; val may then be empty.
        need_train: the program sets it to False to evaluate; train may then be empty.

    Raises:
        DataError: files are missing or broken; the message names the line.
    """
    check_fraction(val_fraction)
    place = Path(root)
    file = place / attributes
    parts = None if partition is None else place / partition
    require_paths(name, [file, place / images, *([parts] if parts else [])], HOW)
    splits = None if parts is None else dict(_pairs(parts))
    layout = Layout(image_column="image_id", minus_one="negative")
    table = attribute_table(file)
    if splits is not None:
        table = with_split(table, splits, "dataset.partition")
    listing = read_tables(place / images, [LabelFile(file, "", None)], False, None, layout, lambda _: table, file)
    names = SplitNames("train", "val", None, val_fraction, split_seed, need_val, need_train)
    return choose_splits(listing, name, replace(names, where=str(parts or file)))


def attribute_table(path: Path) -> Table:
    """Return the table of the attributes; a broken line is a DataError."""
    if path.suffix.lower() == ".csv":
        return csv_table(path, ",")
    lines = read_lines(path)
    next(lines, None)  # the number of images
    _, header = next(lines, (0, ""))
    columns = ["image_id", *header.split()]

    def rows() -> Iterator[tuple[str, list[str]]]:
        for number, text in list(read_lines(path))[2:]:
            cells = text.split()
            if len(cells) != len(columns):
                raise DataError(
                    f"{path}, line {number}: {len(cells) - 1} values, but there are {len(columns) - 1} attributes"
                )
            yield f"line {number}", cells

    return Table(path, columns, rows)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (image, split) of the file of the partition."""
    if path.suffix.lower() == ".csv":
        lines = ((number, cells) for number, cells in read_csv_rows(path))
        next(lines, None)
    else:
        lines = ((number, text.split()) for number, text in read_lines(path))
    for number, cells in lines:
        if len(cells) != 2 or cells[1].strip() not in PARTITION:
            raise DataError(f"{path}, line {number}: expected an image and 0, 1 or 2, found {' '.join(cells)[:60]}")
        yield cells[0].strip(), PARTITION[cells[1].strip()]
