"""Readers: annotation files -> LabelSet. No image is opened.

Each family has `read_x(...) -> LabelSet` for one split, and a function that config targets, which returns `Splits`.
"""

from mltrain.datasets.coco import read_coco
from mltrain.datasets.csv import read_csv
from mltrain.datasets.folder import read_folder
from mltrain.datasets.lvis import read_lvis
from mltrain.datasets.mlt import read_official
from mltrain.datasets.openimages import read_openimages
from mltrain.datasets.shapes import read_shapes
from mltrain.datasets.splits import Splits, check_files, check_splits
from mltrain.datasets.voc import read_voc

__all__ = [
    "Splits",
    "check_files",
    "check_splits",
    "read_coco",
    "read_csv",
    "read_folder",
    "read_lvis",
    "read_official",
    "read_openimages",
    "read_shapes",
    "read_voc",
]
