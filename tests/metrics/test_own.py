"""Figures of the user beside ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mltrain.errors import MltrainError
from mltrain.metrics.own import SummarizeWithOwn
from mltrain.metrics.summary import summarize

LOGITS = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
TARGETS = torch.tensor([[1, 0], [0, 1]], dtype=torch.int8)


def with_own(metric: Any) -> SummarizeWithOwn:
    return SummarizeWithOwn(summarize, [("metrics.own.0 (mine.Mine)", metric)])


@pytest.mark.parametrize("value", [12.5, torch.tensor(12.5), np.float32(12.5), np.array([12.5])])
def test_a_figure_stands_beside_the_others(value: Any) -> None:
    own = with_own(lambda logits, targets: {"mine": value, "mine@3": logits.shape[0]})
    found, plain = own(LOGITS, TARGETS, topk=1), summarize(LOGITS, TARGETS, topk=1)
    assert found.scalars == {**plain.scalars, "mine": 12.5, "mine@3": 2.0}
    assert list(own.names) == ["mine", "mine@3"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"map": 1.0}, "returned map, which is a figure already"),
        ({"my figure": 1.0}, "a name is a word"),
        ({"mine": "good"}, "returned mine='good'; a figure is one number"),
        ({"mine": torch.zeros(2)}, "a figure is one number"),
        (3.0, "returned 3.0; it returns a dict"),
    ],
)
def test_what_is_no_figure_is_refused_by_name(answer: Any, expected: str) -> None:
    with pytest.raises(MltrainError, match=rf"metrics\.own\.0 \(mine\.Mine\) .*{expected}"):
        with_own(lambda logits, targets: answer)(LOGITS, TARGETS)


def test_a_metric_that_fails_is_named_with_its_line() -> None:
    with pytest.raises(MltrainError, match=r"failed: ZeroDivisionError.*\n.*test_own.py, line \d+"):
        with_own(lambda logits, targets: 1 / 0)(LOGITS, TARGETS)
