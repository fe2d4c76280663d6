"""The image annotation protocol of Corel-5K.

Duygulu et al., ECCV 2002; Feng et al., CVPR 2004; Makadia et al., ECCV 2008.
"""

from __future__ import annotations

from torch import Tensor

from mltrain.metrics.counts import Counts, count_at_topk, harmonic_mean, mean


def words_at_k(logits: Tensor, targets: Tensor, *, k: int = 5) -> dict[str, float]:
    """Exactly k words for every image, then precision and recall of each word.

    Args:
        logits: `(N, C)`, floating point.
        targets: `(N, C)` of 1, 0, -1.
        k: words an image is given; among equal logits the lowest class index wins.

    Returns:
        `P`, `R`: means in 0..1 over the words with a positive in this set, a word never predicted having precision 0;
        `F1`: harmonic mean of P and R; `N+`: number of words with recall above 0; `words`: number of words averaged.

    Raises:
        ValueError: as `count_at_topk`.
    """
    return words_of(count_at_topk(logits, targets, k=k))


def words_of(counts: Counts) -> dict[str, float]:
    """The figures of `words_at_k`, from its counts."""
    occurring = counts.positives > 0
    precision, recall = mean(counts.precision[occurring]), mean(counts.recall[occurring])
    return {
        "P": precision,
        "R": recall,
        "F1": harmonic_mean(precision, recall),
        "N+": float((counts.hits > 0).sum()),
        "words": float(occurring.sum()),
    }
