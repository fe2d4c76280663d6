"""Building blocks of per-label formulas, exact where the textbook expressions round, overflow or give 0 * inf.

In eager mode these are torch's own functions. Inside a compiled kernel they are made of a single exponential, which
all of them share, and on the CPU of polynomials: calls into the math library would keep the loop from being vectorised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 1e30
"""Bound of the logits a formula sees: infinity times 0 would be NaN."""
TINY = 1e-30

_EAGER: dict[str, Callable[[Tensor], Tensor]] = {
    "p": torch.sigmoid,
    "q": lambda x: torch.sigmoid(-x),
    "log_p": F.logsigmoid,
    "log_q": lambda x: F.logsigmoid(-x),
}


class Sigmoid:
    """p = sigmoid(x), q = 1 - p, log p and log q of logits x, each computed when it is first read."""

    p: Tensor
    q: Tensor
    log_p: Tensor
    log_q: Tensor

    def __init__(self, x: Tensor) -> None:
        self.x = x
        if not torch.compiler.is_compiling():
            return
        # The compiler drops what is not used, and computes once what two formulas have in common.
        z = x.detach()
        exp = torch.exp(-z.abs())
        inverse, log = 1 / (1 + exp), _log1p_in_unit(exp)
        p, q = torch.where(z >= 0, 1, exp) * inverse, torch.where(z >= 0, exp, 1) * inverse
        self.p, self.q = _with_slope(p, p * q, x), _with_slope(q, -p * q, x)
        self.log_p, self.log_q = _with_slope(z.clamp(max=0) - log, q, x), _with_slope(-z.clamp(min=0) - log, -p, x)

    def __getattr__(self, name: str) -> Tensor:
        if name not in _EAGER:
            raise AttributeError(name)
        value = _EAGER[name](self.x)
        setattr(self, name, value)
        return value


def shifted(s: Sigmoid, clip: float) -> tuple[Tensor, Tensor]:
    """Return p_m = max(p - clip, 0) and log(1 - p_m)."""
    if clip == 0:
        return s.p, s.log_q
    p = torch.relu(1 - clip - s.q)  # autograd differentiates q exactly where the loss is large, and p where it is small
    if not torch.compiler.is_compiling():
        return p, torch.log1p(-p)
    z = p.detach()
    u = 1 - z
    # Where 1 - z was rounded, a first-order term corrects the logarithm; log1p itself would not be vectorised.
    log = torch.log(u) + ((1 - u) - z) / u
    return p, _with_slope(log, -1 / u, p)


def focused(loss: Tensor, base: Tensor, gamma: float, *, detach: bool = False) -> Tensor:
    """Return ``loss * base**gamma`` for base >= 0; with `detach` the power is constant in the gradient."""
    if gamma == 0:
        return loss
    return loss * power(base.detach() if detach else base, gamma)


def power(base: Tensor, exponent: float) -> Tensor:
    """Return ``base**exponent`` for base >= 0, by squaring where possible: torch's pow is 20 times slower."""
    if exponent < 1:
        base = base.clamp(min=TINY)  # the derivative is infinite at 0, and would be NaN times 0
    while exponent >= 2 and exponent % 2 == 0:
        base = base * base
        exponent /= 2
    return base if exponent == 1 else base**exponent


def sigmoid(x: Tensor) -> Tensor:
    """Return the sigmoid of x where no gradient is needed."""
    return torch.sigmoid(x)


def _with_slope(value: Tensor, slope: Tensor, x: Tensor) -> Tensor:
    """Attach a derivative in x to a value that was computed without one: adds ``slope * (x - x)``, which is 0."""
    return value + slope * (x - x.detach())


# Polynomial of the least relative error among those exact at 0, 3e-8 for log(1 + x) / x with 0 <= x <= 1 (found by
# reweighted least squares, Lawson 1961). The library's log1p is not vectorised: it takes 50 times as long.
_LOG1P = (1, -0.49999648, 0.33321323, -0.24857164, 0.19153655, -0.13753803, 0.079204548, -0.0300658, 0.00536483)


def _log1p_in_unit(x: Tensor) -> Tensor:
    """Return log(1 + x) for x in [0, 1], in fp32 on the CPU to 2e-7 relative."""
    if x.dtype is not torch.float32 or x.device.type != "cpu":
        return torch.log1p(x)
    value = torch.full_like(x, _LOG1P[-1])
    for coefficient in _LOG1P[-2::-1]:
        value = value * x + coefficient
    return x * value
