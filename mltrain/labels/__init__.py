"""The labels of a data set, and their frequencies.

A target is 1 (positive), 0 (negative) or -1 (unknown). Targets are stored sparsely: each image lists some classes with
their targets, and one `fill` value stands for all classes that an image does not list. Memory therefore grows with the
number of labels, not with images x classes (Open Images has 9 M images x 9,605 classes).
"""

from mltrain.labels.class_names import differences, match_classes
from mltrain.labels.label_set import LabelSet, check_class_names, compress, row_entries
from mltrain.labels.label_stats import GROUP_NAMES, LabelStats

__all__ = [
    "GROUP_NAMES",
    "LabelSet",
    "LabelStats",
    "check_class_names",
    "compress",
    "differences",
    "match_classes",
    "row_entries",
]
