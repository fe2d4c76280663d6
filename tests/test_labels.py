"""LabelSet and LabelStats."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mltrain.labels import LabelSet, LabelStats

NAMES = ("a", "b", "c", "d")


def random_targets(n: int = 50, c: int = 4, seed: int = 0, values: tuple[int, ...] = (1, 0, -1)) -> np.ndarray:
    return np.random.default_rng(seed).choice(values, size=(n, c)).astype(np.int8)


def make(targets: np.ndarray) -> LabelSet:
    files = [f"folder/{i}-ü.jpg" for i in range(len(targets))]
    return LabelSet.from_dense(name="t", root="/images", files=files, class_names=NAMES, targets=targets)


@pytest.mark.parametrize("values", [(1, 0), (1, 0, -1), (1, -1, -1, -1, 0), (0,), (-1,)])
def test_sparse_targets_equal_the_dense_ones_they_came_from(values: tuple[int, ...]) -> None:
    targets = random_targets(values=values)
    labels = make(targets)
    assert np.array_equal(labels.dense(), targets)
    assert all(np.array_equal(labels.targets(i), targets[i]) for i in range(len(labels)))
    picked = [7, 3, 3, 49, 0]
    assert np.array_equal(labels.targets_batch(picked), targets[picked])
    assert np.array_equal(labels.select(picked).dense(), targets[picked])
    assert labels.select(picked).file(3) == "folder/49-ü.jpg"
    rows, cols = labels.positive_pairs()
    assert np.array_equal(np.stack([rows, cols]), np.stack(np.nonzero(targets == 1)))
    assert labels.fully_labelled == (not (targets == -1).any())
    assert labels.targets_batch([]).shape == (0, 4)


def test_from_lists_places_each_kind_and_fills_the_rest() -> None:
    labels = LabelSet.from_lists(
        name="t",
        root="r",
        files=["x", "y"],
        class_names=NAMES,
        positives=[[2, 0, 2], []],
        negatives=[[1], [3]],
        fill=-1,
    )
    assert labels.dense().tolist() == [[1, 0, 1, -1], [-1, -1, -1, 0]]
    assert labels.path(0) == "r/x"
    assert labels.image_paths == ["r/x", "r/y"]
    difficult = LabelSet.from_lists(name="t", root="r", files=["x"], class_names=NAMES, positives=[[1]], unknowns=[[3]])
    assert difficult.dense().tolist() == [[0, 1, 0, -1]]
    assert not difficult.fully_labelled


def test_memory_grows_with_labels_not_with_images_times_classes() -> None:
    n, c = 20_000, 9_605
    labels = LabelSet.from_lists(
        name="t",
        root="r",
        files=[str(i) for i in range(n)],
        class_names=[str(i) for i in range(c)],
        positives=[[i % c] for i in range(n)],
    )
    held = sum(getattr(labels, key).nbytes for key in ("_files", "_indptr", "_indices", "_values"))
    assert held < 40 * n
    stats = LabelStats.from_labels(labels)
    assert stats.positives.sum() == n
    assert stats.cooccurrence.nnz == c


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": np.array([0, 0]), "indptr": np.array([0, 2])}, "lists class 'a' twice"),
        ({"indices": np.array([0, 4])}, "class index outside 0..3"),
        ({"values": np.array([1, 2])}, "must be 1, 0 or -1"),
        ({"fill": 1}, "fill must be 0 or -1"),
        ({"indptr": np.array([0, 1])}, "rows do not fit"),
        ({"class_names": ("a", "a", "b", "c")}, "more than once: ['a']"),
    ],
)
def test_inconsistent_labels_are_refused(change: dict, message: str) -> None:
    good = {
        "name": "t",
        "root": "r",
        "files": ["x"],
        "class_names": NAMES,
        "indptr": np.array([0, 2]),
        "indices": np.array([0, 1]),
        "values": np.array([1, 1]),
    }
    LabelSet(**good)
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("]", r"\]")):
        LabelSet(**{**good, **change})


def test_the_order_in_which_a_row_lists_its_classes_does_not_matter() -> None:
    common = {"name": "t", "root": "r", "files": ["x", "y", "z"], "class_names": NAMES}
    indptr = np.array([0, 3, 3, 5])
    listed = LabelSet(**common, indptr=indptr, indices=np.array([3, 0, 1, 2, 0]), values=np.array([1, -1, 1, 1, 1]))
    ordered = LabelSet(**common, indptr=indptr, indices=np.array([0, 1, 3, 0, 2]), values=np.array([-1, 1, 1, 1, 1]))
    assert listed.dense().tolist() == ordered.dense().tolist() == [[-1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
    assert [part.tolist() for part in listed.positive_pairs()] == [[0, 0, 2, 2], [1, 3, 0, 2]]
    assert listed.fingerprint() == ordered.fingerprint()
    with pytest.raises(ValueError, match="z lists class 'a' twice"):
        LabelSet(
            name="t", root="r", files=["x", "y", "z"], class_names=NAMES,
            indptr=np.array([0, 1, 1, 4]), indices=np.array([0, 0, 2, 0]), values=np.ones(4),
        )  # fmt: skip


@pytest.mark.parametrize("values", [(1, 0), (1, 0, -1), (1, -1, -1, -1, 0)])
def test_classes_can_be_reordered_and_left_out(values: tuple[int, ...]) -> None:
    targets = random_targets(values=values)
    labels = make(targets)
    chosen = labels.with_classes(("d", "a", "b"))
    assert chosen.class_names == ("d", "a", "b") and chosen.files == labels.files and chosen.fill == labels.fill
    assert np.array_equal(chosen.dense(), targets[:, [3, 0, 1]])
    rows, columns, listed = labels.listed()
    assert np.array_equal(listed, targets[rows, columns]) and (listed != labels.fill).all()
    assert len(rows) == (targets != labels.fill).sum()


def test_labels_cannot_be_changed() -> None:
    labels = make(random_targets())
    for key in ("_files", "_indptr", "_indices", "_values"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(labels, key)[0] = 0


def test_fingerprint_sees_every_target_but_not_name_or_place() -> None:
    targets = random_targets()
    labels = make(targets)
    moved = LabelSet.from_dense(
        name="u", root="/other", files=[labels.file(i) for i in range(50)], class_names=NAMES, targets=targets
    )
    assert moved.fingerprint() == labels.fingerprint()
    changed = targets.copy()
    changed[10, 2] = {1: 0, 0: -1, -1: 1}[int(changed[10, 2])]
    assert make(changed).fingerprint() != labels.fingerprint()
    assert labels.select(np.arange(49)).fingerprint() != labels.fingerprint()


@pytest.mark.parametrize("values", [(1, 0), (1, 0, -1), (1, -1, -1, -1, 0)])
def test_stats_count_what_a_dense_count_gives(values: tuple[int, ...]) -> None:
    targets = random_targets(n=300, values=values)
    stats = LabelStats.from_labels(make(targets))
    assert np.array_equal(stats.positives, (targets == 1).sum(0))
    assert np.array_equal(stats.negatives, (targets == 0).sum(0))
    assert np.array_equal(stats.unknowns, (targets == -1).sum(0))
    positive = (targets == 1).astype(int)
    assert np.array_equal(stats.cooccurrence.toarray(), positive.T @ positive)


def test_groups_take_exactly_100_as_head_and_exactly_20_as_medium() -> None:
    targets = np.zeros((200, 4), dtype=np.int8)
    for c, n in enumerate((100, 99, 20, 19)):
        targets[:n, c] = 1
    stats = LabelStats.from_labels(make(targets))
    assert stats.groups.tolist() == [0, 1, 1, 2]
    assert {k: v.tolist() for k, v in stats.group_indices().items()} == {"head": [0], "medium": [1, 2], "tail": [3]}
    with pytest.raises(ValueError, match="head_min >= medium_min"):
        LabelStats.from_labels(make(targets), head_min=10, medium_min=20)


def test_log_prior_odds_count_known_targets_and_are_finite_without_images() -> None:
    targets = np.full((10, 4), -1, dtype=np.int8)
    targets[:2, 0] = targets[:4, 1] = 1
    targets[2:8, 0] = targets[:3, 2] = 0
    odds = LabelStats.from_labels(make(targets)).log_prior_odds()
    np.testing.assert_allclose(odds, np.log([2 / 6, 4 / 1, 1 / 3, 1 / 1]))


def test_stats_survive_json() -> None:
    stats = LabelStats.from_labels(make(random_targets(n=120)), head_min=30, medium_min=5)
    back = LabelStats.from_arrays(json.loads(json.dumps(stats.to_json())))
    assert json.dumps(back.to_json()) == json.dumps(stats.to_json())
    assert np.array_equal(back.groups, stats.groups)
    assert (back.cooccurrence != stats.cooccurrence).nnz == 0


@pytest.mark.parametrize("wrong", [257, 256, 255, 2, 0.5, float("nan"), float("inf"), -2, 1 << 40])
def test_a_target_that_would_change_its_value_is_refused(wrong: float) -> None:
    targets = np.array([[1, 0], [wrong, 1]])
    for dtype in (None, np.float32, *((np.uint8, np.uint16) if wrong in (255, 2) else ())):
        given = targets if dtype is None else targets.astype(dtype)
        with pytest.raises(ValueError, match="targets"):
            LabelSet.from_dense(name="x", root="", files=["a", "b"], class_names=["p", "q"], targets=given)


def test_exact_targets_of_any_type_are_taken() -> None:
    expected = [[1, 0], [0, 1]]
    for dtype in (bool, np.uint8, np.int64, np.float16, np.float64):
        targets = np.array(expected, dtype=dtype)
        made = LabelSet.from_dense(name="x", root="", files=["a", "b"], class_names=["p", "q"], targets=targets)
        assert made.dense().tolist() == expected


@pytest.mark.parametrize("wrong", [0.5, 1 << 32])
def test_an_index_that_would_change_its_value_is_refused(wrong: float) -> None:
    rows = {"indptr": np.array([0, 1]), "indices": np.array([wrong]), "values": np.array([1])}
    with pytest.raises(ValueError, match="class indices"):
        LabelSet(name="x", root="", files=["a"], class_names=["p"], **rows)
    with pytest.raises((ValueError, TypeError)):
        LabelSet.from_lists(name="x", root="", files=["a"], class_names=["p"], positives=[[wrong]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="fill must be 0 or -1"):
        LabelSet.from_lists(name="x", root="", files=["a"], class_names=["p"], positives=[[0]], fill=0.5)  # type: ignore[arg-type]
