"""Single-label metrics against scikit-learn and the definitions written plainly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from mltrain.metrics.single_label import (
    accuracy_at,
    confusion_matrix,
    g_mean,
    labels_of,
    mauc,
    predicted_classes,
    summarize_single_label,
)


def drawn(images: int, classes: int, *, seed: int = 0, noise: float = 1.5) -> tuple[Tensor, np.ndarray]:
    """Logits that know something of long-tailed labels; every class has an image."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    labels = np.concatenate([np.arange(classes), rng.choice(classes, images - classes, p=share / share.sum())])
    logits = noise * rng.normal(size=(images, classes)) + np.eye(classes)[labels]
    return torch.tensor(logits, dtype=torch.float32), labels


def one_hot(labels: np.ndarray, classes: int) -> Tensor:
    return torch.from_numpy(np.eye(classes, dtype=np.int8)[labels])


@pytest.mark.parametrize(("images", "classes"), [(60, 2), (200, 5), (400, 12)])
def test_figures_equal_scikit_learn(images: int, classes: int) -> None:
    logits, labels = drawn(images, classes)
    predicted = logits.numpy().argmax(1)
    got = summarize_single_label(logits, one_hot(labels, classes)).scalars
    expected = {"accuracy": sk.accuracy_score(labels, predicted)}
    expected["balanced_accuracy"] = sk.balanced_accuracy_score(labels, predicted)
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            labels, predicted, average=average, labels=range(classes), zero_division=0
        )
        expected |= {f"{average}_P": precision, f"{average}_R": recall, f"{average}_F1": f1}
    p = logits.double().softmax(1).numpy()
    pairs = {"multi_class": "ovo", "average": "macro"} if classes > 2 else {}
    expected["mauc"] = sk.roc_auc_score(labels, p if classes > 2 else p[:, 1], **pairs)
    if classes > 5:
        expected["accuracy@5"] = sk.top_k_accuracy_score(labels, logits.numpy(), k=5)
    else:
        assert "accuracy@5" not in got
    for name, value in expected.items():
        assert got[name] == pytest.approx(100 * value, abs=1e-9), name


def test_confusion_matrix_equals_scikit_learn_without_unknown_labels() -> None:
    logits, labels = drawn(150, 6)
    targets = one_hot(labels, 6)
    targets[::7] = -1
    known = np.arange(150) % 7 != 0
    got = summarize_single_label(logits, targets)
    predicted = logits.numpy().argmax(1)
    expected = sk.confusion_matrix(labels[known], predicted[known], labels=range(6))
    assert got.confusion is not None and (got.confusion.toarray() == expected).all()
    assert got.scalars["accuracy"] == pytest.approx(100 * sk.accuracy_score(labels[known], predicted[known]), abs=1e-9)
    assert got.scalars["mauc"] == summarize_single_label(logits[known], targets[known]).scalars["mauc"]
    np.testing.assert_array_equal(got.per_class["positives"], np.bincount(labels[known], minlength=6))
    np.testing.assert_array_equal(got.per_class["predicted"], np.bincount(predicted[known], minlength=6))


def plain_mauc(p: np.ndarray, labels: np.ndarray) -> float:
    """Every pair of images of every ordered pair of classes."""
    values = []
    for i, j in itertools.permutations(np.unique(labels), 2):
        mine, other = p[labels == i, i][:, None], p[labels == j, i][None, :]
        values.append(((mine > other) + 0.5 * (mine == other)).mean())
    return float(np.mean(values))


def test_mauc_counts_ties_as_one_half() -> None:
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.integers(0, 2, size=(80, 4)), dtype=torch.float32)  # few distinct probabilities
    labels = rng.integers(0, 4, 80)
    p = np.round(logits.double().softmax(1).numpy(), 12)  # equal where the formula says so, whatever the order of a sum
    assert mauc(logits, labels) == pytest.approx(plain_mauc(p, labels), abs=1e-12)
    assert mauc(torch.zeros(80, 4), labels) == 0.5
    assert mauc(logits[torch.randperm(80, generator=torch.Generator().manual_seed(0))], labels) != mauc(logits, labels)


