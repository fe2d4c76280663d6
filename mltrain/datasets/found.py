"""A format that was recognised, as the options of a reader."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mltrain.datasets.cells import argument
from mltrain.datasets.splits import Undivided

HELD_OUT = 0.2
"""share of train that is held out where the labels name no validation images"""
SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing", "tst"),
}
"""names of splits, in lower case"""


@dataclass(frozen=True)
class Found:
    """A format that was recognised."""

    title: str
    """such as "a csv file with one column per class" """
    group: str
    """the config of its reader: dataset=GROUP"""
    options: dict[str, Any] = field(default_factory=dict)
    """options of the reader that are not its defaults"""
    note: str = ""
    """decision that was taken, for the log"""

    @property
    def command(self) -> str:
        """The options as a shell and the command line read them, without what is drawn later (`division`)."""
        given = {key: value for key, value in self.options.items() if not isinstance(value, Undivided)}
        return " ".join([f"dataset={self.group}", *(argument(key, value) for key, value in given.items())])


def held_out_unless(has_val: bool) -> dict[str, Any]:
    """Return the option that holds validation images out of train, unless there are some."""
    return {} if has_val else {"val_fraction": HELD_OUT}


def split_of(name: str) -> str | None:
    """Return train, val or test if one part of a name says so, such as ``instances_val2017.json``; else None."""
    parts = [re.sub(r"[0-9]+$", "", part) for part in re.split(r"[^a-z0-9]+", name.lower())]
    found = {split for split, names in SPLITS.items() for part in parts if part in names}
    return found.pop() if len(found) == 1 else None


def split_options(found: set[str]) -> dict[str, Any] | None:
    """Return the options `train_split`, `val_split` and `test_split`, or None if the names are those of no splits.

    Args:
        found: names of splits as the labels write them.
    """
    options: dict[str, Any] = {}
    for name in sorted(found - {""}):  # the reader says how many images have none
        split = next((split for split, names in SPLITS.items() if name.lower() in names), None)
        if split is None or f"{split}_split" in options:
            return None
        options[f"{split}_split"] = name
    if "train_split" not in options:
        return None
    held_out = held_out_unless("val_split" in options)
    usual = {"train_split": "train", "val_split": "val", "test_split": "test"}
    return {key: name for key, name in options.items() if usual[key] != name} | held_out
