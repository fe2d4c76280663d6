"""Long-tailed subsets of multi-label data: building them, and the folder that holds one."""

from mltrain.longtail.build import LongTail, build_longtail
from mltrain.longtail.options import LongTailOptions
from mltrain.longtail.split import is_split, read_split, write_split

__all__ = ["LongTail", "LongTailOptions", "build_longtail", "is_split", "read_split", "write_split"]
