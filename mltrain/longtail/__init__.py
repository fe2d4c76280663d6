"""Long-tailed subsets of multi-label data: building them, and the folder that holds one."""

from mltrain.longtail.split import is_split, read_split, write_split

__all__ = ["is_split", "read_split", "write_split"]
