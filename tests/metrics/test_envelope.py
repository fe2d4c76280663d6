"""Envelope average precision against the area under a curve drawn threshold by threshold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mltrain.metrics import average_precision
from mltrain.metrics.average_precision import envelope_average_precision


def area(scores: list[float], labels: list[int]) -> float:
    """For every recall that is reached, the best precision at that recall or a higher one."""
    known = [(score, label) for score, label in zip(scores, labels, strict=True) if label >= 0]
    positives = sum(label for _, label in known)
    curve = []
    for threshold in sorted({score for score, _ in known}, reverse=True):
        taken = [label for score, label in known if score >= threshold]
        curve.append((sum(taken) / positives, sum(taken) / len(taken)))
    total, before = 0.0, 0.0
    for recall, _ in curve:
        best = max(precision for other, precision in curve if other >= recall)
        total += (recall - before) * best
        before = recall
    return total


def some(seed: int, *, ties: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(60, 5, generator=generator)
    targets = torch.multinomial(torch.tensor([0.2, 0.5, 0.3]), 300, True, generator=generator).view(60, 5) - 1
    return (logits * 2).round() / 2 if ties else logits, targets


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_envelope_average_precision_is_the_area_under_the_raised_curve(seed: int, ties: bool) -> None:
    logits, targets = some(seed, ties=ties)
    expected = [area(logits[:, k].tolist(), targets[:, k].tolist()) for k in range(5)]
    torch.testing.assert_close(
        envelope_average_precision(logits, targets), torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_it_is_never_below_plain_average_precision_and_nan_without_positives() -> None:
    logits, targets = some(2, ties=False)
    targets[:, 4] = 0
    raised, plain = envelope_average_precision(logits, targets), average_precision(logits, targets)
    assert (raised[:4] >= plain[:4]).all() and (raised[:4] > plain[:4]).any()
    assert raised[4].isnan()


def test_a_known_ranking() -> None:
    logits, targets = torch.tensor([[4.0], [3.0], [2.0], [1.0]]), torch.tensor([[0], [1], [1], [0]])
    assert average_precision(logits, targets).item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert envelope_average_precision(logits, targets).item() == pytest.approx(2 / 3)
