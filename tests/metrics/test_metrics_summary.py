from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support
from torch import Tensor

from mltrain.metrics import (
    average_precision,
    count_at_threshold,
    count_at_topk,
    micro_average_precision,
    overall_and_per_class,
    summarize,
    words_at_k,
)

ABSENT = 3
"""The class without a positive in the example."""


@pytest.fixture
def example() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(400, 8, generator=generator) < 0.2).to(torch.int8)
    targets[:, ABSENT] = 0
    return torch.randn(400, 8, generator=generator) + targets, targets


def test_map_is_the_mean_over_classes_with_positives_in_percent(example: tuple[Tensor, Tensor]):
    logits, targets = example
    present = [index for index in range(8) if index != ABSENT]
    aps = [average_precision_score(targets[:, index], logits[:, index]) for index in present]
    scalars = summarize(logits, targets).scalars
    assert scalars["map"] == pytest.approx(100 * np.mean(aps), abs=1e-9)
    assert scalars["classes_without_positives"] == 1
    assert scalars["micro_ap"] == 100 * micro_average_precision(logits, targets)


def test_absent_classes_count_as_zero_where_asked(example: tuple[Tensor, Tensor]):
    logits, targets = example
    groups = {"head": [0, 1], "tail": [ABSENT, 4]}
    left_out = summarize(logits, targets, group_indices=groups).scalars
    zero = summarize(logits, targets, group_indices=groups, absent="zero").scalars
    assert zero["map"] == pytest.approx(left_out["map"] * 7 / 8)
    assert zero["map_tail"] == pytest.approx(left_out["map_tail"] / 2)
    assert zero["map_head"] == left_out["map_head"]
    assert zero["CR"] == pytest.approx(left_out["CR"] * 7 / 8)
    assert zero["CP"] == pytest.approx(100 * overall_and_per_class(count_at_threshold(logits, targets))["CP"])
    assert zero["OF1"] == left_out["OF1"]
    assert zero["classes_without_positives"] == 1


def test_absent_classes_are_refused_where_asked(example: tuple[Tensor, Tensor]):
    logits, targets = example
    with pytest.raises(ValueError, match=f"1 of 8 classes has no positive .*{ABSENT}"):
        summarize(logits, targets, absent="error")
    present = targets.clone()
    present[0, ABSENT] = 1
    assert summarize(logits, present, absent="error").scalars == summarize(logits, present).scalars


def test_a_set_without_any_positive_is_refused_or_zero(example: tuple[Tensor, Tensor]):
    logits, targets = example
    for absent in ("exclude", "error"):
        with pytest.raises(ValueError, match="positive"):
            summarize(logits, targets * 0, absent=absent)
    scalars = summarize(logits, targets * 0, absent="zero").scalars
    assert scalars["map"] == 0.0
    assert "micro_ap" not in scalars
    assert np.isfinite(list(scalars.values())).all()


def test_group_maps_are_means_over_their_evaluable_classes(example: tuple[Tensor, Tensor]):
    logits, targets = example
    groups = {
        "head": np.array([0, 5]),
        "medium": np.array([ABSENT, 6]),
        "tail": np.array([ABSENT]),
        "none": np.array([]),
    }
    scalars = summarize(logits, targets, group_indices=groups).scalars
    ap = 100 * average_precision(logits, targets).numpy()
    assert scalars["map_head"] == pytest.approx(ap[[0, 5]].mean())
    assert scalars["map_medium"] == pytest.approx(ap[6])
    assert "map_tail" not in scalars
    assert "map_none" not in scalars
    with pytest.raises(ValueError, match=r'group "head" has class indices 0..8; allowed are 0..7'):
        summarize(logits, targets, group_indices={"head": [0, 8]})


def test_group_f1_is_that_of_scikit_learn_on_the_classes_of_the_group(example: tuple[Tensor, Tensor]):
    logits, targets = example
    groups = {"head": [5, 0, 2], "tail": [ABSENT, 4, 6], "none": []}
    chosen = (logits > 0).numpy()
    scalars = summarize(logits, targets, group_indices=groups).scalars
    zero = summarize(logits, targets, group_indices=groups, absent="zero").scalars
    assert "OF1_none" not in scalars
    for figures, name, members in (
        (scalars, "head", [5, 0, 2]),
        (scalars, "tail", [4, 6]),
        (zero, "tail", [ABSENT, 4, 6]),
    ):
        truth, predicted = targets.numpy()[:, members], chosen[:, members]
        for key, average in (("OF1", "micro"), ("macro_F1", "macro")):
            expected = f1_score(truth, predicted, average=average, zero_division=0)
            assert figures[f"{key}_{name}"] == pytest.approx(100 * expected, abs=1e-9)
        precision, recall, _, _ = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
        assert figures[f"CF1_{name}"] == pytest.approx(200 * precision * recall / (precision + recall), abs=1e-9)


