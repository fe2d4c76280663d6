"""Splits that are drawn: shares, folds, stratification against a naive restatement, and groups."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mltrain.config.build import instantiate, load
from mltrain.config.identity import run_id
from mltrain.datasets.splits import Splits, hold_out
from mltrain.datasets.stratify import _digest, stratify
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet


def drawn_labels(n: int, c: int, seed: int, mean: float = 2.0) -> LabelSet:
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, c + 1)
    counts = np.minimum(rng.poisson(mean, n), c)
    positives = [rng.choice(c, k, replace=False, p=p / p.sum()).tolist() for k in counts]
    files, classes = [f"{k}.jpg" for k in range(n)], [f"class {k}" for k in range(c)]
    return LabelSet.from_lists(name="x/train", root="", files=files, class_names=classes, positives=positives)


def by_the_paper(labels: LabelSet, shares: list[Fraction], seed: int, groups: list[str]) -> list[int]:
    """Algorithm 1 of the paper in plain words, with exact fractions; slow."""
    units = sorted(set(groups), key=lambda name: _digest(seed, name))
    images = {unit: [i for i, group in enumerate(groups) if group == unit] for unit in units}
    targets = labels.dense() == 1
    having = {unit: targets[images[unit]].sum(axis=0) for unit in units}
    wanted = [len(labels) * share for share in shares]
    wanted_of = [[int(targets[:, k].sum()) * share for k in range(labels.num_classes)] for share in shares]
    left, result = list(units), {}
    while left:
        sums = {k: sum(int(having[unit][k]) for unit in left) for k in range(labels.num_classes)}
        some = [k for k in sums if sums[k]]
        rarest = min(some, key=lambda k: (sums[k], _digest(seed, labels.class_names[k]))) if some else None
        if rarest is None:
            batch = sorted(left, key=lambda unit: -len(images[unit]))
        else:
            batch = sorted((unit for unit in left if having[unit][rarest]), key=lambda unit: -having[unit][rarest])
        for unit in batch:
            parts = list(range(len(shares)))
            if rarest is not None:
                most = max(wanted_of[j][rarest] for j in parts)
                parts = [j for j in parts if wanted_of[j][rarest] == most]
            most = max(wanted[j] for j in parts)
            parts = [j for j in parts if wanted[j] == most]
            chosen = parts[int.from_bytes(_digest(seed, unit)[:8], "big") % len(parts)]
            result[unit] = chosen
            left.remove(unit)
            wanted[chosen] -= len(images[unit])
            for k in range(labels.num_classes):
                wanted_of[chosen][k] -= int(having[unit][k])
    return [result[group] for group in groups]


@pytest.mark.parametrize("seed", range(6))
def test_stratification_is_that_of_the_paper(seed: int) -> None:
    labels = drawn_labels(60, 7, seed)
    shares = [[Fraction(1, 5)] * 5, [Fraction(7, 10), Fraction(2, 10), Fraction(1, 10)]][seed % 2]
    assert stratify(labels, shares, seed=seed).tolist() == by_the_paper(labels, shares, seed, labels.files)
    groups = [f"g{k}" for k in np.random.default_rng(seed).integers(0, 20, 60)]
    found = stratify(labels, shares, seed=seed, groups=groups)
    assert found.tolist() == by_the_paper(labels, shares, seed, groups)
    assert all(len(set(found[np.array(groups) == group])) == 1 for group in set(groups))


def counts_of(labels: LabelSet, part: np.ndarray, parts: int) -> np.ndarray:
    counts = np.zeros((parts, labels.num_classes), dtype=np.int64)
    rows, columns = labels.positive_pairs()
    np.add.at(counts, (part[rows], columns), 1)
    return counts


def test_every_fold_has_its_share_of_each_label() -> None:
    """The measures of the paper: label distribution, examples distribution, folds without a positive."""
    labels = drawn_labels(3000, 60, 0)
    part = stratify(labels, [0.1] * 10, seed=0)
    counts, totals = counts_of(labels, part, 10), counts_of(labels, np.zeros(3000, dtype=np.int64), 1)[0]
    assert np.ptp(np.bincount(part)) <= 2
    away = np.abs(counts - totals / 10)
    assert away[:, totals < 100].max() <= 1.0 and away.max() <= 4.0, "a rare label is off by one image at most"
    random = counts_of(labels, np.random.default_rng(0).permutation(np.arange(3000) % 10), 10)
    assert np.abs(counts - totals / 10).mean() < 0.2 * np.abs(random - totals / 10).mean()
    rare = totals >= 10
    assert (counts[:, rare] > 0).all() and not (random[:, rare] > 0).all()


def test_single_labels_are_stratified_exactly_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    labels = LabelSet.from_lists(
        name="x", root="", files=[f"{k}.jpg" for k in range(203)], class_names=list("abcde"),
        positives=[[int(k)] for k in rng.integers(0, 5, 203)],
    )  # fmt: skip
    part = stratify(labels, [Fraction(1, 4)] * 4, seed=3)
    assert np.ptp(counts_of(labels, part, 4), axis=0).max() <= 1
    order = rng.permutation(203)
    assert (stratify(labels.select(order), [Fraction(1, 4)] * 4, seed=3) == part[order]).all()
    moved = labels.with_classes(list("cadbe"))
    assert (stratify(moved, [Fraction(1, 4)] * 4, seed=3) == part).all()
    assert (stratify(labels, [Fraction(1, 4)] * 4, seed=4) != part).any()
    only_sizes = stratify(labels, [Fraction(1, 4)] * 4, seed=3, by_labels=False)
    assert np.ptp(np.bincount(only_sizes)) <= 1


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv file: 120 images of 30 patients, without a split; `split.csv` has one, 100 train, 10 val and 10 test."""
    folder = tmp_path_factory.mktemp("own")
    labels = drawn_labels(120, 6, 5)
    rows = []
    for k in range(120):
        names = [labels.class_names[c] for c in np.flatnonzero(labels.targets(k) == 1)]
        rows.append((f"{k}.png,{';'.join(names)},p{k % 30}", "train" if k < 100 else "val" if k < 110 else "test"))
    (folder / "own.csv").write_text("image,labels,patient\n" + "".join(f"{row}\n" for row, _ in rows))
    (folder / "split.csv").write_text("image,labels,patient,split\n" + "".join(f"{a},{b}\n" for a, b in rows))
    (folder / "groups.csv").write_text("image,group\n" + "".join(f"{k}.png,g{k // 10}\n" for k in range(120)))
    return folder / "own.csv"


