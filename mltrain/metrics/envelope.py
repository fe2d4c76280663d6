"""Average precision as Pascal VOC has it since 2010: the area under the envelope of precision over recall."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mltrain.metrics.average_precision import check_shapes, class_blocks, count_at_or_above


def envelope_average_precision(logits: Tensor, targets: Tensor) -> Tensor:
    """Average precision of each class with every precision raised to the best at that recall or a higher one.

        AP = sum over positives of max(precision at it or at any positive ranked below it) / n_positives

    Query2Label's figures are of this kind; it is never below `average_precision`, which the ASL family, CSRA and
    scikit-learn use. Arguments, ties, result and errors as there.

    Compared with the area computed from a precision-recall curve of every threshold: equal to 1e-9 (tests/metrics).
    """
    check_shapes(logits, targets)
    result = np.full(logits.shape[1], np.nan)
    for start, scores, labels in class_blocks(logits, targets):
        for k, (ranking, truth) in enumerate(zip(scores, labels, strict=True)):
            positives = np.sort(ranking[truth == 1])
            if not positives.size:
                continue
            at_or_above = positives.size - np.searchsorted(positives, positives)
            precision = at_or_above / count_at_or_above(ranking[truth >= 0], positives)
            # ascending scores: recall falls along the array, and the envelope is the running maximum
            result[start + k] = np.maximum.accumulate(precision).mean()
    return torch.from_numpy(result)
