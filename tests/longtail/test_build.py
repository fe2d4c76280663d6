"""Promises of the builder: targets reached, limits kept, validation disjoint and stratified, mistakes named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mltrain.errors import DataError
from mltrain.labels import LabelSet
from mltrain.longtail import LongTailOptions, build_longtail, read_split
from mltrain.longtail.curves import exponential, pareto

C = 12


def source(n: int = 3000, seed: int = 0, unlabelled: int = 100) -> LabelSet:
    """Classes in half to 6 % of the images, the first ones coming along with all others."""
    rng = np.random.default_rng(seed)
    targets = rng.random((n, C)) < np.geomspace(0.5, 0.06, C)
    targets[np.flatnonzero(~targets.any(1)), rng.integers(C)] = True
    targets[:unlabelled] = False
    return LabelSet.from_dense(
        name="toy/train",
        root="data",
        files=[f"{i}.jpg" for i in range(n)],
        class_names=[f"class {c}" for c in range(C)],
        targets=targets.astype(np.int8),
    )


def build(labels: LabelSet | None = None, **options: Any) -> Any:
    return build_longtail(labels or source(), LongTailOptions(**options))


def files(labels: LabelSet) -> set[str]:
    return {labels.file(i) for i in range(len(labels))}


@pytest.mark.parametrize("curve", ["pareto", "exponential"])
@pytest.mark.parametrize("order", ["cooccurrence", "frequency"])
def test_every_class_reaches_its_target_where_images_allow_it(curve: Any, order: Any) -> None:
    longtail = build(curve=curve, order=order, max=400, min=3)
    expected = pareto(C, max=400, min=3) if curve == "pareto" else exponential(C, max=400, min=3)
    assert sorted(longtail.targets.tolist(), reverse=True) == expected.tolist()
    assert longtail.stats.positives.tolist() == longtail.targets.tolist()
    assert (longtail.train.dense() == 1).any(1).all(), "an image without a label was chosen"


def test_exponential_falls_by_a_constant_factor_from_max_to_min() -> None:
    curve = exponential(5, max=1000, min=10)
    assert curve.tolist() == [1000, 316, 100, 32, 10]


def test_a_class_that_comes_along_everywhere_is_missed_as_little_as_can_be() -> None:
    """Class 0 is in every image: with the rarest target it cannot stay rare, and the numbers say so."""
    labels = LabelSet.from_lists(
        name="x",
        root="",
        files=[str(i) for i in range(100)],
        class_names="abc",
        positives=[[0, 1 + i % 2] for i in range(100)],
    )
    longtail = build(labels, curve="explicit", counts={"a": 5, "b": 40, "c": 30}, val_fraction=0)
    # An image with a and b costs 1/5 and brings 1/40: none beyond the five that a wants.
    assert longtail.stats.positives[0] == 5 and longtail.stats.positives[1:].sum() == 5
    lifted = build(labels, curve="explicit", counts={"a": 5, "b": 40, "c": 30}, at_least=20, val_fraction=0)
    assert lifted.stats.positives.tolist()[1:] == [20, 20]


def test_cap_and_at_least_hold_for_every_class() -> None:
    longtail = build(max=400, cap=150, at_least=40)
    assert longtail.stats.positives.max() == 150 and longtail.stats.positives.min() == 40


def test_cap_and_at_least_that_contradict_are_refused_with_the_numbers() -> None:
    labels = LabelSet.from_lists(
        name="x",
        root="",
        files=[str(i) for i in range(100)],
        class_names="abc",
        positives=[[0, 1 + i % 2] for i in range(100)],
    )
    with pytest.raises(
        DataError, match=r"at_least=20 cannot be met together with cap=30.*\n  [bc]: 1\d reached, 20 wanted, 50 in"
    ):
        build(labels, max=50, cap=30, at_least=20, val_fraction=0)


def test_the_validation_part_is_disjoint_stratified_and_has_every_class() -> None:
    labels = source()
    longtail = build(labels, max=400, val_fraction=0.2)
    assert not files(longtail.train) & files(longtail.val)
    share = (longtail.val.dense() == 1).sum(0) / (labels.dense() == 1).sum(0)
    assert np.allclose(share, 0.2, atol=0.01)
    assert len(longtail.val) == pytest.approx(600, abs=30)
    bare = (~(longtail.val.dense() == 1).any(1)).sum()
    assert bare == 20, "a fifth of the images without labels"


def test_validation_per_class_gives_at_least_so_many_and_leaves_training_its_targets() -> None:
    longtail = build(max=400, val_per_class=25)
    assert (longtail.val.dense() == 1).sum(0).min() == 25
    assert longtail.stats.positives.tolist() == longtail.targets.tolist()


def test_clipped_targets_leave_every_class_with_two_images_its_validation_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels = source(300, unlabelled=0)
    with caplog.at_level("WARNING"):
        longtail = build(labels, max=5000, shortage="clip", val_fraction=0.2)
    assert "fewer images than wanted; their targets are lowered" in caplog.text
    available = longtail.source_counts - np.rint(0.2 * longtail.source_counts)
    assert (longtail.targets <= available).all() and (longtail.targets == available).any()
    assert (longtail.val.dense() == 1).any(0).all()


def test_a_class_without_a_validation_image_is_named(caplog: pytest.LogCaptureFixture) -> None:
    labels = LabelSet.from_lists(
        name="x", root="", files=[str(i) for i in range(21)], class_names="ab", positives=[[0]] * 20 + [[1]]
    )
    with caplog.at_level("WARNING"):
        longtail = build(labels, max=10)
    assert longtail.stats.positives.tolist() == [10, 1]
    assert "1 of 2 classes has no validation image, because training needs them all: b" in caplog.text


def test_the_same_seed_gives_the_same_images_and_another_gives_others() -> None:
    one, same, other = (build(max=400, seed=seed) for seed in (1, 1, 2))
    assert one.train.fingerprint() == same.train.fingerprint() and one.val.fingerprint() == same.val.fingerprint()
    assert len(files(one.train) & files(other.train)) < 0.8 * len(one.train)


def test_unknown_targets_survive_into_the_folder(tmp_path: Path) -> None:
    targets = source().dense().copy()
    targets[np.random.default_rng(1).random(targets.shape) < 0.1] = -1
    labels = LabelSet.from_dense(
        name="toy",
        root="",
        files=[f"{i}.jpg" for i in range(len(targets))],
        class_names=[f"c{c}" for c in range(C)],
        targets=targets,
    )
    longtail = build(labels, max=300)
    split = read_split(longtail.write(tmp_path / "split"))
    assert (split.train.dense() == -1).any() and split.train.fingerprint() == longtail.train.fingerprint()
    assert split.val is not None and split.val.fingerprint() == longtail.val.fingerprint()


def test_the_manifest_says_how_to_make_the_split_again(tmp_path: Path) -> None:
    labels = source()
    folder = build(labels, max=300, seed=7).write(tmp_path / "split")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"] == {
        "name": "toy/train",
        "images": 3000,
        "classes": C,
        "fingerprint": labels.fingerprint(),
    }
    again = build_longtail(labels, LongTailOptions(**manifest["parameters"]))
    assert again.write(tmp_path / "again").joinpath("labels.csv").read_bytes() == (folder / "labels.csv").read_bytes()


@pytest.mark.parametrize("name", ["counts.csv", "counts.json"])
def test_explicit_counts_from_a_file(tmp_path: Path, name: str) -> None:
    counts = {f"class {c}": 10 * (C - c) for c in range(C)}
    text = (
        json.dumps(counts)
        if name.endswith("json")
        else "class,count\n" + "".join(f"{k},{v}\n" for k, v in counts.items())
    )
    (tmp_path / name).write_text(text)
    longtail = build(curve="explicit", counts=str(tmp_path / name))
    assert longtail.stats.positives.tolist() == list(counts.values())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"class 0": 5}, "11 of 12 classes have no count: class 1, class 2"),
        ({"clas 0": 5}, "no class 'clas 0'; did you mean 'class 0'?"),
        ({**{f"class {c}": 5 for c in range(C)}, "class 3": -1}, "class 'class 3' has count -1"),
        ({**{f"class {c}": 5 for c in range(C)}, "class 3": 10**23}, "class 'class 3' has count 10000"),
        ({**{f"class {c}": 5 for c in range(C)}, "class 3": 99999}, r"less \d+ for validation, 99999 wanted"),
        ("nowhere.csv", "nowhere.csv: counts cannot be read: No such file"),
        ({f"class {c}": 0 for c in range(C)}, "no image fits the targets, of which 12 of 12 are 0"),
    ],
)  # fmt: skip
def test_wrong_counts_are_named(counts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(curve="explicit", counts=counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min": 9, "max": 8}, "min=9 is above max=8"),
        ({"curve": "explicit"}, "counts is for curve=explicit, which needs it"),
        ({"counts": {"a": 1}}, "counts is for curve=explicit"),
        ({"curve": "exponential", "min": 0}, "min must be at least 1"),
        ({"cap": 5, "at_least": 6}, "at_least=6 is above cap=5"),
        *(({name: 10**23}, f"{name}=10+ must be at most") for name in ("max", "min", "cap", "val_per_class")),
        ({"medium_min": 200}, "medium_min=200 must not be above head_min=100"),
        ({"method": "published", "cap": 5}, "cap=5 needs method=balanced"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LongTailOptions(**options)


def test_a_source_without_labels_is_refused() -> None:
    labels = LabelSet.from_lists(name="x", root="", files=["1"], class_names="a", positives=[[]])
    with pytest.raises(DataError, match="no image has a positive label"):
        build(labels)
