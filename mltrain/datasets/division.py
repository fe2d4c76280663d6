"""Validation and test sets drawn from the training images of any data set: by share, in folds, stratified, by group.

`read_divided` wraps a reader, so every data set has the same options, and every command the same splits. A reader's own
`val_fraction` stays in charge where nothing but a plain share of val is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import numpy as np

from mltrain import storage
from mltrain.datasets.cells import argument
from mltrain.datasets.corrections import correct
from mltrain.datasets.groups import check_cover, check_groups, groups_of, read_groups
from mltrain.datasets.splits import Splits, Undivided, hold_out, log_labels
from mltrain.datasets.stratify import stratify
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.seeding import hashed_order
from mltrain.text import counted, part_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Division:
    """Options of every data set, beside those of its reader.

    Args:
        val_fraction: above 0, val is this share of the training images.
        test_fraction: above 0, test is this share of the training images.
        folds: above 0, the training images are divided into so many parts, and one of them is val.
        fold: number of that part, from 0.
        split_seed: seed of all these choices, independent of the run's.
        stratify: draw with the share of each label kept (see `stratify`); None: with folds and groups.
        group_column: column of `groups`, or without it of the data set's own csv file. Images with the same value stay
            in one split.
        groups: csv file with the columns image and group.
        corrections: csv file of corrected labels, which are applied to the drawn train and val (see `corrections`).
    """

    val_fraction: float = 0.0
    test_fraction: float = 0.0
    folds: int = 0
    fold: int = 0
    split_seed: int = 0
    stratify: bool | None = None
    group_column: str | None = None
    groups: str | None = None
    corrections: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for options that contradict each other."""
        for key in ("val_fraction", "test_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key} must be in [0, 1), got {getattr(self, key)}")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(f"val_fraction and test_fraction leave nothing to train on: {self.val_fraction:g} + "
                             f"{self.test_fraction:g}")  # fmt: skip
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds must be 0 or at least 2, got {self.folds}")
        if not 0 <= self.fold < max(self.folds, 1):
            allowed = f"0 to {self.folds - 1}" if self.folds else "0 without folds; set dataset.folds=5, say"
            raise ValueError(f"fold={self.fold}: must be {allowed}")
        if self.folds and self.val_fraction:
            raise ValueError(f"folds={self.folds} makes val, and so does val_fraction={self.val_fraction:g}; leave one")
        if self.stratify and not (self.folds or self.val_fraction or self.test_fraction):
            raise ValueError("stratify=true: nothing is drawn; set val_fraction, test_fraction or folds")

    @property
    def grouped(self) -> bool:
        """True if groups of images stay together."""
        return self.group_column is not None or self.groups is not None

    @property
    def stratified(self) -> bool:
        """True if labels count."""
        return bool(self.folds or self.grouped) if self.stratify is None else self.stratify

    @property
    def plain(self) -> bool:
        """True if a hash of each image chooses, as readers do by themselves."""
        return not (self.folds or self.grouped or self.stratified)


DIVISION_OPTIONS = tuple(item.name for item in fields(Division))


def read_divided(read: Callable[..., Splits], options: Mapping[str, Any], accepts: Collection[str]) -> Splits:
    """Call a reader, draw the splits that the options ask for, and correct their labels.

    Args:
        read: splits function of a data set.
        options: its keyword arguments, and those of `Division`.
        accepts: names of the arguments that it takes.

    Raises:
        ValueError: options that contradict each other.
        DataError: a split would be empty, a group would be in two splits, or corrections do not fit the labels; or the
            reader's own errors.
    """
    # None is the reader's own choice (val_fraction of dataset=auto), or the default.
    division = Division(**{key: options[key] for key in DIVISION_OPTIONS if options.get(key) is not None})
    splits = _read_divided(read, options, accepts, division)
    if division.corrections is None:
        return splits
    whole = all(options.get(key, True) for key in ("need_val", "need_train"))
    return correct(splits, division.corrections, whole=whole)


def _read_divided(
    read: Callable[..., Splits], options: Mapping[str, Any], accepts: Collection[str], division: Division
) -> Splits:
    own = {key: value for key, value in options.items() if key in accepts or key not in DIVISION_OPTIONS}
    draws_val = bool(division.folds) or (
        division.val_fraction > 0 and not (division.plain and "val_fraction" in accepts)
    )
    if "drawn" in accepts:
        own["drawn"] = _typed(division, draws_val=draws_val)
    if not (draws_val or division.test_fraction or division.grouped):
        return read(**own)
    if draws_val:
        share = division.val_fraction or 1 / division.folds
        changed = {"val_fraction": Undivided(share), "need_val": False, "need_train": True}
        own |= {key: value for key, value in changed.items() if key in accepts}
    elif division.test_fraction and "need_train" in accepts:
        own["need_train"] = True
    return _Divider(division, options, draws_val).divide(read(**own))


def _typed(division: Division, *, draws_val: bool) -> str:
    """Return the options that are no work of the reader, as the command line reads them."""
    usual = Division()
    own = set() if draws_val else {"val_fraction"} if division.test_fraction else {"val_fraction", "split_seed"}
    given = {key: getattr(division, key) for key in DIVISION_OPTIONS if key not in own}
    return " ".join(argument(key, value) for key, value in given.items() if value != getattr(usual, key))