def test_mauc_leaves_out_absent_classes_and_needs_two() -> None:
    logits, labels = drawn(120, 7)
    kept = (labels != 2) & (labels != 5)
    got = mauc(logits[kept], labels[kept])
    assert got == pytest.approx(plain_mauc(logits[kept].double().softmax(1).numpy(), labels[kept]), abs=1e-12)
    one = labels == 0
    assert np.isnan(mauc(logits[one], labels[one]))
    assert "mauc" not in summarize_single_label(logits[one], one_hot(labels[one], 7)).scalars


def test_mauc_is_not_rounded_by_confidence() -> None:
    """Images whose fp32 softmax is 1 for all are still in order."""
    logits = torch.tensor([[30.0, 0, 0], [29.0, 0, 0], [28.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    labels = np.array([0, 0, 1, 1, 2])
    assert logits.softmax(1)[:3, 0].unique().numel() == 1
    assert mauc(logits, labels) == pytest.approx(plain_mauc(logits.double().softmax(1).numpy(), labels), abs=1e-12)


def test_g_mean_is_the_geometric_mean_with_the_correction_for_zero() -> None:
    assert g_mean(np.array([0.5, 0.8])) == pytest.approx(np.sqrt(0.4), abs=1e-12)
    assert g_mean(np.array([0.5, 0.0])) == pytest.approx(np.sqrt(0.0005), abs=1e-12)
    logits, labels = drawn(200, 5, noise=0.5)
    recall = sk.recall_score(labels, logits.numpy().argmax(1), average=None)
    assert recall.min() > 0
    got = summarize_single_label(logits, one_hot(labels, 5)).scalars["g_mean"]
    assert got == pytest.approx(100 * np.prod(recall) ** (1 / 5), abs=1e-9)


@pytest.mark.parametrize("absent", ["exclude", "zero"])
def test_class_without_images_follows_the_policy(absent: str) -> None:
    logits, labels = drawn(100, 6)
    logits, labels = logits[labels != 3], labels[labels != 3]
    predicted = logits.numpy().argmax(1)
    counted = [0, 1, 2, 4, 5] if absent == "exclude" else list(range(6))
    summary = summarize_single_label(logits, one_hot(labels, 6), absent=absent)  # type: ignore[arg-type]
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predicted, average="macro", labels=counted, zero_division=0
    )
    got = summary.scalars
    assert (got["macro_P"], got["macro_R"], got["macro_F1"]) == pytest.approx(
        (100 * precision, 100 * recall, 100 * f1), abs=1e-9
    )
    each = sk.recall_score(labels, predicted, average=None, labels=counted, zero_division=0)
    assert got["g_mean"] == pytest.approx(100 * np.exp(np.log(np.maximum(each, 0.001)).mean()), abs=1e-9)
    assert got["classes_without_images"] == 1
    assert np.isnan(summary.per_class["recall"][3]) and np.isnan(summary.per_class["f1"][3])
    with pytest.raises(ValueError, match=r"1 of 6 classes has no image.*3"):
        summarize_single_label(logits, one_hot(labels, 6), absent="error")


def test_groups_count_the_images_of_their_classes() -> None:
    logits, labels = drawn(300, 6)
    groups = {"head": np.array([0, 1]), "medium": np.array([], dtype=np.int64), "tail": np.array([4, 5])}
    got = summarize_single_label(logits, one_hot(labels, 6), group_indices=groups).scalars
    hit = logits.numpy().argmax(1) == labels
    for name, members in (("head", [0, 1]), ("tail", [4, 5])):
        assert got[f"accuracy_{name}"] == pytest.approx(100 * hit[np.isin(labels, members)].mean(), abs=1e-9)
        mean_recall = np.mean([hit[labels == c].mean() for c in members])
        assert got[f"balanced_accuracy_{name}"] == pytest.approx(100 * mean_recall, abs=1e-9)
        f1 = sk.f1_score(labels, logits.numpy().argmax(1), average="macro", labels=members)
        assert got[f"macro_F1_{name}"] == pytest.approx(100 * f1, abs=1e-9)
    assert "accuracy_medium" not in got


def test_among_equal_logits_the_lowest_index_wins() -> None:
    logits, labels = torch.zeros(7, 7), np.arange(7)
    assert predicted_classes(logits).tolist() == [0] * 7
    assert accuracy_at(logits, labels, k=5) == pytest.approx(5 / 7)
    assert accuracy_at(logits, labels, k=1) == pytest.approx(1 / 7)


def test_order_of_images_does_not_matter_and_half_precision_is_widened() -> None:
    logits, labels = drawn(200, 8)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    targets = one_hot(labels, 8)
    first, second = (
        summarize_single_label(x.half(), y).scalars for x, y in ((logits, targets), (logits[order], targets[order]))
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value == pytest.approx(second[name], abs=1e-12), name


def test_blocks_of_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(200, 8)
    whole = summarize_single_label(logits, one_hot(labels, 8)).scalars
    monkeypatch.setattr("mltrain.metrics.single_label.BLOCK_ENTRIES", 100)
    assert summarize_single_label(logits, one_hot(labels, 8)).scalars == whole


def test_other_targets_and_logits_are_refused() -> None:
    for row, message in (([1, 1, 0], "has 2"), ([0, 0, 0], "has 0"), ([2, 0, 0], "must be 1")):
        with pytest.raises(ValueError, match=message):
            labels_of(torch.tensor([[0, 1, 0], row]))
    assert labels_of(torch.tensor([[0, 1, 0], [-1, -1, -1], [0, -1, 0], [1, -1, 0]])).tolist() == [1, -1, -1, 0]
    with pytest.raises(ValueError, match="no image has a known label"):
        summarize_single_label(torch.zeros(2, 3), torch.full((2, 3), -1))
    with pytest.raises(ValueError, match="NaN"):
        summarize_single_label(torch.full((2, 3), torch.nan), torch.eye(3)[:2])
    with pytest.raises(ValueError, match="infinite"):
        summarize_single_label(torch.full((2, 3), torch.inf), torch.eye(3)[:2])
    with pytest.raises(ValueError, match="absent must be"):
        summarize_single_label(torch.zeros(2, 3), torch.eye(3)[:2], absent="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class indices"):
        summarize_single_label(torch.zeros(2, 3), torch.eye(3)[:2], group_indices={"head": [3]})


def test_confusion_matrix_is_sparse_in_many_classes() -> None:
    matrix = confusion_matrix(np.array([5, 5, 9]), np.array([7, 7, -1]), 100_000)
    assert matrix.shape == (100_000, 100_000) and matrix.nnz == 1 and matrix[7, 5] == 2


def test_specificity_and_iba_equal_imbalanced_learn() -> None:
    """Values that imbalanced-learn 0.14 printed for these labels and predictions."""
    pairs = {
        (0, 0): 29, (0, 1): 1, (0, 2): 1, (0, 3): 7, (1, 0): 3, (1, 1): 5,
        (2, 0): 2, (2, 1): 1, (2, 2): 2, (2, 3): 2, (3, 0): 2, (3, 3): 5,
    }  # fmt: skip
    rows = [pair for pair, count in pairs.items() for _ in range(count)]
    labels, predicted = np.array(rows).T
    scalars = summarize_single_label(torch.eye(4)[predicted], one_hot(labels, 4)).scalars
    figures = [scalars[name] for name in ("macro_specificity", "weighted_specificity", "macro_iba", "weighted_iba")]
    assert figures == pytest.approx([86.3669349518406, 77.1344064740291, 48.80631023175499, 50.8468176362207])
