"""Mean of the probabilities of several predictions of the same images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_logits(logits: Sequence[Tensor], *, single_label: bool) -> Tensor:
    """Return the logits, fp32 (B, C), whose probabilities are the mean of those of the given logits (B, C).

    Everything that takes the logits of one model takes these. They are computed in fp64 from logarithms, so that
    probabilities next to 0 and 1 stay apart: ``log mean p = logsumexp(log p) - log K``, and the same for ``1 - p``.

    Args:
        single_label: probabilities are the softmax over the classes; the result is their logarithm. Otherwise they are
            sigmoids, and the result is ``log mean p - log mean (1 - p)``.
    """
    if len(logits) == 1:
        return logits[0].float()
    device = logits[0].device
    place = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs know no fp64
    stacked = torch.stack([item.to(place).double() for item in logits])
    if single_label:
        mean = _log_mean(stacked.log_softmax(-1))
    else:
        mean = _log_mean(F.logsigmoid(stacked)) - _log_mean(F.logsigmoid(-stacked))
    return mean.float().to(device)


def _log_mean(logs: Tensor) -> Tensor:
    return logs.logsumexp(0) - torch.log(torch.tensor(float(len(logs)), dtype=logs.dtype, device=logs.device))
