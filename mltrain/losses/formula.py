"""Building blocks of per-label formulas, exact where the textbook expressions round, overflow or give 0 * inf.

In eager mode these are torch's own functions. Inside a compiled kernel they are made of a single exponential, which
all of them share, and on the CPU of polynomials: calls into the math library would keep the loop from being vectorised.
"""

from __future__ import annotations

import math
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
        exp = _exp_of_minus(z.abs())
        large, log = 1 / (1 + exp), _log1p_in_unit(exp)
        small = exp * large
        p, q = torch.where(z >= 0, large, small), torch.where(z >= 0, small, large)
        slope = large * small
        self.p, self.q = _with_slope(p, slope, x), _with_slope(q, -slope, x)
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
    u = (s.q + clip).clamp(max=1)  # q, as its derivative is exact where the loss is large
    return 1 - u, log(u)


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


def log(x: Tensor) -> Tensor:
    """Return the logarithm of a normal number x > 0, in compiled fp32 on the CPU to 2e-7 + 2e-7 relative."""
    if not _needs_polynomials(x):
        return torch.log(x)
    z = x.detach()
    bits = z.view(torch.int32)
    power = bits - _ROOT_HALF & -(1 << 23)  # 2**23 n, where z is between sqrt(1/2) and sqrt(2) times 2**n
    rest = (bits - power).view(torch.float32) - 1
    value = rest * _polynomial(rest, _LOG) + power.to(torch.float32) * (math.log(2) / (1 << 23))
    return _with_slope(value, 1 / z, x)


def _with_slope(value: Tensor, slope: Tensor, x: Tensor) -> Tensor:
    """Attach a derivative in x to a value that was computed without one: adds ``slope * (x - x)``, which is 0."""
    return value + slope * (x - x.detach())


def _needs_polynomials(x: Tensor) -> bool:
    return torch.compiler.is_compiling() and x.dtype is torch.float32 and x.device.type == "cpu"


# Polynomials of the least relative error among those exact at 0 (found by reweighted least squares, Lawson 1961):
# 3e-9 for exp(x), |x| <= log(2) / 2, and 3e-8 for log(1 + x) / x, sqrt(1/2) <= 1 + x <= sqrt(2), and 0 <= x <= 1.
_EXP = (1, 1, 0.49999993, 0.16666521, 0.041668393, 0.008368716, 0.0013814639)
_LOG = (1, -0.49999992, 0.3333395, -0.25001755, 0.19962072, -0.16570508, 0.14917973, -0.14307522, 0.087348441)
_LOG1P = (1, -0.49999648, 0.33321323, -0.24857164, 0.19153655, -0.13753803, 0.079204548, -0.0300658, 0.00536483)
_ROOT_HALF = 0x3F3504F3  # sqrt(1/2), read as an integer
_LN2_HIGH = 0.693359375  # log(2) to nine bits: any multiple needed is exact in fp32


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Evaluate the polynomial at x, lowest coefficient first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def _exp_of_minus(x: Tensor) -> Tensor:
    """Return exp(-x) for x >= 0, in compiled fp32 on the CPU to 1e-7 relative, and from 87 on exp(-87), about 2e-38."""
    if not _needs_polynomials(x):
        return torch.exp(-x)
    x = x.clamp(max=87)  # the smallest normal number
    exponent = torch.round(x * (-1 / math.log(2)))
    rest = -x - exponent * _LN2_HIGH - exponent * (math.log(2) - _LN2_HIGH)  # at most log(2) / 2 from 0
    return _polynomial(rest, _EXP) * (exponent.int() + 127 << 23).view(torch.float32)


def _log1p_in_unit(x: Tensor) -> Tensor:
    """Return log(1 + x) for x in [0, 1], in compiled fp32 on the CPU to 2e-7 relative."""
    return x * _polynomial(x, _LOG1P) if _needs_polynomials(x) else torch.log1p(x)