def read(file: Path, *options: str, **given: bool) -> Splits:
    splits: Splits = instantiate(load(["dataset=csv", f"dataset.file={file}", *options]).dataset, "dataset", **given)
    return splits


def files(labels: LabelSet | None) -> set[str]:
    assert labels is not None
    return set(labels.files)


def whole(splits: Splits) -> set[str]:
    return set().union(*(files(labels) for labels in splits if labels is not None))


def test_a_plain_share_of_val_is_what_it_was(file: Path) -> None:
    every = read(file, "dataset.val_fraction=0.2", "dataset.split_seed=3")
    labels = LabelSet.from_lists(
        name="csv/train", root="", files=[f"{k}.png" for k in range(120)], class_names=["a"], positives=[[]] * 120
    )
    train, val = hold_out(labels, 0.2, 3, "csv")
    assert every.train.files == train.files and every.val.files == val.files and every.test is None
    more = read(file, "dataset.val_fraction=0.2", "dataset.split_seed=3", "dataset.test_fraction=0.1")
    assert more.val.files == val.files and len(files(more.test)) == 12
    assert files(more.train) | files(more.test) == files(train) and more.test.name == "csv/test"


def test_folds_cover_all_images_once_and_share_their_test_set(file: Path) -> None:
    folds = [read(file, "dataset.folds=4", f"dataset.fold={k}", "dataset.test_fraction=0.2") for k in range(4)]
    tests = [fold.test.files for fold in folds if fold.test is not None]
    assert len(tests) == 4 and all(test == tests[0] for test in tests) and 22 <= len(tests[0]) <= 26
    validated = [file for fold in folds for file in fold.val.files]
    assert len(validated) == len(set(validated)) == 120 - len(tests[0])
    for fold in folds:
        assert not files(fold.train) & files(fold.val) and whole(fold) == {f"{k}.png" for k in range(120)}
    assert folds[0].val.name == "csv/val"
    plain = [read(file, "dataset.folds=4", f"dataset.fold={k}", "dataset.stratify=false") for k in range(4)]
    assert [len(fold.val) for fold in plain] == [30] * 4 and len(set().union(*(files(f.val) for f in plain))) == 120


