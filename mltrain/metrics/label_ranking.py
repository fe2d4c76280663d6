"""Label-ranking metrics: how well the positives of an image rank above its negatives.

Tsoumakas, Katakis, Vlahavas, "Mining Multi-label Data", Data Mining and Knowledge Discovery Handbook, 2010; equal to
scikit-learn's `label_ranking_average_precision_score`, `coverage_error` and `label_ranking_loss` where all targets are
known.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from mltrain.metrics.average_precision import BLOCK_ENTRIES, check_shapes, refuse_nan, to_labels, to_scores


def label_ranking(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Return LRAP, coverage error and ranking loss, each averaged over the images.

    Unknown entries are left out of their image's ranking. Equal logits count against the model: they share the worst
    of their ranks. As scikit-learn has it, an image without a positive has LRAP 1, coverage 0 and loss 0, and one
    without a negative has LRAP 1 and loss 0.

    Args:
        logits: `(N, C)`, floating point.
        targets: `(N, C)` of 1, 0, -1.

    Returns:
        `lrap` in 0..1: the mean over positives of the share of positives among the labels that rank as high;
        `coverage_error`: how many labels one has to go through until all positives are found, 0..C;
        `ranking_loss` in 0..1: the share of pairs of a positive and a negative in the wrong order.

    Raises:
        ValueError: no image, or inputs as in `average_precision`.
    """
    check_shapes(logits, targets)
    refuse_nan(logits)
    if not len(logits):
        raise ValueError("no image: there is nothing to rank")
    rows = max(1, BLOCK_ENTRIES // max(1, logits.shape[1]))
    sums = [_sums(logits[k : k + rows], targets[k : k + rows]) for k in range(0, len(logits), rows)]
    lrap, coverage, loss = np.sum(sums, axis=0) / len(logits)
    return {"lrap": float(lrap), "coverage_error": float(coverage), "ranking_loss": float(loss)}


def _sums(logits: Tensor, targets: Tensor) -> np.ndarray:
    """Return the sums over a block of images, float64 (3,)."""
    labels = to_labels(targets)
    scores = np.where(labels < 0, -np.inf, to_scores(logits))  # unknown entries come last
    order = np.argsort(-scores, axis=1, kind="stable")
    scores, labels = np.take_along_axis(scores, order, 1), np.take_along_axis(labels, order, 1)
    places = np.arange(scores.shape[1])
    ends = np.where(scores[:, :-1] != scores[:, 1:], places[:-1], places[-1])  # of each run of equal scores
    ends = np.concatenate([ends, np.full((len(ends), 1), places[-1])], axis=1)
    ends = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    positive, known = labels == 1, (labels >= 0).sum(1, keepdims=True)
    positives = positive.sum(1, keepdims=True)
    above = np.take_along_axis(positive.cumsum(1), ends, 1)  # positives that rank as high
    ranks = np.minimum(ends + 1, known)
    trivial = (positives == 0) | (positives == known)
    precision = (positive * above / np.maximum(ranks, 1)).sum(1, keepdims=True) / np.maximum(positives, 1)
    wrong = (positive * (ranks - above)).sum(1, keepdims=True) / np.maximum(positives * (known - positives), 1)
    coverage = (positive * ranks).max(1, initial=0)
    return np.array([np.where(trivial, 1.0, precision).sum(), coverage.sum(), np.where(trivial, 0.0, wrong).sum()])
