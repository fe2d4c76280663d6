"""Fingerprints: what counts as other data, what does not, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mltrain.datasets.fingerprint import MOST_ROWS, Fingerprint, SplitFingerprint, relative_names
from mltrain.datasets.splits import Splits
from mltrain.labels import LabelSet

FILES = ["a/1.jpg", "a/2.jpg", "b/a-longer-name-of-an-image.jpg", "ü.jpg"]
LABELS = [[0], [0, 1], [], [2]]


def made(files=FILES, positives=LABELS, classes=("cat", "dog", "sun"), root="data", **more) -> LabelSet:
    return LabelSet.from_lists(name="x/train", root=root, files=files, class_names=classes, positives=positives, **more)


def differ(a: LabelSet, b: LabelSet, **more) -> list[str]:
    return SplitFingerprint.of(a).differences(SplitFingerprint.of(b), b, **more)


def test_place_name_and_order_of_classes_do_not_count() -> None:
    a = made()
    assert differ(a, made(root="/elsewhere")) == []
    assert differ(a, a.select(range(4), "another name")) == []
    assert differ(a, a.with_classes(["sun", "cat", "dog"])) == []
    assert differ(a, made(classes=("cat", "dog", "sun", "new"))) == [], "no image has the new class"
    dense = LabelSet.from_dense(name="d", root="", files=FILES, class_names=a.class_names, targets=a.dense())
    assert differ(a, dense) == []
    rows, columns = np.nonzero(a.dense() >= 0)
    filled = a.with_targets(rows, columns, a.dense()[rows, columns], fill=-1)
    assert filled.fill == -1 and (filled.dense() == a.dense()).all() and differ(a, filled) == []


def test_full_paths_count_from_their_folder() -> None:
    listed = [f"/old/place/{file}" for file in FILES]
    moved = [f"/new/{file}" for file in FILES]
    assert differ(made(listed), made(moved)) == []
    assert differ(made(listed), made(FILES)) == []
    assert differ(made(listed, root="/old/place"), made(FILES)) == []
    assert relative_names(made(["/p/q/1.jpg", "/p/qr/1.jpg", "2.jpg", "/p/q/3.jpg"], root="/r")).tolist() == [
        *(b"q/1.jpg", b"qr/1.jpg", b"2.jpg", b"q/3.jpg")
    ]
    assert relative_names(made([f"/p/{k}/1.jpg" for k in "abab"], root="/p")).tolist() == [
        f"{k}/1.jpg".encode() for k in "abab"
    ]


def test_what_changed_is_counted_and_the_first_image_named() -> None:
    a = made()
    more = made([*FILES, "c.jpg", "d.jpg"], [*LABELS, [0, 2], []])
    assert differ(a, more) == ["4 images then, 6 now", "2 added (the first: c.jpg, now cat, sun)"]
    assert differ(more, a) == ["6 images then, 4 now", "2 gone"]
    assert differ(a, made(positives=[[0], [1], [], [1]])) == ["2 with other labels (the first: a/2.jpg, now dog)"]
    assert differ(a, made(positives=[[0], [0, 1], [], []]))[0].endswith("ü.jpg, now no label)")
    assert differ(a, made(["z.jpg", *FILES[1:]])) == ["1 added (the first: z.jpg, now cat)", "1 gone"]
    assert differ(a, a.select([1, 0, 2, 3])) == ["the same images in another order"]
    assert differ(a, a.select([1, 0, 2, 3]), order=False) == []
    assert differ(a, a.select([0, 1, 2, 3, 3])) == ["4 images then, 5 now"]
    assert differ(a, made(fill=-1))[0].startswith("4 with other labels"), "not listed is unknown now"
    empty = a.select([])
    assert differ(empty, a)[0] == "0 images then, 4 now" and differ(a, empty) == ["4 images then, 0 now", "4 gone"]
    assert differ(empty, empty) == []


@pytest.mark.parametrize("seed", range(40))
def test_any_small_change_changes_the_digest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, c = 50, 7
    targets = rng.integers(-1, 2, (n, c)).astype(np.int8)
    files = [f"{k:03}.jpg" for k in range(n)]
    classes = [f"c{k}" for k in range(c)]
    a = LabelSet.from_dense(name="a", root="", files=files, class_names=classes, targets=targets)
    row, column = int(rng.integers(n)), int(rng.integers(c))
    other = targets.copy()
    other[row, column] = (other[row, column] + 2) % 3 - 1
    b = LabelSet.from_dense(name="b", root="", files=files, class_names=classes, targets=other)
    (said,) = differ(a, b)
    assert f"1 with other labels (the first: {files[row]}" in said


def test_data_sets_are_compared_part_by_part_and_read_back() -> None:
    train, val = made(), made(["v.jpg"], [[1]])
    old = Fingerprint.of(Splits(train, val), {"model.checkpoint": "aa", "loss.prior": "bb"})
    content = old.to_arrays()
    assert Fingerprint.from_arrays(content).differences(old, Splits(train, val)) == []
    test = made(["t.jpg"], [[0]])
    splits = Splits(train, made(["v.jpg"], [[0]]), test)
    new = Fingerprint.of(splits, {"model.checkpoint": "ac", "head.embeddings": "dd"})
    assert Fingerprint.from_arrays(content).differences(new, splits) == [
        "val: 1 with other labels (the first: v.jpg, now cat)",
        "test: no such split then, 1 image now",
        "model.checkpoint: the file has another content",
    ]
    assert new.differences(old, Splits(train, val))[1] == "test: 1 image then, no such split now"
    with pytest.raises(KeyError):
        Fingerprint.from_arrays({"about": {}})


def test_classes_that_come_and_go_are_named() -> None:
    def of(*classes: str) -> tuple[Fingerprint, Splits]:
        labels = made(["1.jpg"], [[0]], classes)
        splits = Splits(labels, labels)
        return Fingerprint.of(splits, {}), splits

    old = of("cat", "dog")[0]
    assert old.differences(*of("cat", "dog", "zebra")) == ["classes: 1 added (zebra)"]
    assert old.differences(*of("cat", "cow")) == ["classes: 1 added (cow), 1 gone (dog)"]
    assert old.differences(*of("cat")) == ["classes: 1 gone (dog)"]
    moved, splits = of("dog", "cat")
    assert old.differences(moved, splits)[-1] == "classes: the same in another order"


def test_large_splits_keep_no_hashes_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_ROWS == 1_000_000
    monkeypatch.setattr("mltrain.datasets.fingerprint.MOST_ROWS", 3)
    a = made()
    assert len(SplitFingerprint.of(a).names) == 0
    assert differ(a, made()) == []
    assert differ(a, made(positives=[[0], [1], [], [1]])) == ["other images or labels"]
    assert differ(a, a.select([0, 1, 2])) == ["4 images then, 3 now"]


def test_a_name_hash_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    long = made([*FILES, "x" * 100], [*LABELS, []])
    assert (SplitFingerprint.of(long).names[:4] == SplitFingerprint.of(made()).names).all()
    many = made([f"{k}.jpg" for k in range(200_000)], [[]] * 200_000)
    names = SplitFingerprint.of(many).names
    assert len(np.unique(names)) == 200_000
