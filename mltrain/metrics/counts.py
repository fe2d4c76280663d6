"""Precision, recall and F1 of predicted label sets: OP OR OF1 over all entries, CP CR CF1 over the classes.

The predicted labels of an image are the classes above a threshold, or its k highest. Unknown entries (-1) are ignored.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mltrain.metrics.average_precision import BLOCK_ENTRIES, WRONG_TARGETS, check_shapes, refuse_nan, to_int8


class Counts(NamedTuple):
    """Numbers of known entries of each class, int64 `(C,)` each."""

    hits: np.ndarray
    """predicted and positive"""
    predicted: np.ndarray
    positives: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """float64 `(C,)`; 0 for a class that was never predicted, as the literature counts it."""
        return ratio(self.hits, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """float64 `(C,)`; 0 for a class without positives."""
        return ratio(self.hits, self.positives)

    @property
    def f1(self) -> np.ndarray:
        """float64 `(C,)`, 2 hits / (predicted + positives); 0 where both are 0."""
        return ratio(2 * self.hits, self.predicted + self.positives)

    def accuracy(self, negatives: np.ndarray) -> np.ndarray:
        """Return the share of known entries that are predicted right, float64 `(C,)`; `negatives` `(C,)` are known."""
        return ratio(2 * self.hits - self.predicted + negatives, self.positives + negatives)


def count_at_threshold(logits: Tensor, targets: Tensor, *, threshold: float = 0.5) -> Counts:
    """Count with every class predicted whose sigmoid is strictly above `threshold` (0..1, exclusive).

    Compares the logits `(N, C)` with log(t / (1 - t)), because a sigmoid in low precision would round.

    Raises:
        ValueError: threshold out of range, or inputs as in `average_precision`.
    """
    return count_above(logits, targets, cuts=logit_of(threshold))


def logit_of(threshold: float) -> float:
    """Return log(t / (1 - t)). ValueError: t does not lie between 0 and 1, exclusive."""
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold must lie between 0 and 1, exclusive; got {threshold}")
    return math.log(threshold / (1.0 - threshold))


def count_above(logits: Tensor, targets: Tensor, *, cuts: float | Tensor) -> Counts:
    """Count with every class predicted whose logit is strictly above its cut.

    Args:
        logits, targets: as in `average_precision`.
        cuts: one logit for all classes, one per class `(C,)` or one per entry `(N, C)`; fp64 cuts are compared in fp64.

    Raises:
        ValueError: cuts of another shape or NaN, or inputs as in `average_precision`.
    """
    if isinstance(cuts, Tensor):
        if cuts.shape not in (logits.shape[1:], logits.shape):
            raise ValueError(
                f"cuts must be (classes,) or (images, classes) as the logits {tuple(logits.shape)}; got "
                f"{tuple(cuts.shape)}"
            )
        if bool(cuts.isnan().any()):
            raise ValueError("cuts hold NaN")
    return _count(logits, targets, cuts=cuts)


def count_at_topk(logits: Tensor, targets: Tensor, *, k: int, threshold: float | None = None) -> Counts:
    """Count with the k highest logits of each image predicted; among equal logits the lowest class index wins.

    The k are chosen among all classes, as a user of the model would see them; unknown entries among them are ignored.
    With `threshold`, only those whose sigmoid is at least this (0..1, exclusive), so that an image has k labels at
    most: the "top-3" of ML-GCN's and CSRA's code, at 0.5.

    Raises:
        ValueError: k is not in 1..C, threshold out of range, or inputs as in `average_precision`.
    """
    if logits.dim() == 2 and not 1 <= k <= logits.shape[1]:
        raise ValueError(f"k must be 1 to the number of classes, {logits.shape[1]}; got {k}")
    return _count(logits, targets, k=k, least=None if threshold is None else logit_of(threshold))


def count_negatives(targets: Tensor) -> np.ndarray:
    """Count the known negatives of each class in targets `(N, C)`; int64 `(C,)`."""
    totals = torch.zeros(targets.shape[1], dtype=torch.int64, device=targets.device)
    for part in targets.split(max(1, BLOCK_ENTRIES // max(1, targets.shape[1]))):
        totals += _column_sums(part == 0)
    return totals.cpu().numpy()


def overall_and_per_class(counts: Counts, classes: np.ndarray | None = None) -> dict[str, float]:
    """Return OP, OR, OF1, CP, CR, CF1 and macro_F1 in 0..1.

    O: hits, predictions and positives summed over all classes (OF1 is micro-F1). C: means over `classes` (bool `(C,)`,
    all when None) of precision and of recall, and CF1 = 2 CP CR / (CP + CR), as CSRA and most papers compute it.
    macro_F1 is the mean of the classes' own F1, which some code prints as CF1. 0/0 is 0.
    """
    chosen = np.ones(counts.hits.shape, dtype=bool) if classes is None else classes
    hits, predicted, positives = (int(column.sum()) for column in counts)
    overall_precision, overall_recall = hits / max(predicted, 1), hits / max(positives, 1)
    mean_precision, mean_recall = mean(counts.precision[chosen]), mean(counts.recall[chosen])
    return {
        "OP": overall_precision,
        "OR": overall_recall,
        "OF1": harmonic_mean(overall_precision, overall_recall),
        "CP": mean_precision,
        "CR": mean_recall,
        "CF1": harmonic_mean(mean_precision, mean_recall),
        "macro_F1": mean(counts.f1[chosen]),
    }


def words_at_k(logits: Tensor, targets: Tensor, *, k: int = 5) -> dict[str, float]:
    """Predict exactly k words for every image, and compute precision and recall of each word.

    This is the annotation protocol of Corel-5K: Duygulu et al., ECCV 2002; Feng et al., CVPR 2004; Makadia et al.,
    ECCV 2008.

    Args:
        logits: `(N, C)`, floating point.
        targets: `(N, C)` of 1, 0, -1.
        k: words per image; among equal logits the lowest class index wins.

    Returns:
        `P`, `R`: means in 0..1 over the words with a positive in this set, a word never predicted having precision 0;
        `F1`: harmonic mean of P and R; `N+`: number of words with recall above 0; `words`: number of words averaged.

    Raises:
        ValueError: as `count_at_topk`.
    """
    return word_figures(count_at_topk(logits, targets, k=k))


def word_figures(counts: Counts) -> dict[str, float]:
    """Return the figures of `words_at_k` for its counts."""
    occurring = counts.positives > 0
    precision, recall = mean(counts.precision[occurring]), mean(counts.recall[occurring])
    return {
        "P": precision,
        "R": recall,
        "F1": harmonic_mean(precision, recall),
        "N+": float((counts.hits > 0).sum()),
        "words": float(occurring.sum()),
    }


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the float64 quotient, 0 where the denominator is 0 (the numerator is then 0 too)."""
    return numerator / np.maximum(denominator, 1)


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def harmonic_mean(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second > 0 else 0.0


def top_k(logits: Tensor, k: int) -> Tensor:
    """Mark the k highest logits of each row, bool `(N, C)`; among equal logits the lowest class index wins."""
    classes = logits.shape[1]
    if logits.device.type == "cpu" and logits.dtype.itemsize >= 4 and classes < 512:  # faster there
        kth = torch.from_numpy(np.partition(logits.numpy(), classes - k, axis=1)[:, classes - k, None])
    else:
        kth = logits.topk(k, dim=1).values[:, -1:]
    chosen = logits >= kth
    if int(chosen.count_nonzero()) == k * len(logits):
        return chosen
    rows = (chosen.sum(dim=1) > k).nonzero().view(-1)
    above, tied = logits[rows] > kth[rows], logits[rows] == kth[rows]
    room = k - above.sum(dim=1, keepdim=True)
    chosen[rows] = above | (tied & (tied.cumsum(dim=1) <= room))
    return chosen


def _count(
    logits: Tensor,
    targets: Tensor,
    *,
    cuts: float | Tensor | None = None,
    k: int = 1,
    least: float | None = None,
) -> Counts:
    """Count over the images, a bounded number of rows at a time, on the device of the logits."""
    check_shapes(logits, targets)
    refuse_nan(logits)
    classes = logits.shape[1]
    totals = torch.zeros(3, classes, dtype=torch.int64, device=logits.device)
    rows = max(1, BLOCK_ENTRIES // max(1, classes))
    if isinstance(cuts, Tensor):
        cuts = cuts.to(logits.device)
    for start in range(0, len(logits) if classes else 0, rows):
        part = slice(start, start + rows)
        scores = logits[part].detach()
        labels = checked_labels(targets[part].detach().to(scores.device))
        if cuts is None:
            chosen = top_k(scores, k)
            if least is not None:
                chosen &= scores >= least
        elif isinstance(cuts, Tensor) and cuts.dim() == 2:
            chosen = scores > cuts[part]
        else:
            chosen = scores > cuts
        positive = labels == 1
        totals[0] += _column_sums(chosen & positive)
        totals[1] += _column_sums(chosen.logical_and_(labels >= 0))
        totals[2] += _column_sums(positive)
    return Counts(*totals.cpu().numpy())


def checked_labels(targets: Tensor) -> Tensor:
    """Return the targets in int8 on their own device. ValueError: one is not 1, 0 or -1."""
    labels = to_int8(targets)
    low, high = labels.aminmax()
    if low < -1 or high > 1:
        raise ValueError(WRONG_TARGETS)
    return labels


def _column_sums(mask: Tensor) -> Tensor:
    """Sum bool `(N, C)` to int64 `(C,)`, in blocks of 255 rows whose sums fit a byte: five times as fast on a CPU."""
    full = len(mask) // 255 * 255
    blocks = mask[:full].contiguous().view(torch.uint8).view(-1, 255, mask.shape[1])
    return blocks.sum(1, dtype=torch.uint8).sum(0, dtype=torch.int64) + mask[full:].sum(0)
