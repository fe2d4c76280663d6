from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor

from mltrain.metrics import count_at_threshold, count_at_topk, overall_and_per_class, words_at_k
from mltrain.metrics.counts import top_k

counts_module = importlib.import_module("mltrain.metrics.counts")


def draw(images: int, classes: int, *, rate: float = 0.2, unknown: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images)
    targets = (torch.rand(images, classes, generator=generator) < rate).to(torch.int8)
    logits = torch.randn(images, classes, generator=generator) + targets
    targets[torch.rand(images, classes, generator=generator) < unknown] = -1
    return logits, targets


def test_counts_of_a_hand_made_example():
    logits = torch.tensor([[2.0, -1.0, 3.0], [1.0, 0.5, -2.0], [-1.0, 0.0, 4.0], [3.0, -1.0, 1.0]])
    targets = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, -1], [-1, 0, 0]])
    counts = count_at_threshold(logits, targets)  # logit 0 is not above a threshold of 0.5
    assert counts.hits.tolist() == [2, 1, 0]
    assert counts.predicted.tolist() == [2, 1, 2]
    assert counts.positives.tolist() == [2, 2, 0]
    assert counts.precision.tolist() == [1.0, 1.0, 0.0]
    assert counts.recall.tolist() == [1.0, 0.5, 0.0]
    assert counts.f1 == pytest.approx([1.0, 2 / 3, 0.0])
    figures = overall_and_per_class(counts)
    assert figures["OP"] == pytest.approx(3 / 5)
    assert figures["OR"] == pytest.approx(3 / 4)
    assert figures["OF1"] == pytest.approx(2 / 3)
    assert figures["CP"] == pytest.approx(2 / 3)
    assert figures["CR"] == pytest.approx(1 / 2)
    assert figures["CF1"] == pytest.approx(4 / 7)
    assert figures["macro_F1"] == pytest.approx(5 / 9)
    with_positives = overall_and_per_class(counts, counts.positives > 0)
    assert with_positives["CP"] == pytest.approx(1.0)
    assert with_positives["CR"] == pytest.approx(3 / 4)
    assert with_positives["CF1"] == pytest.approx(6 / 7)
    assert with_positives["OP"] == figures["OP"]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_figures_at_a_threshold_equal_scikit_learn(threshold: float):
    logits, targets = draw(500, 12)
    predicted = (torch.sigmoid(logits.double()) > threshold).numpy()
    counts = count_at_threshold(logits, targets, threshold=threshold)
    compare_with_scikit_learn(counts, targets, predicted)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_figures_at_top_k_equal_scikit_learn(k: int):
    logits, targets = draw(500, 12)
    predicted = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(predicted, np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :k], True, axis=1)
    compare_with_scikit_learn(count_at_topk(logits, targets, k=k), targets, predicted)


def compare_with_scikit_learn(counts, targets: Tensor, predicted: np.ndarray) -> None:
    labels = targets.numpy()
    figures = overall_and_per_class(counts)
    precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average=None, zero_division=0)
    np.testing.assert_allclose(counts.precision, precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(counts.recall, recall, rtol=0, atol=1e-12)
    np.testing.assert_allclose(counts.f1, f1, rtol=0, atol=1e-12)
    micro = precision_recall_fscore_support(labels, predicted, average="micro", zero_division=0)
    assert [figures[name] for name in ("OP", "OR", "OF1")] == pytest.approx(list(micro[:3]), abs=1e-12)
    macro = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert [figures[name] for name in ("CP", "CR", "macro_F1")] == pytest.approx(list(macro[:3]), abs=1e-12)


@pytest.mark.parametrize("function", [count_at_threshold, lambda x, y: count_at_topk(x, y, k=3)])
def test_unknown_entries_count_nowhere(function):
    logits, targets = draw(300, 8, unknown=0.3)
    counts = function(logits, targets)
    chosen = logits > 0 if function is count_at_threshold else top_k(logits, 3)
    known = targets >= 0
    assert counts.predicted.tolist() == (chosen & known).sum(dim=0).tolist()
    assert counts.hits.tolist() == (chosen & (targets == 1)).sum(dim=0).tolist()
    assert counts.positives.tolist() == (targets == 1).sum(dim=0).tolist()


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 3, 9])
def test_equal_logits_in_the_top_k_go_to_the_lowest_class_index(levels: int, k: int):
    logits = torch.randint(0, levels, (200, 9), generator=torch.Generator().manual_seed(0)).float()
    expected = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(expected, np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :k], True, axis=1)
    assert np.array_equal(top_k(logits, k).numpy(), expected)


