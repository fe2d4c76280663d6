"""Promises of the parts of self-paced balance learning: selection, complexity, costs, reconstruction, SVM."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mltrain.curriculum import ClassComplexity
from mltrain.curriculum.select import (
    home_classes,
    image_losses,
    lowest_of_each,
    random_words,
    resample,
    share_of_each,
    size_changes,
)
from mltrain.curriculum.svm import svm_losses
from mltrain.errors import DataError
from mltrain.labels import LabelSet


def labels_of(positives: list[list[int]], classes: int) -> LabelSet:
    names = [str(k) for k in range(classes)]
    files = [f"{i}.png" for i in range(len(positives))]
    return LabelSet.from_lists(name="set", root="", files=files, class_names=names, positives=positives)


def test_random_words_are_a_function_of_their_key() -> None:
    assert random_words(5, 1, 2).tolist() == random_words(7, 1, 2)[:5].tolist()
    assert random_words(5, 1, 2).tolist() != random_words(5, 2, 1).tolist()
    # The stream is part of what a seed means: NumPy promises it for SeedSequence and the raw words of Philox.
    assert random_words(1, 1, 0).tolist() == [0x1119EFBD6BC0CE3A]


def test_an_image_is_counted_under_its_rarest_label() -> None:
    labels = labels_of([[0], [0, 1], [0, 1], [1, 2], [], [2, 0]], 4)  # positives: 4, 3, 2, 0
    assert home_classes(labels).tolist() == [0, 1, 1, 2, 4, 2]
    tied = labels_of([[0, 1], [1, 0]], 2)
    assert home_classes(tied).tolist() == [0, 0]


def test_the_loss_of_an_image_is_the_mean_over_its_positives() -> None:
    labels = labels_of([[0, 1], [], [1]], 2)
    assert image_losses(np.array([1.0, 4.0, 3.0]), labels.positive_pairs()[0], 3).tolist() == [2.5, 0, 3]


def test_a_share_is_rounded_up_and_not_thrown_off_by_how_it_is_stored() -> None:
    assert share_of_each(0.55, np.array([100, 101, 1, 0])).tolist() == [55, 56, 1, 0]
    for ratio in (0.2, 0.5, 0.75, 0.9, 1.0):
        for size in range(200):
            exact = -(-round(ratio * 100) * size // 100)
            assert share_of_each(ratio, np.array([size])).item() == exact


def test_the_easiest_of_each_class_are_chosen_whatever_the_other_classes_losses() -> None:
    generator = np.random.default_rng(0)
    homes = generator.integers(0, 5, 200)
    losses = generator.exponential(1 + 10 * homes)  # every image of class 4 may be harder than all of class 0
    ties = np.arange(200)
    for ratio in (0, 0.1, 0.5, 1):
        chosen = lowest_of_each(losses, ties, homes, ratio)
        for c in range(5):
            own = np.flatnonzero(homes == c)
            inside = own[chosen[own]]
            assert len(inside) == math.ceil(ratio * len(own))
            assert sorted(losses[inside]) == sorted(losses[own])[: len(inside)]


def test_equal_losses_go_by_the_random_order() -> None:
    chosen = lowest_of_each(np.zeros(4), np.array([3, 0, 2, 1]), np.zeros(4, np.int64), 0.5)
    assert chosen.tolist() == [False, True, False, True]


def test_complexity_is_the_exponential_of_the_mean_loss_over_the_images() -> None:
    found = ClassComplexity.from_losses(np.array([0.5, 1.5, 2.0]), np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(found.values, [math.e / 2, 0, math.exp(2)])
    assert found.counts.tolist() == [2, 0, 1]
    assert np.isinf(found.log_values[1])
    huge = ClassComplexity.from_losses(np.array([1e4, 0.0]), np.array([0, 1]), 2)
    assert np.isinf(huge.values[0]) and huge.costs(by="power").tolist() == [10, 1]


def random_complexity(seed: int, classes: int = 12) -> ClassComplexity:
    generator = np.random.default_rng(seed)
    return ClassComplexity(generator.exponential(1, classes), generator.integers(1, 300, classes))


@pytest.mark.parametrize("by", ["rank", "power"])
def test_costs_rise_with_complexity_from_one_to_the_largest(by: str) -> None:
    for seed in range(20):
        found = random_complexity(seed)
        costs = found.costs(by=by, largest=7.0, power=0.5)  # type: ignore[arg-type]
        order = np.argsort(found.values)
        assert (np.diff(costs[order]) > 0).all()
        assert costs[order[0]] == 1 and costs[order[-1]] == pytest.approx(7)
    values = random_complexity(0).values
    expected = 1 + 9 * (values**2 - (values**2).min()) / np.ptp(values**2)
    np.testing.assert_allclose(random_complexity(0).costs(by="power", power=2.0), expected)


def test_equal_complexities_cost_the_same_and_absent_classes_the_least() -> None:
    found = ClassComplexity(np.array([1.0, 1.0, 0.0, 2.0]), np.array([5, 5, 0, 5]))
    assert found.costs(by="rank").tolist() == [3.25, 3.25, 1, 10]  # mid-ranks 0.5, 0.5 and 2 of 0 to 2
    assert found.costs(by="power").tolist() == [1, 1, 1, 10]
    same = ClassComplexity(np.ones(3), np.full(3, 4))
    assert same.costs(by="power").tolist() == [1, 1, 1]
    assert ClassComplexity(np.ones(1), np.ones(1, np.int64)).costs().tolist() == [1]


def test_legacy_costs_tie_only_the_extremes_to_complexity() -> None:
    found = random_complexity(3)
    order = np.argsort(found.values)
    drawn = np.array([found.costs(by="legacy", seed=(3, 0, k))[order] for k in range(200)])
    assert (drawn[:, 0] == 1).all() and (drawn[:, -1] == drawn.max(axis=1)).all() and (drawn >= 1).all()
    assert drawn.max() <= 10
    # between the ends a class gets any of the costs: on average all the same
    means = drawn[:, 1:-1].mean(axis=0)
    assert np.ptp(means) < 1 and not (np.diff(means) > 0).all()
    again = found.costs(by="legacy", seed=(3, 0, 7))[order]
    assert again.tolist() == drawn[7].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"by": "best"}, "rank, power, legacy"), ({"largest": 0.5}, "largest_cost"), ({"power": 0.0}, "cost_power")],
)
def test_costs_refuse_meaningless_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_complexity(0).costs(**options)  # type: ignore[arg-type]


def published_plan(sizes: list[int], hi: list[float]) -> list[int]:
    """The rule of the authors' code, case by case; `hi` falls with complexity."""
    ascending = iter(sorted(sizes))
    new = dict(zip(sorted(range(len(sizes)), key=lambda c: -hi[c]), ascending, strict=True))
    mean = math.ceil(sum(sizes) / len(sizes))
    deltas = []
    for c, old in enumerate(sizes):
        delta = new[c] - old
        if delta > 0:
            delta = min(delta, 100)
        elif delta < 0:
            if old < 3 * mean:
                delta = 0
            elif new[c] < 3 * mean:
                delta = min(0, 3 * mean - old)
        deltas.append(delta)
    return deltas


