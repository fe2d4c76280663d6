"""Figures of one's own, beside those of `summarize`."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from mltrain.errors import MltrainError, described
from mltrain.metrics.summary import Summary

OwnMetric = Callable[[Tensor, Tensor], Mapping[str, float]]
"""(logits fp32 (N, C), targets int8 (N, C) of 1, 0, -1) -> value by name"""


EMPTY: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class SummarizeWithOwn:
    """`summarize` of a task, with the figures of one's own metrics added to its scalars."""

    summarize: Callable[..., Summary]
    metrics: Sequence[tuple[str, OwnMetric]]
    """each with the name that messages use"""
    names: dict[str, None] = field(default_factory=dict)
    """of the figures that they gave so far"""

    def __call__(self, logits: Tensor, targets: Tensor, **settings: Any) -> Summary:
        """Evaluate predictions, see `summarize`.

        Raises:
            MltrainError: a metric of one's own failed, or gave something other than numbers by new names.
        """
        summary = self.summarize(logits, targets, **settings)
        own = self.own(logits, targets, summary.scalars)
        self.names.update(dict.fromkeys(own))
        return replace(summary, scalars={**summary.scalars, **own})

    def own(self, logits: Tensor, targets: Tensor, taken: Mapping[str, float] = EMPTY) -> dict[str, float]:
        """Return the figures of one's own metrics alone, whose names must not be among `taken`; raises the same."""
        found: dict[str, float] = {}
        for where, metric in self.metrics:
            try:
                figures = metric(logits, targets)
            except Exception as error:
                raise MltrainError(f"{where} failed: {described(error)}") from error
            if not isinstance(figures, Mapping):
                raise MltrainError(f"{where} returned {figures!r:.100}; it returns a dict, e.g. {{'my_figure': 12.5}}")
            for name, value in figures.items():
                found[_new_name(where, name, {**taken, **found})] = _number(where, name, value)
        return found


def _new_name(where: str, name: Any, taken: Mapping[str, float]) -> str:
    if not isinstance(name, str) or not name.replace("@", "_").isidentifier():
        raise MltrainError(f"{where} returned the name {name!r}; a name is a word of letters, digits and _")
    if name in taken:
        raise MltrainError(f"{where} returned {name}, which is a figure already; choose another name")
    return name


def _number(where: str, name: str, value: Any) -> float:
    with contextlib.suppress(AttributeError, ValueError, RuntimeError):
        value = value.item()  # of a tensor or an array
    if not isinstance(value, numbers.Real):
        raise MltrainError(f"{where} returned {name}={value!r:.100}; a figure is one number")
    return float(value)