def test_top_k_among_infinities_is_still_k():
    logits = torch.tensor([[float("-inf")] * 4, [float("inf"), 0.0, float("inf"), float("inf")]])
    assert top_k(logits, 2).tolist() == [[True, True, False, False], [True, False, True, False]]


def test_counts_do_not_depend_on_how_many_rows_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch):
    logits, targets = draw(301, 8, unknown=0.1)
    expected = count_at_topk(logits, targets, k=2)
    monkeypatch.setattr(counts_module, "BLOCK_ENTRIES", 100)
    for column, whole in zip(count_at_topk(logits, targets, k=2), expected, strict=True):
        assert column.tolist() == whole.tolist()


def test_a_model_that_predicts_nothing_scores_0():
    logits, targets = draw(50, 4)
    figures = overall_and_per_class(count_at_threshold(logits - 100, targets))
    assert set(figures.values()) == {0.0}


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_thresholds_out_of_range_are_refused(threshold: float):
    with pytest.raises(ValueError, match="threshold"):
        count_at_threshold(*draw(10, 4), threshold=threshold)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_out_of_range_is_refused(k: int):
    with pytest.raises(ValueError, match="k must be 1 to the number of classes, 4"):
        count_at_topk(*draw(10, 4), k=k)


def test_nan_logits_and_soft_targets_are_refused():
    logits, targets = draw(10, 4)
    with pytest.raises(ValueError, match="targets"):
        count_at_threshold(logits, targets.float() + 0.5)
    logits[1, 1] = float("nan")
    with pytest.raises(ValueError, match="1 of 40 logits are NaN"):
        count_at_threshold(logits, targets)


def test_annotation_protocol_on_a_hand_made_example():
    # Words 0..4; two words an image. Word 3 is never predicted, word 4 never occurs.
    logits = torch.tensor(
        [
            [9.0, 8.0, 0.0, 1.0, 2.0],  # given 0 1, has 0 1
            [9.0, 0.0, 8.0, 1.0, 2.0],  # given 0 2, has 0 3
            [9.0, 0.0, 1.0, 2.0, 8.0],  # given 0 4, has 2
            [0.0, 9.0, 8.0, 1.0, 2.0],  # given 1 2, has 1 0
        ]
    )
    targets = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 1, 0, 0, 0]])
    figures = words_at_k(logits, targets, k=2)
    precision = (2 / 3 + 2 / 2 + 0 / 2 + 0) / 4  # over the words that occur: 0 1 2 3
    recall = (2 / 3 + 2 / 2 + 0 / 1 + 0 / 1) / 4
    assert figures["P"] == pytest.approx(precision)
    assert figures["R"] == pytest.approx(recall)
    assert figures["F1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert figures["N+"] == 2
    assert figures["words"] == 4


@pytest.mark.gpu
def test_counts_of_cuda_tensors_equal_those_on_the_cpu():
    logits, targets = draw(300, 8, unknown=0.1)
    for cuda_targets in (targets, targets.cuda()):
        on_cuda = count_at_topk(logits.cuda(), cuda_targets, k=3)
        for column, expected in zip(on_cuda, count_at_topk(logits, targets, k=3), strict=True):
            assert column.tolist() == expected.tolist()
