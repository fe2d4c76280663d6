"""Resampled figures are those of the drawn images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from mltrain.metrics import average_precision, summarize
from mltrain.report.bootstrap import (
    percentile_interval,
    resample,
    resampled_accuracy,
    resampled_average_precision,
    resampled_figures,
)


def made_up(n: int, c: int, *, ties: bool = False, unknown: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(n + c)
    targets = (random.random((n, c)) < np.linspace(0.01, 0.5, c)).astype(np.int8)
    logits = (random.normal(size=(n, c)) + targets).astype(np.float32)
    if ties:
        logits = np.round(logits)
    if unknown:
        targets[random.random((n, c)) < unknown] = -1
    targets[:, -1] = 0  # a class without a positive
    return logits, targets


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("unknown", [0.0, 0.4])
@pytest.mark.parametrize(("n", "c"), [(1, 3), (40, 7), (3000, 4)])
def test_average_precision_of_a_resample_is_that_of_the_drawn_images(
    n: int, c: int, ties: bool, unknown: float
) -> None:
    logits, targets = made_up(n, c, ties=ties, unknown=unknown)
    weights = resample(n, 7, seed=1)
    seen = 0
    for part, ap, positives, negatives in resampled_average_precision(logits, targets, weights):
        for row, own in enumerate(weights[part]):
            drawn = np.repeat(np.arange(n), own)
            wanted = average_precision(torch.from_numpy(logits[drawn]), torch.from_numpy(targets[drawn])).numpy()
            np.testing.assert_allclose(ap[row], wanted, atol=1e-9, equal_nan=True)
            np.testing.assert_array_equal(positives[row], (targets[drawn] == 1).sum(0))
            np.testing.assert_array_equal(negatives[row], (targets[drawn] == 0).sum(0))
            seen += 1
    assert seen == 7


@pytest.mark.parametrize(
    "options",
    [{}, {"absent": "zero"}, {"min_positives": 3}, {"min_negatives": 20}, {"absent": "zero", "min_positives": 2}],
)
def test_resampled_figures_are_those_of_summarize(options: dict[str, Any]) -> None:
    logits, targets = made_up(40, 9, unknown=0.2)
    groups = {"head": np.array([5, 6, 7, 8]), "tail": np.array([0, 1])}
    weights = resample(40, 20)
    found = resampled_figures(logits, targets, weights, groups, **options)
    assert set(found) == {"map", "map_head", "map_tail"}
    for k, own in enumerate(weights):
        drawn = np.repeat(np.arange(40), own)
        tensors = torch.from_numpy(logits[drawn]), torch.from_numpy(targets[drawn])
        wanted = summarize(*tensors, group_indices=groups, topk=None, words_k=None, **options).scalars
        for key, values in found.items():
            assert values[k] == pytest.approx(wanted.get(key, float("nan")), abs=1e-9, nan_ok=True)


def test_weights_of_whole_numbers_beyond_fp32_stay_exact() -> None:
    logits, targets = made_up(30, 4)
    weights = np.full((1, 30), 3_000_000, dtype=np.int64)
    ((_, ap, _, _),) = resampled_average_precision(logits, targets, weights)
    once = average_precision(torch.from_numpy(logits), torch.from_numpy(targets)).numpy()
    np.testing.assert_allclose(ap[0], once, atol=1e-9, equal_nan=True)


def test_resampled_accuracy_is_that_of_the_drawn_images() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(5, size=50)
    targets = np.eye(5, dtype=np.int8)[truth]
    targets[3] = -1  # an image whose label is not known
    logits = (random.normal(size=(50, 5)) + 2 * targets).astype(np.float32)
    weights = resample(50, 10)
    found = resampled_accuracy(logits, targets, weights, {"tail": np.array([3, 4])})
    for k, own in enumerate(weights):
        drawn = np.repeat(np.arange(50), own)
        drawn = drawn[drawn != 3]
        assert found["accuracy"][k] == pytest.approx(100 * accuracy_score(truth[drawn], logits[drawn].argmax(1)))
        drawn = drawn[truth[drawn] >= 3]
        assert found["accuracy_tail"][k] == pytest.approx(100 * accuracy_score(truth[drawn], logits[drawn].argmax(1)))


def test_resamples_draw_as_many_images_as_there_are_and_repeat_with_the_seed() -> None:
    weights = resample(100, 50)
    assert (weights.sum(1) == 100).all() and weights.min() >= 0
    np.testing.assert_array_equal(weights, resample(100, 50))
    assert (weights != resample(100, 50, seed=1)).any()


def test_pairing_makes_the_interval_of_a_difference_narrow() -> None:
    random = np.random.default_rng(0)
    targets = (random.random((300, 10)) < 0.2).astype(np.int8)
    shared = random.normal(size=targets.shape) + targets
    a, b = ((shared + 0.1 * random.normal(size=targets.shape)).astype(np.float32) for _ in range(2))
    first, second = resample(300, 200), resample(300, 200, seed=1)
    of_a = resampled_figures(a, targets, first, {})["map"]
    paired = percentile_interval(0.0, of_a - resampled_figures(b, targets, first, {})["map"])
    apart = percentile_interval(0.0, of_a - resampled_figures(b, targets, second, {})["map"])
    assert (paired.high - paired.low) * 3 < apart.high - apart.low


def test_what_does_not_fit_or_cannot_be_ranked_is_refused() -> None:
    logits, targets = made_up(10, 3)
    with pytest.raises(ValueError, match="do not fit"):
        list(resampled_average_precision(logits, targets[:5], resample(10, 2)))
    logits[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        list(resampled_average_precision(logits, targets, resample(10, 2)))
