"""Average precision, exact and tie-aware, without sorting every score.

    AP = sum over thresholds t of (R_t - R_before) * P_t        (no interpolation)

Every positive at threshold t contributes P_t / n_positives. So it suffices to count, for each positive, the positives
and the known entries that score at or above it. Equal scores share a threshold: the order of rows never matters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

BLOCK_ENTRIES = 1 << 21
"""entries (classes times images) copied at a time; bounds the extra memory to a few tens of MB"""

WRONG_TARGETS = "targets must be 1 (positive), 0 (negative) or -1 (unknown); soft targets cannot be ranked"


def average_precision(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the average precision of each class.

    Args:
        logits: scores `(N, C)` of any floating dtype, ranked as given (fp16 and bf16 are widened, fp64 is kept);
            infinities are allowed.
        targets: `(N, C)` of any dtype; 1 positive, 0 negative, -1 unknown. An unknown entry takes no part in its class.

    Returns:
        float64 `(C,)` on the CPU, in 0..1; NaN where a class has no known positive.

    Raises:
        ValueError: shapes differ or are not 2-D, logits are not floating point or hold NaN, a target is not 1, 0 or -1.

    Compared with scikit-learn's `average_precision_score` on each class's known entries: equal to 1e-9, ties included.
    Bit for bit the same under any permutation of the rows. CUDA tensors are copied over in blocks of classes.
    """
    return _of_each_class(ranking_average_precision, logits, targets)


def envelope_average_precision(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the average precision of each class with each precision raised to the best at that recall or a higher one.

        AP = sum over positives of max(precision at it or at any positive ranked below it) / n_positives

    Pascal VOC defines it so since 2010, and Query2Label's figures are of this kind. It is never below
    `average_precision`, which the ASL family, CSRA and scikit-learn use. Arguments, ties, result and errors as there.

    Compared with the area computed from a precision-recall curve of every threshold: equal to 1e-9 (tests/metrics).
    """
    return _of_each_class(_envelope_average_precision, logits, targets)


def _of_each_class(figure: Callable[[np.ndarray, np.ndarray], float], logits: Tensor, targets: Tensor) -> Tensor:
    check_shapes(logits, targets)
    result = np.empty(logits.shape[1])
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as threads:  # NumPy releases the GIL in its long calls
        for start, scores, labels in class_blocks(logits, targets):
            result[start : start + len(scores)] = list(threads.map(figure, scores, labels))
    return torch.from_numpy(result)


def micro_average_precision(logits: Tensor, targets: Tensor) -> float:
    """Return the average precision of all known entries as one ranking; NaN without a positive.

    Arguments and errors as `average_precision`; equals scikit-learn's `average="micro"` to 1e-9.
    """
    check_shapes(logits, targets)
    refuse_nan(logits)
    labels = to_labels(targets).reshape(-1)
    refuse_other_labels(labels)
    return ranking_average_precision(to_scores(logits).reshape(-1), labels)


def check_shapes(logits: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless both are `(images, classes)` and the logits floating point."""
    if logits.dim() != 2 or logits.shape != targets.shape:
        found = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"logits and targets must both be (images, classes); got {found}")
    if not logits.is_floating_point():
        raise ValueError(f"logits must be floating point, not {logits.dtype}")


