"""Learning-rate schedules as pure functions of the optimizer step, so resuming needs no state.

`schedule.at(step)` returns (factor of each group's `initial_lr`, which is the peak; momentum, or None to leave it
unchanged). Steps are optimizer steps, counted from 0. Steps beyond the end repeat the last one. `epochs` may exceed
the epochs of the run: ASL trains 41 epochs of an 80-epoch one-cycle and never reaches its low end.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch


class Schedule(Protocol):
    """The interface of a schedule."""

    def at(self, step: int) -> tuple[float, float | None]: ...


@dataclass(kw_only=True, eq=False)
class OneCycle:
    """One-cycle (Smith and Topin, arXiv 1708.07120), equal to `torch.optim.lr_scheduler.OneCycleLR` to 1e-12.

    The factor climbs from 1 / div_factor to 1 over the first `pct_start` of all steps, then falls to
    1 / (div_factor * final_div_factor). With `cycle_momentum`, momentum (beta1 of Adam) runs the other way, from
    `max_momentum` to `base_momentum` and back: torch's default, which the ASL and ML-Decoder papers used.
    """

    steps_per_epoch: int
    epochs: int
    pct_start: float = 0.2
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    anneal: Literal["cos", "linear"] = "cos"

    def __post_init__(self) -> None:
        self.total_steps = _total_steps(self.steps_per_epoch, self.epochs)
        if not 0 <= self.pct_start <= 1:
            raise ValueError(f"pct_start must lie in 0..1, got {self.pct_start}")
        factors, momentum = (self.div_factor, self.final_div_factor), (self.base_momentum, self.max_momentum)
        if not all(0 < factor < math.inf for factor in factors):
            raise ValueError("div_factor and final_div_factor must be above 0 and finite, got {}, {}".format(*factors))
        if not 0 <= momentum[0] <= momentum[1] < 1:
            raise ValueError("0 <= base_momentum <= max_momentum < 1 is required, got {} and {}".format(*momentum))
        if self.anneal not in ("cos", "linear"):
            raise ValueError(f"anneal must be cos or linear, got {self.anneal!r}")
        self._between = _cosine if self.anneal == "cos" else _linear
        self._peak = self.pct_start * self.total_steps - 1.0
        self._start = 1.0 / self.div_factor
        self._end = self._start / self.final_div_factor

    def at(self, step: int) -> tuple[float, float | None]:
        step = _clamp(step, self.total_steps)
        last = self.total_steps - 1
        rising = step <= self._peak or self._peak >= last
        if rising:
            fraction = step / self._peak if self._peak > 0 else 1.0
            factor = self._between(self._start, 1.0, fraction)
        else:
            # If the warm-up is shorter than one step, the peak is before step 0; torch begins the descent there too.
            fraction = (step - self._peak) / (last - self._peak)
            factor = self._between(1.0, self._end, fraction)
        if not self.cycle_momentum:
            return factor, None
        high, low = self.max_momentum, self.base_momentum
        return factor, self._between(high, low, fraction) if rising else self._between(low, high, fraction)


@dataclass(kw_only=True, eq=False)
class _WarmUp:
    """Base of schedules that begin with a linear climb from `warmup_start` to 1.

    It lasts `warmup_steps`, or `warmup_epochs` (a fraction is allowed) if that is None.
    """

    steps_per_epoch: int
    epochs: int
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        self.total_steps = _total_steps(self.steps_per_epoch, self.epochs)
        epochs, steps = self.warmup_epochs, self.warmup_steps
        if not 0 <= epochs < math.inf or (steps is not None and steps < 0):
            raise ValueError(f"warmup_epochs and warmup_steps must be 0 or more, got {epochs} and {steps}")
        if epochs and steps is not None:
            raise ValueError(f"give warmup_epochs or warmup_steps, not both (got {epochs} and {steps})")
        if not 0 <= self.warmup_start <= 1:
            raise ValueError(f"warmup_start must lie in 0..1 (a factor of the peak lr), got {self.warmup_start}")
        self._climb = round(epochs * self.steps_per_epoch) if steps is None else steps

    def _warm(self, step: int) -> float:
        start = self.warmup_start
        return 1.0 if step >= self._climb else start + (1.0 - start) * step / self._climb


@dataclass(kw_only=True, eq=False)
class Cosine(_WarmUp):
    """Linear warm-up from `warmup_start` to 1, then a half cosine to `final` (Loshchilov and Hutter, arXiv
    1608.03983, without restarts).

    Equal to torch's `LinearLR` followed by `CosineAnnealingLR` over the remaining steps to 1e-12. The warm-up lasts
    `warmup_steps`, or `warmup_epochs` (a fraction is allowed) if that is None.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._climb >= self.total_steps:
            raise ValueError(
                f"the warm-up of {self._climb} steps is not shorter than the schedule ({self.total_steps} steps)"
            )
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must lie in 0..1 (a factor of the peak lr), got {self.final}")

    def at(self, step: int) -> tuple[float, float | None]:
        step = _clamp(step, self.total_steps)
        if step < self._climb:
            return self._warm(step), None
        return _cosine(1.0, self.final, (step - self._climb) / (self.total_steps - self._climb)), None