def test_counts_and_words_in_the_summary_are_those_of_their_functions(example: tuple[Tensor, Tensor]):
    logits, targets = example
    present = np.arange(8) != ABSENT
    scalars = summarize(logits, targets, threshold=0.3, topk=2, words_k=4).scalars
    at_threshold = overall_and_per_class(count_at_threshold(logits, targets, threshold=0.3), present)
    at_two = overall_and_per_class(count_at_topk(logits, targets, k=2), present)
    words = words_at_k(logits, targets, k=4)
    for name in ("OP", "OR", "OF1", "CP", "CR", "CF1", "macro_F1"):
        assert scalars[name] == pytest.approx(100 * at_threshold[name])
        assert scalars[f"{name}@2"] == pytest.approx(100 * at_two[name])
    for name in ("P", "R", "F1"):
        assert scalars[f"words_{name}"] == pytest.approx(100 * words[name])
    assert scalars["words_N+"] == words["N+"] == 7


@pytest.mark.parametrize("k", [None, 9])
def test_figures_at_k_are_left_out_when_off_or_above_the_number_of_classes(
    example: tuple[Tensor, Tensor], k: int | None
):
    scalars = summarize(*example, topk=k, words_k=k).scalars
    assert not [name for name in scalars if "@" in name or name.startswith("words")]


@pytest.mark.parametrize("option", [{"topk": 0}, {"words_k": 0}, {"threshold": 1.0}, {"absent": "ignore"}])
def test_options_out_of_range_are_refused(example: tuple[Tensor, Tensor], option: dict):
    with pytest.raises(ValueError, match="must"):
        summarize(*example, **option)


def test_per_class_columns_are_percent_with_nan_where_undefined(example: tuple[Tensor, Tensor]):
    logits, targets = example
    columns = summarize(logits, targets).per_class
    counts = count_at_threshold(logits, targets)
    assert all(column.shape == (8,) for column in columns.values())
    np.testing.assert_allclose(columns["ap"], 100 * average_precision(logits, targets).numpy(), equal_nan=True)
    assert columns["positives"].tolist() == (targets == 1).sum(dim=0).tolist()
    assert columns["predicted"].tolist() == (logits > 0).sum(dim=0).tolist()
    np.testing.assert_allclose(columns["precision"], 100 * counts.precision)
    present = np.arange(8) != ABSENT
    np.testing.assert_allclose(columns["recall"][present], 100 * counts.recall[present])
    np.testing.assert_allclose(columns["f1"][present], 100 * counts.f1[present])
    assert all(np.isnan(columns[name][ABSENT]) for name in ("ap", "recall", "f1"))


def test_scalars_are_valid_json(example: tuple[Tensor, Tensor]):
    summary = summarize(*example, group_indices={"head": [0]})
    assert json.loads(json.dumps(summary.scalars, allow_nan=False)) == summary.scalars


def test_order_of_images_does_not_change_a_bit_of_the_summary(example: tuple[Tensor, Tensor]):
    logits, targets = example
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    other, own = summarize(logits[order], targets[order]), summarize(logits, targets)
    assert other.scalars == own.scalars
    assert all(np.array_equal(other.per_class[key], own.per_class[key], equal_nan=True) for key in own.per_class)


def test_unseen_classes_are_ranked_by_themselves_over_the_images_that_have_one() -> None:
    logits = torch.tensor([[9.0, 8.0, 1.0, 2.0, 3.0], [9.0, 8.0, 3.0, 2.0, 1.0], [9.0, 8.0, 3.0, 2.0, 1.0]])
    targets = torch.tensor([[1, 0, 0, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    groups = {"seen": [0, 1], "unseen": [2, 3, 4]}
    scalars = summarize(logits, targets, group_indices=groups, topk=(1, 2)).scalars
    # images 0 and 1 have unseen labels: 3 of them; the best unseen class is right in both, the second in image 0
    assert [scalars[f"{key}_unseen@1"] for key in ("OP", "OR")] == pytest.approx([100, 100 * 2 / 3])
    assert [scalars[f"{key}_unseen@2"] for key in ("OP", "OR")] == pytest.approx([75, 100])
    assert scalars["OP@1"] == pytest.approx(100) and scalars["OP@2"] == pytest.approx(100 * 5 / 6)
    assert scalars["map_unseen"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1) / 3)
    assert not any("unseen@" in key for key in summarize(logits, targets, group_indices={"tail": [2]}).scalars)
    assert "OP_unseen@4" not in summarize(logits, targets, group_indices=groups, topk=4).scalars
