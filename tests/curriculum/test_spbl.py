"""Promises of the choice as a whole: stages, pace, seed set, several labels, state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mltrain.curriculum import SelfPacedBalance, Stage
from mltrain.errors import DataError
from mltrain.labels import LabelSet
from tests.curriculum.test_pieces import labels_of

COUNTS = (40, 20, 10, 5, 1)
LONG_TAIL = labels_of([[c] for c, n in enumerate(COUNTS) for _ in range(n)], len(COUNTS))


def pace(labels: LabelSet = LONG_TAIL, **options: Any) -> SelfPacedBalance:
    return SelfPacedBalance(**{"labels": labels, "epochs": 6, **options})


def run(made: SelfPacedBalance, seed: int = 0) -> list[Stage]:
    """All stages under random losses."""
    generator = np.random.default_rng(seed)
    stages = [made.first()]
    while len(stages) < made.num_stages:
        losses = generator.exponential(size=len(made.labels.positive_pairs()[0]))
        stages.append(made.next(stages[-1], losses))
    return stages


def classes_of(stage: Stage) -> np.ndarray:
    return LONG_TAIL.positive_pairs()[1][stage.indices]


def test_stages_grow_class_by_class_to_the_whole_set() -> None:
    stages = run(pace(reconstruct=False))
    seeds = np.ceil(0.2 * np.array(COUNTS))
    assert stages[0].sizes.tolist() == seeds.tolist() == [8, 4, 2, 1, 1]
    for stage, ratio in zip(stages, (0, 0.5, 0.75, 0.9, 1, 1), strict=True):
        assert stage.ratio == ratio
        assert stage.sizes.tolist() == (seeds + np.ceil(ratio * (COUNTS - seeds))).tolist()
        assert np.bincount(classes_of(stage)).tolist() == stage.sizes.tolist()
        assert set(stages[0].indices) <= set(stage.indices), "the seed set stays"
    assert stages[-1].indices.tolist() == list(range(len(LONG_TAIL)))


def test_the_easiest_of_the_rest_come_first_and_only_they_count_in_the_complexity() -> None:
    made = pace(reconstruct=False)
    first = made.first()
    losses = np.random.default_rng(1).exponential(size=len(LONG_TAIL))
    stage = made.next(first, losses)
    homes = LONG_TAIL.positive_pairs()[1]
    for c in range(len(COUNTS)):
        rest = np.setdiff1d(np.flatnonzero(homes == c), first.indices)
        chosen = np.intersect1d(rest, stage.indices)
        left = np.setdiff1d(rest, chosen)
        assert not len(left) or losses[chosen].max() <= losses[left].min()
        mine = stage.indices[homes[stage.indices] == c]
        assert stage.complexity.values[c] == pytest.approx(np.exp(losses[mine].mean()) / len(mine))
    assert stage.costs.tolist() == stage.complexity.costs().tolist()


def test_the_seed_set_is_random_by_the_seed_alone() -> None:
    a, b, c = (pace(seed=seed).first().indices.tolist() for seed in (0, 0, 1))
    assert a == b != c
    assert pace(train_ratio=0.5).first().sizes.tolist() == [20, 10, 5, 3, 1]
    assert pace(train_ratio=1.0).first().indices.tolist() == list(range(len(LONG_TAIL)))


def test_reconstruction_shows_complex_classes_more_often() -> None:
    stage = run(pace())[-1]
    shown = np.bincount(classes_of(stage))
    assert shown.tolist() == (stage.sizes + stage.delta).tolist()
    assert shown[np.argmax(stage.complexity.values)] == max(stage.sizes)
    assert set(stage.indices) == set(range(len(LONG_TAIL))), "nothing is left out: no class is three times the mean"
    copies = np.bincount(stage.indices)
    for c in range(len(COUNTS)):
        own = copies[LONG_TAIL.positive_pairs()[1] == c]
        assert own.max() - own.min() <= 1


def test_an_image_of_several_labels_comes_with_its_rarest() -> None:
    labels = labels_of([[0, 1]] * 5 + [[0]] * 10 + [[]] * 4, 2)
    made = pace(labels, train_ratio=0.2, add_ratios=(0.5,), reconstruct=False, epochs=2)
    first = made.first()
    assert first.sizes.tolist() == [2, 1] and len(first.indices) == 4, "and one of the images without a label"
    losses = np.arange(20.0)
    stage = made.next(first, losses)
    assert stage.sizes.tolist() == [2 + 4, 1 + 2] and len(stage.indices) == 6 + 3 + 1 + 2
    assert stage.complexity.counts.tolist() == [9, 3], "both labels of an image count in the complexities"
    rows, columns = labels.positive_pairs()
    inside = np.isin(rows, stage.indices)
    for c in (0, 1):
        mean = losses[inside & (columns == c)].mean()
        assert stage.complexity.mean_loss[c] == pytest.approx(mean)


def test_svm_weights_are_costs_and_the_past_at_the_share_it_knew() -> None:
    made = pace(scorer="svm", add_ratios=(0.5, 1.0), epochs=3, reconstruct=False)
    stages = run(made)
    assert stages[0].weights.tolist() == [float(i in stages[0].indices) for i in range(len(LONG_TAIL))]
    homes = LONG_TAIL.positive_pairs()[1]
    for stage, before, share in ((stages[1], stages[0], 0.2), (stages[2], stages[1], 0.5 * 0.8 + 0.2)):
        now = stage.costs[homes] * np.isin(np.arange(len(LONG_TAIL)), stage.indices)
        np.testing.assert_allclose(stage.weights, now + share * before.weights)
    assert not len(run(pace())[1].weights)
    features = np.random.default_rng(0).normal(size=(len(LONG_TAIL), 3))
    losses = made.svm_losses(stages[1], features)
    assert losses.shape == (len(LONG_TAIL),) and np.isfinite(losses).all()


@pytest.mark.parametrize("options", [{}, {"scorer": "svm"}, {"costs": "legacy"}])
def test_a_choice_depends_on_seed_losses_and_the_stage_before_alone(options: dict[str, Any]) -> None:
    whole = run(pace(**options))
    middle = Stage.from_arrays(whole[2].to_arrays())
    losses = np.random.default_rng(9).exponential(size=len(LONG_TAIL))
    assert same(pace(**options).next(middle, losses), pace(**options).next(whole[2], losses))


def same(a: Stage, b: Stage) -> bool:
    x, y = a.to_arrays(), b.to_arrays()
    assert x.keys() == y.keys() >= {"indices", "weights", "costs", "mean_loss", "counts", "delta", "sizes"}
    return all(np.array_equal(x[key], y[key]) for key in x)


@pytest.mark.parametrize(
    ("epochs", "stage_epochs", "expected"),
    [
        (6, None, [0, 1, 2, 3, 4, 5]),
        (8, None, [0, 1, 2, 2, 3, 4, 5, 5]),
        (12, None, [k // 2 for k in range(12)]),
        (13, 2, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]),
    ],
)
def test_epochs_belong_to_stages_in_equal_parts(epochs: int, stage_epochs: int | None, expected: list[int]) -> None:
    made = pace(epochs=epochs, stage_epochs=stage_epochs)
    assert [made.stage_at(epoch) for epoch in range(epochs)] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 5}, r"runner\.epochs=5 are fewer than the 6"),
        ({"epochs": 10, "stage_epochs": 2}, r"runner\.epochs=10 are fewer than the 11"),
        ({"stage_epochs": 0}, "stage_epochs=0"),
        ({"train_ratio": 0.0}, "train_ratio"),
        ({"train_ratio": 1.1}, "train_ratio"),
        ({"add_ratios": ()}, "add_ratios"),
        ({"add_ratios": (0.5, 0.4)}, "add_ratios=.0.5, 0.4. must be one or more rising"),
        ({"add_ratios": (0.5, 1.5)}, "add_ratios"),
        ({"add_ratios": (float("nan"),)}, "add_ratios"),
        ({"scorer": "tree"}, "model, svm"),
        ({"svm_c": 0.0}, "svm_c"),
        ({"costs": "random"}, "rank, power, legacy"),
        ({"largest_cost": 0.0}, "largest_cost"),
        ({"excess": 0.0}, "excess"),
        ({"most_copies": -1}, "most_copies"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pace(**options)


def test_losses_of_another_set_are_refused() -> None:
    with pytest.raises(ValueError, match="3 losses for 76"):
        pace().next(pace().first(), np.zeros(3))
    with pytest.raises(DataError, match="no image"):
        pace(labels_of([], 2))
