"""Metrics for one label per image: accuracy, precision, recall, F1, G-mean, MAUC, confusion matrix.

The predicted class is the one with the highest logit; among equal logits the lowest class index wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from torch import Tensor

from mltrain.metrics.average_precision import (
    BLOCK_ENTRIES,
    check_shapes,
    refuse_nan,
    refuse_other_labels,
    to_labels,
    to_scores,
)
from mltrain.metrics.counts import Counts, mean, ratio
from mltrain.metrics.summary import Absent, Summary, checked_indices
from mltrain.text import part_of

ZERO_RECALL = 0.001
"""the G-mean, which a single recall of 0 would make 0, takes it as this value"""


def labels_of(targets: Tensor) -> np.ndarray:
    """Return the class of each image, int64 `(N,)`; -1 if it is unknown: no positive, and not all others negative.

    Args:
        targets: `(N, C)` of 1, 0, -1.

    Raises:
        ValueError: an image has more than one positive, or none and no unknown entry either.
    """
    labels = to_labels(targets)
    refuse_other_labels(labels)
    positives = np.count_nonzero(labels == 1, axis=1)
    wrong = np.flatnonzero((positives > 1) | ((positives == 0) & (labels >= 0).all(axis=1)))
    if len(wrong):
        found = positives[wrong[0]]
        raise ValueError(
            f"{part_of(len(wrong), len(labels), 'image', 'have')} not exactly one label (the first, number "
            f"{wrong[0]}, has "
            f"{found}): these metrics are for one label per image"
        )
    return np.where(positives == 1, labels.argmax(axis=1), -1)


def predicted_classes(logits: Tensor) -> np.ndarray:
    """Return the class of the highest logit, int64 `(N,)`, the first of equal ones. ValueError: NaN."""
    refuse_nan(logits)
    return np.concatenate([np.empty(0, np.int64), *(scores.argmax(axis=1) for _, scores in _blocks(logits))])


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> sparse.csr_matrix:
    """Count images by class (row) and predicted class (column), int64 `(C, C)`, without unknown labels (-1)."""
    known = labels >= 0
    ones = np.ones(int(known.sum()), dtype=np.int64)
    return sparse.csr_matrix((ones, (labels[known], predicted[known])), shape=(classes, classes))


def accuracy_at(logits: Tensor, labels: np.ndarray, *, k: int) -> float:
    """Return the share of images whose label is among the k highest logits, 0..1; NaN without a known label.

    Among equal logits the lowest class index comes first. Without ties it equals scikit-learn's `top_k_accuracy_score`.
    """
    hits = 0
    for start, scores in _blocks(logits):
        label = labels[start : start + len(scores)]
        rows = np.flatnonzero(label >= 0)
        own = scores[rows, label[rows]][:, None]
        before = np.arange(scores.shape[1]) < label[rows][:, None]
        hits += int(np.count_nonzero(((scores[rows] > own) | ((scores[rows] == own) & before)).sum(axis=1) < k))
    known = int((labels >= 0).sum())
    return hits / known if known else float("nan")


def mauc(logits: Tensor, labels: np.ndarray) -> float:
    """Return the multi-class AUC of Hand and Till (Machine Learning 45, 2001), 0..1; NaN for fewer than two classes.

    It is the mean of A(i|j) over all ordered pairs of classes: the chance that a random image of class i has a higher
    softmax probability of i than a random one of class j; equal probabilities count one half. Pairs with a class that
    has no image are left out. Equals scikit-learn's `roc_auc_score(multi_class="ovo", average="macro")` to 1e-9.

    Args:
        logits: `(N, C)`; probabilities are compared as fp64 logarithms, which do not round to 1 or 0 as fp32 does.
        labels: class of each image `(N,)`, from `labels_of`.
    """
    rows = np.flatnonzero(labels >= 0)
    labels = labels[rows]
    classes = logits.shape[1]
    sizes = np.bincount(labels, minlength=classes)
    present = np.flatnonzero(sizes)
    if len(present) < 2:
        return float("nan")
    scores = to_scores(logits)
    total = _log_totals(logits)[rows]
    if not np.isfinite(total).all():
        raise ValueError("a logit is infinite: its softmax is not defined")
    sizes = sizes[present]
    place = np.searchsorted(present, labels)  # of each image's class among those present

    def against_others(k: int) -> float:
        """Sum A(i|j) over the other classes j, i being the k-th class present."""
        score = columns[k] - total
        mine = place == k
        own = np.sort(score[mine])
        below = np.searchsorted(own, score)
        equal = np.flatnonzero((own[np.minimum(below, len(own) - 1)] == score) & ~mine)
        beaten = len(own) - below.astype(np.float64)  # images of i that score above each image; a tie counts one half
        beaten[equal] -= (np.searchsorted(own, score[equal], side="right") - below[equal]) / 2
        means = np.bincount(place, weights=beaten, minlength=len(present)) / sizes
        return float((means.sum() - means[k]) / len(own))

    sum_over_pairs = 0.0
    step = max(1, BLOCK_ENTRIES // len(rows))
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:  # numpy releases the GIL in its long calls
        for start in range(0, len(present), step):
            chosen = range(start, min(start + step, len(present)))
            block = np.ascontiguousarray(scores[np.ix_(rows, present[chosen])].T)
            columns = dict(zip(chosen, block, strict=True))
            sum_over_pairs += sum(threads.map(against_others, chosen))
    return sum_over_pairs / (len(present) * (len(present) - 1))


def g_mean(recall: np.ndarray) -> float:
    """Return the geometric mean of the recalls (C,), each at least 0.001 (`ZERO_RECALL`).

    Without that correction one class that is never found would make it 0, whatever the other recalls are.
    """
    return float(np.exp(np.log(np.maximum(recall, ZERO_RECALL)).mean())) if recall.size else 0.0


def specificity(counts: Counts) -> np.ndarray:
    """Return the share of the images of other classes that are not taken for a class, float64 (C,).

    Equals imbalanced-learn's `specificity_score(average=None)`.
    """
    others = counts.positives.sum() - counts.positives
    return 1 - ratio(counts.predicted - counts.hits, others)


def balanced_accuracy_index(counts: Counts, alpha: float = 0.1) -> np.ndarray:
    """Return the index of balanced accuracy (IBA) of each class, float64 (C,).

    ``(1 + alpha (recall - specificity)) recall specificity``: Garcia, Mollineda, Sanchez, "Index of Balanced Accuracy",
    IbPRIA 2009, of the squared geometric mean; equals imbalanced-learn's `classification_report_imbalanced`.
    """
    own, others = counts.recall, specificity(counts)
    return (1 + alpha * (own - others)) * own * others


def summarize_single_label(
    logits: Tensor,
    targets: Tensor,
    *,
    group_indices: Mapping[str, ArrayLike] | None = None,
    absent: Absent = "exclude",
) -> Summary:
    """Evaluate one set of predictions of single-label images; figures in percent.

    Args:
        logits: `(N, C)` floating point, as the model gave them.
        targets: `(N, C)` with one 1 per row; images of unknown label (-1) are ignored.
        group_indices: class indices by group name, as `LabelStats.group_indices()`; each group with an evaluable class
            gets `accuracy_<name>` (of the images of its classes), `balanced_accuracy_<name>` and `macro_F1_<name>`.
        absent: a class without images is left out of the means over classes ("exclude"), counts as 0 in them ("zero")
            or is refused ("error"). MAUC leaves it out in any case.

    Returns:
        Summary with `confusion`. `accuracy@5` is left out with 5 classes or fewer, `mauc` where it is not defined.

    Raises:
        ValueError: no image has a known label, a class has no image and `absent="error"`, an image has not exactly
            one label, a logit is NaN, shapes differ, an index is out of range, an unknown `absent`.
    """
    if absent not in get_args(Absent):
        raise ValueError(f'absent must be "exclude", "zero" or "error"; got {absent!r}')
    check_shapes(logits, targets)
    classes = logits.shape[1]
    labels = labels_of(targets)
    confusion = confusion_matrix(predicted_classes(logits), labels, classes)
    counts = Counts(
        hits=confusion.diagonal(),
        predicted=np.asarray(confusion.sum(axis=0)).ravel(),
        positives=np.asarray(confusion.sum(axis=1)).ravel(),
    )
    images = int(counts.positives.sum())
    missing = counts.positives == 0
    if not images:
        raise ValueError("no image has a known label: there is nothing to evaluate")
    if absent == "error" and missing.any():
        first = ", ".join(str(index) for index in np.flatnonzero(missing)[:5])
        raise ValueError(f"{part_of(int(missing.sum()), classes, 'class', 'have')} no image (first indices: {first})")
    evaluable = np.ones(classes, dtype=bool) if absent == "zero" else ~missing

    share = counts.positives / images
    scalars = {
        "accuracy": counts.hits.sum() / images,
        **({"accuracy@5": accuracy_at(logits, labels, k=5)} if classes > 5 else {}),
        "balanced_accuracy": mean(counts.recall[evaluable]),
        "macro_P": mean(counts.precision[evaluable]),
        "macro_R": mean(counts.recall[evaluable]),
        "macro_F1": mean(counts.f1[evaluable]),
        "weighted_P": share @ counts.precision,
        "weighted_R": share @ counts.recall,
        "weighted_F1": share @ counts.f1,
        "macro_specificity": mean(specificity(counts)[evaluable]),
        "weighted_specificity": share @ specificity(counts),
        "macro_iba": mean(balanced_accuracy_index(counts)[evaluable]),
        "weighted_iba": share @ balanced_accuracy_index(counts),
        "g_mean": g_mean(counts.recall[evaluable]),
        "mauc": mauc(logits, labels),
    }
    for name, indices in (group_indices or {}).items():
        members = np.zeros(classes, dtype=bool)
        members[checked_indices(name, indices, classes)] = True
        members &= evaluable
        if members.any():
            hits, of = counts.hits[members].sum(), counts.positives[members].sum()
            scalars[f"accuracy_{name}"] = hits / max(of, 1)
            scalars[f"balanced_accuracy_{name}"] = mean(counts.recall[members])
            scalars[f"macro_F1_{name}"] = mean(counts.f1[members])
    percent = {name: 100.0 * float(value) for name, value in scalars.items() if not np.isnan(value)}
    percent["classes_without_images"] = float(missing.sum())

    per_class = {
        "recall": 100.0 * np.where(missing, np.nan, counts.recall),
        "precision": 100.0 * counts.precision,
        "f1": 100.0 * np.where(missing, np.nan, counts.f1),
        "positives": counts.positives,
        "predicted": counts.predicted,
    }
    return Summary(percent, per_class, confusion)


def _blocks(logits: Tensor) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, scores), a bounded number of entries at a time."""
    rows = max(1, BLOCK_ENTRIES // max(1, logits.shape[1]))
    for start in range(0, len(logits), rows):
        yield start, to_scores(logits[start : start + rows])


def _log_totals(logits: Tensor) -> np.ndarray:
    """Return log(sum(exp)) of each row, float64 `(N,)`, with the same bits in any order of the logits."""
    totals = np.empty(len(logits))
    for start, scores in _blocks(logits):
        ordered = np.sort(scores, axis=1).astype(np.float64)
        top = ordered[:, -1:]
        with np.errstate(invalid="ignore"):  # infinite logits, which the caller refuses
            totals[start : start + len(scores)] = top[:, 0] + np.log(np.exp(ordered - top).sum(axis=1))
    return totals
