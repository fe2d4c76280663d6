"""Start of a classifier's bias."""

from __future__ import annotations

import math


def bias_start(prior: float | None) -> float:
    """The bias at which a sigmoid answers `prior`, 0 for None: -ln((1 - prior) / prior).

    Lin et al., Focal Loss, arXiv 1708.02002, section 3.3.
    """
    if prior is None:
        return 0.0
    if not 0 < prior < 1:
        raise ValueError(f"prior={prior}: must be above 0 and below 1, or None")
    return -math.log((1 - prior) / prior)