def to_scores(logits: Tensor) -> np.ndarray:
    """Return the logits in fp32, or fp64 if they are fp64, on the CPU; a view if nothing has to change."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return logits.detach().to("cpu", dtype).numpy()


def to_labels(targets: Tensor) -> np.ndarray:
    """Return the targets in int8 on the CPU; a view if nothing has to change.

    Raises:
        ValueError: int8 cannot hold a target exactly.
    """
    return to_int8(targets.detach().cpu()).numpy()


def to_int8(targets: Tensor) -> Tensor:
    """Return the targets in int8 on their own device. ValueError: int8 cannot hold a target exactly."""
    labels = targets.to(torch.int8)
    if labels.dtype == targets.dtype:
        return labels
    # An unsigned 255 becomes -1, and -1 becomes 255 again: compare the sign, too.
    unsigned = not targets.dtype.is_signed and bool((labels < 0).any())
    if unsigned or not torch.equal(labels.to(targets.dtype), targets):
        raise ValueError(WRONG_TARGETS)
    return labels


def refuse_other_labels(labels: np.ndarray) -> None:
    """Raise ValueError unless all labels are 1, 0 or -1."""
    if labels.size and (labels.min() < -1 or labels.max() > 1):
        raise ValueError(WRONG_TARGETS)


def refuse_nan(logits: Tensor) -> None:
    """Raise ValueError if a logit is NaN; the message says how many are."""
    if not logits.numel() or not bool(logits.detach().amin().isnan()):  # amin propagates NaN, and is far cheaper
        return
    rows = max(1, BLOCK_ENTRIES // max(1, logits.shape[1]))
    nans = sum(int(torch.isnan(part).sum()) for part in logits.split(rows))
    if nans:
        raise ValueError(f"{nans} of {logits.numel()} logits are NaN: they cannot be ranked")


def class_blocks(logits: Tensor, targets: Tensor) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (first class, scores, labels) with one contiguous row per class, a bounded number of entries at a time."""
    images, classes = logits.shape
    step = max(1, BLOCK_ENTRIES // max(1, images))
    for start in range(0, classes, step):
        block = slice(start, start + step)
        scores = _transposed(to_scores(logits[:, block]))
        if scores.size and np.isnan(scores.min()):
            refuse_nan(logits)
        labels = _transposed(to_labels(targets[:, block]))
        refuse_other_labels(labels)
        yield start, scores, labels


def _transposed(array: np.ndarray) -> np.ndarray:
    """Return a contiguous copy of `array.T`, made in tiles that fit the cache: about three times as fast as at once."""
    result = np.empty(array.shape[::-1], dtype=array.dtype)
    for row in range(0, len(array), 512):
        result[:, row : row + 512] = array[row : row + 512].T
    return result


def ranking_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the average precision of one ranking `(N,)`; NaN without a positive."""
    precision = _precision_at_positives(scores, labels)
    return float(precision.sum() / precision.size) if precision.size else float("nan")


def _envelope_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    precision = _precision_at_positives(scores, labels)
    # Scores ascend, so recall falls along the array, and the envelope is the running maximum.
    return float(np.maximum.accumulate(precision).mean()) if precision.size else float("nan")


def _precision_at_positives(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the precision at the score of each positive of a ranking `(N,)`, from the lowest score to the highest."""
    positives = np.sort(scores[labels == 1])
    if positives.size == 0:
        return positives
    known = labels >= 0
    if not known.all():
        scores = scores[known]
    positives_at_or_above = positives.size - np.searchsorted(positives, positives)
    return positives_at_or_above / count_at_or_above(scores, positives)


def count_at_or_above(scores: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return, for each of the sorted `wanted` (a subset of the scores), the number of scores at or above it.

    Scores fall into equal buckets over the range of `wanted`. Buckets without a wanted score are only counted; scores
    in the other buckets, few unless the wanted ones crowd together, are sorted. Rounding cannot make the result wrong:
    the bucket is a monotone function of the score, and equal scores share it.
    """
    low, high = float(wanted[0]), float(wanted[-1])
    spread = high - low
    if scores.size < 2048 or not 1e-30 < spread < 1e30:  # small, all tied, or infinite
        ordered = np.sort(scores)
        return scores.size - np.searchsorted(ordered, wanted)
    buckets = min(scores.size, 1 << 20)
    margin = spread / buckets  # scores outside the range get buckets of their own
    bounds = np.array([low - margin, high + margin], dtype=scores.dtype)
    scale = scores.dtype.type(buckets / spread)

    def bucket(values: np.ndarray) -> np.ndarray:
        scaled = np.clip(values, bounds[0], bounds[1])
        scaled -= bounds[0]
        scaled *= scale
        return scaled.astype(np.int64)

    wanted_numbers = bucket(wanted)
    mixed = np.zeros(buckets + 8, dtype=bool)
    mixed[wanted_numbers] = True
    counts: np.ndarray | int = 0
    near_parts = []
    for start in range(0, scores.size, BLOCK_ENTRIES):
        part = scores[start : start + BLOCK_ENTRIES]
        numbers = bucket(part)
        found = np.bincount(numbers, minlength=mixed.size)
        counts = found if start == 0 else counts + found
        near_parts.append(part.take(np.flatnonzero(mixed.take(numbers))))  # faster than indexing by a mask
    near = np.sort(near_parts[0] if len(near_parts) == 1 else np.concatenate(near_parts))
    assert isinstance(counts, np.ndarray)  # there are scores
    counts[wanted_numbers] = 0
    below = counts.cumsum()
    return (near.size - np.searchsorted(near, wanted)) + (below[-1] - below[wanted_numbers])