@pytest.mark.parametrize(
    "options",
    [
        ["dataset.val_fraction=0.2"],
        ["dataset.val_fraction=0.2", "dataset.test_fraction=0.2"],
        ["dataset.folds=3", "dataset.fold=2", "dataset.test_fraction=0.2"],
        ["dataset.folds=3", "dataset.stratify=false"],
    ],
)
@pytest.mark.parametrize("groups", ["dataset.group_column=patient", "dataset.groups={}/groups.csv"])
def test_no_group_is_on_two_sides(file: Path, options: list[str], groups: str) -> None:
    splits = read(file, *options, groups.format(file.parent))
    of = (lambda k: k % 30) if "column" in groups else (lambda k: k // 10)
    seen = [{of(int(name[:-4])) for name in labels.files} for labels in splits if labels is not None]
    assert sum(map(len, seen)) == len(set().union(*seen)) == (30 if "column" in groups else 12)
    assert whole(splits) == {f"{k}.png" for k in range(120)}


def test_groups_of_given_splits_are_checked(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = file.with_name("split.csv")
    with pytest.raises(
        DataError, match=r"10 groups have images in csv/train and in csv/val.*Shared, for example:\s+p10"
    ):
        read(split, "dataset.group_column=patient")
    assert len(read(split, f"dataset.groups={file.parent}/groups.csv").train) == 100
    drawn = read(split, "dataset.folds=5", f"dataset.groups={file.parent}/groups.csv")
    assert len(drawn.train) + len(drawn.val) == 100 and files(drawn.test) == {f"{k}.png" for k in range(110, 120)}
    assert "split val (10 images) is not used" in caplog.text


def test_groups_that_do_not_fit_are_refused(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refused(text: str, option: str = "dataset.groups") -> str:
        (tmp_path / "g.csv").write_text(text)
        with pytest.raises((DataError, ConfigError)) as caught:
            read(file, "dataset.val_fraction=0.2", f"{option}={tmp_path}/g.csv")
        return str(caught.value)

    assert "no column 'group'" in refused("image,patient\n1.png,a\n")
    assert "is of group 'b' here and of 'a' in line 2" in refused("image,group\n1.png,a\n1.png,b\n")
    assert "none of 120 images" in refused("image,group\nelsewhere/1.png,a\n")
    with pytest.raises(DataError, match=r"no column 'patiend'.*dataset\.group_column=patient"):
        read(file, "dataset.val_fraction=0.2", "dataset.group_column=patiend")
    (tmp_path / "g.csv").write_text("image,group\n1.png,a\n2.png,a\n3.png,\n")
    splits = read(file, "dataset.folds=2", f"dataset.groups={tmp_path}/g.csv")
    assert "of csv, 118 of 120 images have no group (the first: 0.png)" in caplog.text
    assert len(splits.train) + len(splits.val) == 120


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["folds=1"], "folds must be 0 or at least 2"),
        (["folds=3", "fold=3"], "must be 0 to 2"),
        (["fold=1"], "set dataset.folds=5"),
        (["folds=3", "val_fraction=0.1"], "leave one"),
        (["val_fraction=0.6", "test_fraction=0.5"], "leave nothing to train on"),
        (["test_fraction=-0.1", "val_fraction=0.1"], "must be in [0, 1)"),
        (["stratify=true"], "nothing is drawn"),
        (["folds=200"], "use fewer folds"),
        (["folds=2", "group_column=labels", "groups=x.csv"], "x.csv"),
    ],
)
def test_wrong_options_are_refused(file: Path, options: list[str], said: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        read(file, *(f"dataset.{option}" for option in options), "dataset.split_seed=1")
    assert said in str(caught.value) and caught.value.exit_code == 2


def test_every_data_set_has_the_options(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Readers that know no val_fraction, and images in folders, which need no folder of val then."""
    shapes = ["dataset=shapes", "dataset.num_train=20", "dataset.num_val=6", "dataset.image_size=16"]
    base = [*shapes, f"paths.data={tmp_path}"]
    given: Splits = instantiate(load(base).dataset, "dataset")
    caplog.set_level(logging.INFO)
    for options in (["folds=4", "fold=1"], ["val_fraction=0.25"], ["val_fraction=0.25", "stratify=true"]):
        splits: Splits = instantiate(
            load([*base, *(f"dataset.{o}" for o in options)]).dataset, "dataset", need_train=False
        )
        assert 3 <= len(splits.val) <= 5 and splits.test is None
        assert files(splits.train) | files(splits.val) == files(given.train)
        assert "6 shapes/val images are not used" in caplog.text
    for k in range(8):
        place = tmp_path / "images" / "ab"[k % 2] / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    folder = ["dataset=folder", f"dataset.root={tmp_path}/images", "dataset.train=.", "dataset.folds=4"]
    splits = instantiate(load(folder).dataset, "dataset")
    assert len(splits.val) == 2 and splits.val.positive_pairs()[1].tolist() == [0, 1], "one of each class"


def test_formats_that_are_recognised_have_the_options(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    auto = ["dataset=auto", f"dataset.path={file}", "dataset.split_seed=2"]
    held: Splits = instantiate(load(auto).dataset, "dataset")
    assert len(held.val) == 24
    with_test: Splits = instantiate(load([*auto, "dataset.test_fraction=0.1"]).dataset, "dataset")
    assert with_test.val.files == held.val.files and len(files(with_test.test)) == 10
    fold: Splits = instantiate(load([*auto, "dataset.folds=4", "dataset.fold=3"]).dataset, "dataset")
    of_csv = read(file, "dataset.folds=4", "dataset.fold=3", "dataset.split_seed=2")
    assert fold.val.files == of_csv.val.files
    last = [record.getMessage() for record in caplog.records if "without auto:" in record.getMessage()][-1]
    assert "val_fraction" not in last
    groups = ["dataset.folds=4", "dataset.group_column=patient"]
    grouped: Splits = instantiate(load([*auto, *groups]).dataset, "dataset")
    assert grouped.val.files == read(file, *groups, "dataset.split_seed=2").val.files
    (file.parent / "alone").mkdir(exist_ok=True)
    (file.parent / "alone" / "own.csv").write_bytes(file.read_bytes())
    folder = ["dataset=auto", f"dataset.path={file.parent}/alone", *groups]
    with pytest.raises(ConfigError, match=r"Name the file itself \(dataset.file, or dataset.path"):
        instantiate(load(folder).dataset, "dataset")


def test_ids_of_runs_that_draw_nothing_new_stay(tmp_path: Path) -> None:
    shapes = load(["dataset=shapes"])
    assert "val_fraction" not in shapes.dataset and "split_seed" not in shapes.dataset and shapes.dataset.folds == 0
    ids = [run_id(load(["dataset=csv", "dataset.file=x.csv", *more])) for more in (
        [], ["dataset.folds=0"], ["dataset.folds=5"], ["dataset.folds=5", "dataset.fold=1"], ["dataset.stratify=false"],
    )]  # fmt: skip
    assert ids[0] == ids[1] and len(set(ids)) == 4
