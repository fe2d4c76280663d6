"""Figures over known entries alone: kept sparsely the same as kept in full, minimum support, weights by positives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from mltrain.metrics import average_precision, count_at_threshold, micro_average_precision, summarize
from mltrain.metrics.entries import KnownCollector, KnownEntries


def draw(
    images: int = 300, classes: int = 20, *, known: float = 0.2, levels: int | None = None
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images + classes)
    targets = (torch.rand(images, classes, generator=generator) < torch.linspace(0.01, 0.5, classes)).to(torch.int8)
    logits = torch.randn(images, classes, generator=generator) + targets
    if levels:
        logits = (logits * levels).round() / levels
    targets[torch.rand(images, classes, generator=generator) >= known] = -1
    return logits, targets


def batches(logits: Tensor, targets: Tensor, size: int = 37) -> KnownEntries:
    collector = KnownCollector(logits.shape[1])
    for both in zip(logits.split(size), targets.split(size), strict=True):
        collector.add(*both)
    return collector.entries()


@pytest.mark.parametrize("known", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("levels", [None, 1])
def test_known_entries_have_every_figure_of_all_predictions(known: float, levels: int | None) -> None:
    logits, targets = draw(known=known, levels=levels)
    entries = batches(logits, targets)
    assert (entries.images, entries.classes) == (300, 20)
    assert entries.nbytes == 13 * int((targets >= 0).sum())
    groups = {"head": [19, 18, 4], "tail": [0, 1, 2]}
    for options in (
        {},
        {"topk": 1, "words_k": 20, "absent": "zero", "threshold": 0.7},
        {"cuts": torch.linspace(-1, 1, 20), "min_positives": 4, "min_negatives": 3},
    ):
        expected = summarize(logits, targets, group_indices=groups, **options)  # type: ignore[arg-type]
        got = summarize(entries, group_indices=groups, **options)  # type: ignore[arg-type]
        assert got.scalars == expected.scalars
        assert got.per_class.keys() == expected.per_class.keys()
        for key, column in expected.per_class.items():
            np.testing.assert_array_equal(got.per_class[key], column)


def test_a_batch_without_known_entries_adds_images_alone() -> None:
    logits, targets = draw()
    collector = KnownCollector(20)
    for both in (
        (logits[:100], targets[:100]),
        (torch.randn(5, 20), torch.full((5, 20), -1)),
        (logits[100:], targets[100:]),
    ):
        collector.add(*both)
    whole = collector.entries()
    assert whole.images == 305
    assert summarize(whole).scalars == summarize(logits, targets).scalars


def test_known_entries_refuse_what_all_predictions_refuse() -> None:
    logits, targets = draw()
    with pytest.raises(ValueError, match="NaN"):
        KnownEntries.from_batch(logits * torch.nan, targets)
    with pytest.raises(ValueError, match="soft targets"):
        KnownEntries.from_batch(logits, targets.float() * 0.5)
    with pytest.raises(ValueError, match="one per class"):
        summarize(batches(logits, targets), cuts=torch.zeros(3))
    with pytest.raises(ValueError, match="need targets"):
        summarize(logits)


def known_aps(logits: Tensor, targets: Tensor) -> list[float]:
    """By scikit-learn, on the known entries of each class; NaN without a positive."""
    aps = []
    for c in range(logits.shape[1]):
        known = targets[:, c] >= 0
        positives = int((targets[:, c] == 1).sum())
        aps.append(average_precision_score(targets[known, c], logits[known, c]) if positives else np.nan)
    return aps


@pytest.mark.parametrize(("min_positives", "min_negatives"), [(1, 0), (5, 0), (1, 30), (5, 30)])
def test_classes_with_too_little_support_are_left_out_of_the_means_and_counted(
    min_positives: int, min_negatives: int
) -> None:
    logits, targets = draw()
    targets[:, 9] = targets[:, 9].clamp(max=0)
    aps = np.array(known_aps(logits, targets))
    positives, negatives = ((targets == value).sum(0).numpy() for value in (1, 0))
    enough = (positives >= max(min_positives, 1)) & (negatives >= min_negatives)
    summary = summarize(
        logits, targets, group_indices={"tail": range(8)}, min_positives=min_positives, min_negatives=min_negatives
    )
    scalars = summary.scalars
    assert scalars["map"] == pytest.approx(100 * aps[enough].mean())
    assert scalars["map_weighted"] == pytest.approx(100 * np.average(aps[enough], weights=positives[enough]))
    assert scalars["map_tail"] == pytest.approx(100 * aps[:8][enough[:8]].mean())
    below = ((positives > 0) & ~enough).sum()
    if (min_positives, min_negatives) == (1, 0):
        assert below == 0 and "classes_below_support" not in scalars
    else:
        assert below > 0 and scalars["classes_below_support"] == below
    np.testing.assert_allclose(summary.per_class["ap"], 100 * aps)
    assert scalars["classes_without_positives"] == 1


def test_a_class_without_a_known_negative_does_not_count() -> None:
    logits, targets = draw(classes=2, known=1)
    targets[:, 1] = targets[:, 1] - (targets[:, 1] == 0).to(torch.int8)
    default, left_out = summarize(logits, targets), summarize(logits, targets, min_negatives=1)
    assert default.per_class["ap"][1] == 100, "of any model"
    assert left_out.scalars["map"] == default.scalars["map"] == default.per_class["ap"][0]
    assert default.scalars["classes_below_support"] == 1


def test_support_that_no_class_has_is_refused() -> None:
    with pytest.raises(ValueError, match="min_positives"):
        summarize(*draw(), min_positives=10_000)


def test_collected_entries_survive_the_growth_of_their_arrays() -> None:
    logits, targets = draw(images=4000, classes=50, known=0.9)
    entries = batches(logits, targets, size=400)
    assert len(entries.columns) > 1 << 17
    assert summarize(entries).scalars == summarize(logits, targets).scalars


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.int64, torch.float32])
def test_targets_that_wrap_around_are_refused(dtype: torch.dtype) -> None:
    largest = {torch.uint8: 255, torch.uint16: 65535, torch.uint32: 2**32 - 1}.get(dtype, 255)
    targets = torch.tensor([[1, 0], [largest, 1]], dtype=dtype)
    logits = torch.randn(2, 2)
    for figure in (average_precision, micro_average_precision, count_at_threshold):
        with pytest.raises(ValueError, match="targets must be 1"):
            figure(logits, targets)


def test_a_split_without_any_known_negative_has_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        summarize(torch.randn(3, 2), torch.tensor([[1, -1], [-1, 1], [1, 1]]))
