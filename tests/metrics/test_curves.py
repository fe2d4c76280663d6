"""Promises of counts over thresholds: what a PR curve is drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mltrain.metrics import curves
from mltrain.metrics.curves import counts_by_threshold
from mltrain.metrics.entries import KnownEntries

GROUPS = {"head": np.array([0, 3]), "tail": np.array([1])}


def _data(unknown: float = 0.2, n: int = 300, c: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, c, generator=generator)
    targets = (torch.rand(n, c, generator=generator) < 0.3).to(torch.int8)
    return logits, targets.masked_fill_(torch.rand(n, c, generator=generator) < unknown, -1)


def _by_hand(probabilities: torch.Tensor, targets: torch.Tensor, columns: list[int], thresholds: int) -> np.ndarray:
    p, t = (part[:, columns].numpy() for part in (probabilities, targets))
    steps = np.floor(p * np.float32(thresholds - 1))
    return np.array([[((steps >= k) & (t == label)).sum() for k in range(thresholds)] for label in (1, 0)])


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("unknown", [0.0, 0.2])
def test_counts_are_those_made_by_hand(softmax: bool, unknown: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_CHUNK", 64)
    logits, targets = _data(unknown)
    probabilities = logits.softmax(1) if softmax else logits.sigmoid()
    found = counts_by_threshold(logits, targets, groups=GROUPS, thresholds=11, softmax=softmax)
    assert list(found) == ["micro", "head", "tail"]
    for name, columns in (("micro", [0, 1, 2, 3, 4]), ("head", [0, 3]), ("tail", [1])):
        np.testing.assert_array_equal(found[name], _by_hand(probabilities, targets, columns, 11))


def test_known_entries_count_as_all_predictions_do() -> None:
    logits, targets = _data(0.7)
    known = KnownEntries.from_batch(logits, targets)
    for name, counts in counts_by_threshold(known, groups=GROUPS).items():
        np.testing.assert_array_equal(counts, counts_by_threshold(logits, targets, groups=GROUPS)[name])


def test_what_cannot_be_counted_is_refused() -> None:
    logits, targets = _data()
    with pytest.raises(ValueError, match="need targets"):
        counts_by_threshold(logits, groups={})
    with pytest.raises(ValueError, match="softmax"):
        counts_by_threshold(KnownEntries.from_batch(logits, targets), groups={}, softmax=True)
