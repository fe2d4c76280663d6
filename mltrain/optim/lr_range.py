"""Learning-rate range test: the loss while the rate climbs from far too low to far too high, and the rate to choose.

Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186, section 3.3, with a rate that grows
geometrically and one suggested rate at the end, as fastai made it common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mltrain.text import counted

_EDGE = 0.1  # share of the first steps, whose mean loss is the level before the fall


class LrRange:
    """A schedule (`mltrain.optim.schedules`) that multiplies the rate by the same factor at each step.

    Args:
        peak: the rate at a factor of 1 (`optimizer.lr`); groups keep their multipliers.
        start, end: first and last rate, 0 < start < end.
        steps: at least 2.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, peak: float, start: float, end: float, steps: int) -> None:
        if peak <= 0 or not 0 < start < end or steps < 2:
            raise ValueError(f"0 < start={start} < end={end}, peak={peak} > 0 and steps={steps} >= 2 must hold")
        self.peak, self.start, self.steps = peak, start, steps
        self._growth = math.log(end / start) / (steps - 1)

    def lr(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        return self.start * math.exp(self._growth * min(step, self.steps - 1))

    def at(self, step: int) -> tuple[float, float | None]:
        return self.lr(step) / self.peak, None


class Divergence:
    """Detects divergence: a running mean of the loss that is far above its minimum.

    The mean is exponential (weight 0.8 on the past, corrected for its start). Far means three times the magnitude of
    the lowest mean, or of a tenth of the first mean if that is more: a positive loss stops at four times its minimum.
    """

    def __init__(self) -> None:
        self._sum = self._weight = 0.0
        self._first: float | None = None
        self._lowest = math.inf

    def __call__(self, loss: float) -> bool:
        """Return whether the loss of a further step shows divergence."""
        if not math.isfinite(loss):
            return True
        self._sum, self._weight = 0.8 * self._sum + 0.2 * loss, 0.8 * self._weight + 0.2
        mean = self._sum / self._weight
        self._first = mean if self._first is None else self._first
        self._lowest = min(self._lowest, mean)
        return mean > self._lowest + 3 * max(abs(self._lowest), 0.1 * abs(self._first))


@dataclass(frozen=True)
class Suggestion:
    """The result of a range test."""

    smoothed: np.ndarray
    """(n,) the losses, smoothed"""
    steepest: float
    """rate at which the smoothed loss falls fastest, before its minimum"""
    lowest: float
    """rate at which the smoothed loss is lowest"""
    lr: float
    """the smaller of `steepest` and a tenth of `lowest`"""

    @property
    def reason(self) -> str:
        """Explanation of `lr`."""
        tenth = self.lowest / 10
        which = "the steepest descent" if self.lr == self.steepest else "a tenth of the rate of the lowest loss"
        return (
            f"{which}, the smaller of two: steepest descent at {self.steepest:.1e}; lowest loss at {self.lowest:.1e}, "
            f"a tenth of which is {tenth:.1e}"
        )


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> Suggestion | None:
    """Suggest a rate to train with, or None if the loss did not fall by more than its noise.

    The loss is smoothed by a Gaussian window over neighbouring steps (standard deviation 3 % of the steps, at least 1),
    which, unlike a running mean, does not shift the curve to higher rates. There are two common rules, the steepest
    descent and a tenth of the rate at the minimum; the suggestion is the smaller rate.

    Args:
        lrs, losses: (n,) in the order of the steps, the rates growing by the same factor.

    Raises:
        ValueError: fewer than 10 steps, or a loss that is not finite.
    """
    x, y = np.log10(np.asarray(lrs, dtype=np.float64)), np.asarray(losses, dtype=np.float64)
    if len(x) != len(y) or len(y) < 10:
        raise ValueError(f"{len(x)} rates and {len(y)} losses: a suggestion needs at least 10 of each")
    if not np.isfinite(y).all():
        raise ValueError("a loss is not finite")
    smooth, low, fall, least = _fall(y)
    if low < 3 or fall <= least:
        return None
    slope = np.gradient(smooth, x)[: low + 1]
    steepest, lowest = float(10 ** x[int(np.argmin(slope))]), float(10 ** x[low])
    return Suggestion(smooth, steepest, lowest, min(steepest, lowest / 10))


def remedy(lrs: Sequence[float], losses: Sequence[float], steps: int) -> str:
    """Return what to change in a test of `steps` steps that gave no suggestion, as an argument where one helps."""
    lower = max((lrs[0] if lrs else 1e-6) / 1000, 1e-12)
    if len(lrs) < 10:
        return f"it ended after {counted(len(lrs), 'step')}; begin at a lower rate: start={lower:.0e}"
    _, low, fall, least = _fall(np.asarray(losses, dtype=np.float64))
    if low < 3:
        return f"it only rose, so its minimum is at the start; begin at a lower rate: start={lower:.0e}"
    # The noise of a mean falls with the root of the steps; a third is added to be safe.
    factor = (least / fall) ** 2 * 4 / 3 if fall > 0 else math.inf
    if factor <= 20:
        more = math.ceil(steps * factor / 10) * 10
        return f"it fell by {fall:.3g}, and {least:.3g} would be enough; take more steps: steps={more}"
    return (
        "it does not fall at any rate, and more steps will not help: look whether images and labels fit, with mltrain "
        "inspect_batch and the arguments of the training"
    )


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """Return the losses as `suggest` smooths them."""
    values = np.asarray(losses, dtype=np.float64)
    return _smoothed(values, _width(len(values)))


def _fall(y: np.ndarray) -> tuple[np.ndarray, int, float, float]:
    """Return the smoothed losses, the place of their minimum, how far they fall to it, and what is more than noise."""
    width = _width(len(y))
    smooth = _smoothed(y, width)
    low = int(np.argmin(smooth))
    edge = max(3, int(_EDGE * len(y)))
    level = float(y[:edge].mean())
    before = y[: max(low + 1, len(y) // 2)]
    sigma = float(np.median(np.abs(np.diff(before)))) / (0.6745 * math.sqrt(2))
    # A Gaussian mean has the variance of a plain one over 2 sqrt(pi) widths; the lowest of many stays within 4 sigma.
    noise = sigma * math.sqrt(1 / (2 * math.sqrt(math.pi) * width) + 1 / edge)
    return smooth, low, level - float(smooth[low]), max(4 * noise, 1e-6 * abs(level))


def _width(steps: int) -> float:
    """Return the standard deviation of the smoothing, in steps."""
    return max(1.0, 0.03 * steps)


def _smoothed(values: np.ndarray, width: float) -> np.ndarray:
    """Return Gaussian means of neighbouring values; near the ends, over the values that exist."""
    reach = np.arange(len(values))
    weights = np.exp(-0.5 * ((reach[:, None] - reach[None]) / width) ** 2)
    return weights @ values / weights.sum(axis=1)