@dataclass(kw_only=True, eq=False)
class MultiStep(_WarmUp):
    """Multiplies the factor by `gamma` at each of `milestones` (epochs, a fraction is allowed), after a linear warm-up.

    The factor of the warm-up multiplies that of the schedule, as in mmcv, which Distribution-Balanced Loss used
    (milestones 5 and 7 of 8 epochs, 500 warm-up steps from 1/3).
    """

    milestones: list[float]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        given = list(self.milestones)
        if not all(0 < milestone < math.inf for milestone in given) or sorted(set(given)) != given:
            raise ValueError(f"milestones must be epochs above 0 in increasing order, got {given}")
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be above 0 and finite, got {self.gamma}")
        self._steps = [round(milestone * self.steps_per_epoch) for milestone in given]

    def at(self, step: int) -> tuple[float, float | None]:
        step = _clamp(step, self.total_steps)
        return self._warm(step) * self.gamma ** bisect.bisect_right(self._steps, step), None


@dataclass(kw_only=True, eq=False)
class Constant(_WarmUp):
    """The peak in every step, after an optional linear warm-up."""

    def at(self, step: int) -> tuple[float, float | None]:
        return self._warm(_clamp(step, self.total_steps)), None


@dataclass(kw_only=True, eq=False)
class From:
    """A schedule that begins at step `start`."""

    schedule: Schedule
    start: int

    def at(self, step: int) -> tuple[float, float | None]:
        return self.schedule.at(step - self.start)


def apply(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> float:
    """Set lr, and momentum or beta1 if the schedule has one, of every group for `step`; return the factor.

    Call it before every optimizer step. A tensor (capturable or compiled optimizers) is filled in place, so that no
    graph breaks.
    """
    factor, momentum = schedule.at(step)
    for group in optimizer.param_groups:
        _set(group, "lr", group["initial_lr"] * factor)
        if momentum is None:
            continue
        if "betas" in group:
            beta1, *others = group["betas"]  # Adan has three
            if isinstance(beta1, torch.Tensor):
                beta1.fill_(momentum)
            else:
                group["betas"] = (momentum, *others)
        elif "momentum" in group:
            _set(group, "momentum", momentum)
    return factor


def _set(group: dict[str, Any], key: str, value: float) -> None:
    if isinstance(group[key], torch.Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


def _total_steps(steps_per_epoch: int, epochs: int) -> int:
    if steps_per_epoch < 1 or epochs < 1:
        raise ValueError(f"steps_per_epoch and epochs must be 1 or more, got {steps_per_epoch} and {epochs}")
    return steps_per_epoch * epochs


def _clamp(step: int, total: int) -> int:
    if step < 0:
        raise ValueError(f"step must be 0 or more, got {step}")
    return step if step < total else total - 1


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + math.cos(math.pi * fraction))


def _linear(start: float, end: float, fraction: float) -> float:
    return start + (end - start) * fraction