class _Divider:
    """Draws splits from those that a reader gives."""

    def __init__(self, division: Division, options: Mapping[str, Any], draws_val: bool) -> None:
        self.division, self.options, self.draws_val = division, options, draws_val
        self.source = str(division.groups or options.get("file") or "")
        self._groups: dict[str, dict[str, str]] = {}

    def divide(self, splits: Splits) -> Splits:
        """Return the drawn splits instead of the reader's own, and log what each holds."""
        train, val, test = splits
        name = train.name.rpartition("/")[0] or train.name
        if self.division.grouped:
            sets = [labels for labels in splits if labels is not None]
            check_cover(sets, [self._of(labels) for labels in sets], self.source, sorted(self._groups[str(train.root)]))
        if (self.draws_val or self.division.test_fraction) and test is None and val.name.endswith("/test") and len(val):
            val, test = val.select([], f"{name}/val"), val  # the test set stood in for val
            if not self.draws_val:
                raise DataError(f"{name}: has no validation set; add dataset.val_fraction=0.1, or dataset.folds=5")
        for part, labels in (("val", val if self.draws_val else None), ("test", test if self.draws_test else None)):
            if labels is not None and len(labels):
                log.warning(
                    "%s: %s is drawn from train, so %s not used",
                    *(name, part, counted(len(labels), f"{labels.name} image", "are")),
                )
        made: dict[str, LabelSet] = {"train": train, "val": val} | ({} if test is None else {"test": test})
        made |= self._plain(train, val, name) if self.division.plain else self._drawn(train, name)
        for part, labels in made.items():
            if not len(labels) and (part == "train" or part in self._drawn_parts):
                raise DataError(
                    f"{name}: {part} has no image, drawn from {counted(len(train), 'image')}"
                    f"{self._count_groups(train)}; use fewer folds or another share"
                )
        result = Splits(made["train"], made["val"], made.get("test"))
        if self.division.grouped:
            given = [labels for labels in result if labels is not None]
            check_groups([(labels, self._of(labels)) for labels in given], self.source)
        for labels in result:
            if labels is not None and len(labels):
                log_labels(labels)
        return result

    @property
    def draws_test(self) -> bool:
        """True if test is drawn."""
        return self.division.test_fraction > 0

    @property
    def _drawn_parts(self) -> list[str]:
        return [*(["val"] if self.draws_val else []), *(["test"] if self.draws_test else [])]

    def _plain(self, train: LabelSet, val: LabelSet, name: str) -> dict[str, LabelSet]:
        """Draw shares by a hash of each image; test is the same whoever draws val."""
        division, made = self.division, {}
        drawn_before = len(val) if division.val_fraction and not self.draws_val else 0
        everything = len(train) + drawn_before
        if self.draws_val:
            train, made["val"] = hold_out(train, division.val_fraction, division.split_seed, name)
        if self.draws_test:
            held = np.zeros(len(train), dtype=bool)
            # Those of val come first in this order, so val does not depend on test_fraction.
            held[hashed_order(division.split_seed, train.files)[: round(everything * division.test_fraction)]] = True
            made["test"] = train.select(np.flatnonzero(held), f"{name}/test")
            train = train.select(np.flatnonzero(~held), f"{name}/train")
        return made | {"train": train}

    def _drawn(self, train: LabelSet, name: str) -> dict[str, LabelSet]:
        """Draw shares or folds by labels, by group, or both."""
        division, made = self.division, {}
        test, val = (Fraction(str(share)) for share in (division.test_fraction, division.val_fraction))
        if division.folds:
            # First the test set, so that it is the same for every fold.
            if test:
                chosen = self._parts(train, [1 - test, test])
                made["test"] = train.select(np.flatnonzero(chosen == 1), f"{name}/test")
                train = train.select(np.flatnonzero(chosen == 0))
            chosen = self._parts(train, [Fraction(1, division.folds)] * division.folds)
            if (empty := division.folds - len(np.unique(chosen))) > 0:
                raise DataError(
                    f"{name}: {part_of(empty, division.folds, 'fold', 'have')} no image, drawn from "
                    f"{counted(len(train), 'image')}"
                    f"{self._count_groups(train)}; use fewer folds"
                )
            held = chosen == division.fold
            made["val"] = train.select(np.flatnonzero(held), f"{name}/val")
            return made | {"train": train.select(np.flatnonzero(~held), f"{name}/train")}
        shares = {
            "train": 1 - test - val,
            **({"val": val} if self.draws_val else {}),
            **({"test": test} if test else {}),
        }
        if len(shares) == 1:
            return made
        chosen = self._parts(train, list(shares.values()))
        return {part: train.select(np.flatnonzero(chosen == k), f"{name}/{part}") for k, part in enumerate(shares)}

    def _parts(self, labels: LabelSet, shares: Sequence[Fraction]) -> np.ndarray:
        whole = sum(shares)
        return stratify(
            labels,
            [share / whole for share in shares],
            seed=self.division.split_seed,
            groups=self._of(labels) if self.division.grouped else None,
            by_labels=self.division.stratified,
        )

    def _of(self, labels: LabelSet) -> list[str]:
        """Return the group of each image."""
        root = str(labels.root)
        if root not in self._groups:
            self._groups[root] = self._read(root)
        return groups_of(labels, self._groups[root])

    def _read(self, root: str) -> dict[str, str]:
        division, options = self.division, self.options
        if division.groups is not None:
            return read_groups(division.groups, root, group_column=division.group_column or "group")
        assert division.group_column is not None
        file = options.get("file") or options.get("path")
        if not file or "{split}" in str(file) or not storage.is_file(file):
            raise ValueError(
                f"group_column={division.group_column}: the data set is not named as one csv file. Name the file "
                "itself (dataset.file, or dataset.path with dataset=auto), or a csv file with the columns image and "
                f"{division.group_column}: dataset.groups=FILE"
            )
        given = {key: options[key] for key in ("image_column", "delimiter") if options.get(key) is not None}
        return read_groups(file, root, group_column=division.group_column, **given)

    def _count_groups(self, labels: LabelSet) -> str:
        return f" in {len(set(self._of(labels)))} groups" if self.division.grouped else ""
