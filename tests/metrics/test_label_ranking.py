"""Label-ranking metrics, top k above a threshold and accuracy of entries, against scikit-learn and restatements."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import coverage_error, hamming_loss, label_ranking_average_precision_score, label_ranking_loss
from torch import Tensor

from mltrain.metrics import KnownEntries, count_at_topk, label_ranking, summarize


def drawn(images: int, classes: int, *, digits: int | None = None, share: float = 0.3) -> tuple[Tensor, Tensor]:
    """Logits, rounded to make ties, and targets among which some images have no positive or only positives."""
    rng = np.random.default_rng(images + classes)
    targets = (rng.random((images, classes)) < share).astype(np.int8)
    targets[0], targets[1] = 0, 1
    logits = rng.normal(size=(images, classes)) + targets
    return torch.from_numpy(logits if digits is None else logits.round(digits)).float(), torch.from_numpy(targets)


@pytest.mark.parametrize("digits", [None, 1, 0])
@pytest.mark.parametrize(("images", "classes"), [(50, 8), (200, 3), (30, 40)])
def test_label_ranking_equals_scikit_learn(images: int, classes: int, digits: int | None) -> None:
    logits, targets = drawn(images, classes, digits=digits)
    found = label_ranking(logits, targets)
    arrays = targets.numpy(), logits.numpy().astype(np.float64)
    assert found["lrap"] == pytest.approx(label_ranking_average_precision_score(*arrays), abs=1e-12)
    assert found["coverage_error"] == pytest.approx(coverage_error(*arrays), abs=1e-12)
    assert found["ranking_loss"] == pytest.approx(label_ranking_loss(*arrays), abs=1e-12)


def test_unknown_entries_are_not_ranked() -> None:
    logits, targets = drawn(40, 10, digits=1)
    rng = np.random.default_rng(0)
    targets[torch.from_numpy(rng.random(targets.shape) < 0.4)] = -1
    logits[5, targets[5] == -1] = 50.0  # far above all others: it must not count
    logits[6, 0] = -torch.inf
    found = label_ranking(logits, targets)
    parts = []
    for x, y in zip(logits.double().numpy(), targets.numpy(), strict=True):
        known = y >= 0
        x = np.nan_to_num(x[known], neginf=-1e9)[None]
        parts.append([f(y[known][None], x) for f in (label_ranking_average_precision_score, coverage_error)])
    lrap, coverage = np.mean(parts, axis=0)
    assert found["lrap"] == pytest.approx(lrap) and found["coverage_error"] == pytest.approx(coverage)


def test_a_summary_has_them_if_asked_for() -> None:
    logits, targets = drawn(50, 8)
    scalars = summarize(logits, targets, ranking=True).scalars
    expected = label_ranking(logits, targets)
    assert scalars["lrap"] == 100 * expected["lrap"] and scalars["ranking_loss"] == 100 * expected["ranking_loss"]
    assert scalars["coverage_error"] == expected["coverage_error"]
    assert "lrap" not in summarize(logits, targets).scalars
    with pytest.raises(ValueError, match="no image"):
        label_ranking(logits[:0], targets[:0])


def published_top3(scores: np.ndarray, targets: np.ndarray) -> tuple[int, int, int]:
    """CSRA's and ML-GCN's rule, image by image: among the three best, and at least one half."""
    hits = predicted = 0
    for row, target in zip(scores, targets, strict=True):
        for c in np.argsort(-row, kind="stable")[:3]:
            if 1 / (1 + np.exp(-row[c])) >= 0.5:
                predicted += 1
                hits += int(target[c] == 1)
    return hits, predicted, int((targets == 1).sum())


@pytest.mark.parametrize("digits", [None, 1])  # with one digit some scores are exactly one half
def test_top_k_above_a_threshold_is_that_of_the_published_code(digits: int | None) -> None:
    logits, targets = drawn(80, 9, digits=digits)
    counts = count_at_topk(logits, targets, k=3, threshold=0.5)
    assert tuple(int(column.sum()) for column in counts) == published_top3(logits.numpy(), targets.numpy())
    exact = count_at_topk(logits, targets, k=3)
    assert exact.predicted.sum() == 3 * 80 > counts.predicted.sum()
    known = KnownEntries.from_batch(logits, targets)
    assert all(np.array_equal(a, b) for a, b in zip(counts, known.count_at_topk(3, 0.5), strict=True))
    scalars = summarize(logits, targets, topk_threshold=0.5).scalars
    assert scalars["OP@3"] == pytest.approx(100 * counts.hits.sum() / counts.predicted.sum())


def test_hamming_accuracy_is_the_share_of_right_entries() -> None:
    logits, targets = drawn(60, 6)
    scalars = summarize(logits, targets, group_indices={"tail": [1, 4]}).scalars
    right = (logits.numpy() > 0) == (targets.numpy() == 1)
    assert scalars["hamming_accuracy"] == pytest.approx(100 * (1 - hamming_loss(targets.numpy(), logits.numpy() > 0)))
    assert scalars["hamming_accuracy_tail"] == pytest.approx(100 * right[:, [1, 4]].mean())
    targets[::2, 0] = -1
    scalars = summarize(logits, targets).scalars
    of_class = [right[1::2, 0].mean(), *right[:, 1:].mean(0)]
    assert scalars["hamming_accuracy"] == pytest.approx(100 * np.mean(of_class))