def test_the_plan_is_the_published_one() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        sizes = (generator.pareto(0.7, 15) * 10 + 1).astype(np.int64)
        level = generator.normal(size=15)
        assert size_changes(sizes, level).tolist() == published_plan(sizes.tolist(), (-level).tolist())


def test_a_long_tail_is_turned_round_and_limits_are_kept() -> None:
    sizes, level = np.array([500, 40, 10, 4, 0]), np.array([0.0, 1, 2, 3, 9])
    # mean of the four classes 139, so E = 417: the first may fall to it; the last is to have 500, and gets 100 more
    assert size_changes(sizes, level).tolist() == [-83, -0, 30, 100, 0]
    assert size_changes(sizes, level, most_copies=5).tolist() == [-83, 0, 5, 5, 0]
    assert size_changes(sizes, level, excess=10).tolist() == [0, 0, 30, 100, 0]
    assert size_changes(np.zeros(3, np.int64), np.zeros(3)).tolist() == [0, 0, 0]
    for options in ({"most_copies": -1}, {"excess": 0.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            size_changes(sizes, level, **options)  # type: ignore[arg-type]


def test_copies_go_round_the_class_and_omissions_keep_the_rest() -> None:
    images, homes = np.array([3, 5, 7, 8, 9, 11]), np.array([0, 0, 1, 1, 1, 2])
    words = random_words(6, 0)
    made = resample(images, homes, np.array([5, -2]), words)  # class 2 is outside the plan
    counts = dict(zip(*np.unique(made, return_counts=True), strict=True))
    assert sorted((counts[3], counts[5])) == [3, 4]
    assert sum(k in counts for k in (7, 8, 9)) == 1 and counts[11] == 1
    assert (np.diff(made) >= 0).all()
    empty = np.empty(0, np.int64)
    assert resample(empty, empty, np.array([0]), random_words(0, 0)).tolist() == []


@pytest.mark.parametrize("classes", [2, 3])
def test_the_svm_scores_as_scikit_learn_and_obeys_its_weights(classes: int) -> None:
    from scipy.special import log_softmax
    from sklearn.svm import SVC

    generator = np.random.default_rng(classes)
    labels = np.arange(60) % classes
    features = generator.normal(size=(60, 4)) + 2 * np.eye(4)[labels]
    weights = generator.uniform(0, 2, 60) * (np.arange(60) < 40)  # the last 20 are scored only
    losses = svm_losses(features, labels, weights)
    svm = SVC().fit(features[:40], labels[:40], sample_weight=weights[:40])
    values = svm.decision_function(features)
    values = np.stack([-values, values], 1) if classes == 2 else values
    np.testing.assert_allclose(losses, -log_softmax(values, axis=1)[np.arange(60), labels], rtol=1e-9)
    assert not np.allclose(losses, svm_losses(features, labels, np.sign(weights)))


def test_the_svm_needs_two_classes_and_finds_one_that_it_does_not_know_hard() -> None:
    features, labels = np.eye(6), np.array([0, 1, 2, 0, 1, 2])
    with pytest.raises(DataError, match="all of one class"):
        svm_losses(features, labels, np.array([1.0, 0, 0, 0, 0, 0]))
    losses = svm_losses(features, labels, np.array([1.0, 1, 0, 1, 1, 0]))
    assert np.isinf(losses[[2, 5]]).all() and np.isfinite(losses[[0, 1, 3, 4]]).all()
