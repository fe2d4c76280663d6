"""The two terms of the focal family, on which BCE, focal loss and ASL stand.

    positive  L+ = -(1 - p)^g log p                    p = sigmoid(x)
    negative  L- = -p_m^g log(1 - p_m)                 p_m = max(p - m, 0), m the clip

with their derivatives in x, where the weight (1 - p)^g or p_m^g is either held constant ("detached") or differentiated
too. Everything is written so that no inf * 0 and no 0^negative can arise: logarithms come from softplus, or are bounded
by the clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 1e30  # stands for infinity where infinity would be multiplied by 0
TINY = 1e-30
_GRAIN = 32_768  # entries from which torch uses its threads
_HIGH = 80.0  # exp(x) is far from infinity up to here
_LARGEST = 87.0  # exp(-x) is a normal number of fp32 up to here
_ONE, _ROOT_HALF = 0x3F800000, 0x3F3504F3  # 1 and sqrt(1/2), read as integers
_LN2_HIGH = 0.693359375  # log(2) to nine bits, of which fp32 has any multiple needed exactly


def softplus(x: Tensor) -> Tensor:
    return F.softplus(x, 1, 50.0)  # torch's own threshold of 20 is 2e-9 off, visible in fp64


def sigmoid_and_softplus(x: Tensor, *, negated: bool = False, finite: bool = False) -> tuple[Tensor, Tensor]:
    """Of x, or of -x; if called as `finite`, maybe NaN at infinity, so that a compiled kernel need not care."""
    if not torch.compiler.is_compiling():
        x = -x if negated else x
        return torch.sigmoid(x), softplus(x)
    exp, p = _exp_and_sigmoid(x, negated, finite)
    return p, torch.relu(-x if negated else x) + _log1p_in_unit(exp)


def sigmoid(x: Tensor) -> Tensor:
    return _exp_and_sigmoid(x)[1] if torch.compiler.is_compiling() else torch.sigmoid(x)


def _exp_and_sigmoid(x: Tensor, negated: bool = False, finite: bool = False) -> tuple[Tensor, Tensor]:
    """exp(-|x|), one for all that is computed of x and -x in a kernel, and the sigmoid of x, or of -x."""
    size = x.abs()
    exp = _exp(-(size if finite else size.clamp(max=_LARGEST)))
    return exp, torch.where(x <= 0 if negated else x >= 0, 1, exp) * (1 / (1 + exp))


def finite_sigmoid_(x: Tensor) -> Tensor:
    """Of finite x, in place where that saves anything."""
    return 1 / (1 + _exp(-x)) if torch.compiler.is_compiling() else x.sigmoid_()


# Where a kernel is compiled, the library's functions are calls that the loop around them has to step aside for, and
# bounding a float takes four instructions for the sake of NaN, bounding an integer one.


def _exp(x: Tensor) -> Tensor:
    """exp(x), in fp32 on the CPU to 1e-7 relative, 0 from -88 down, not above 3e38, and maybe NaN at infinity."""
    if x.dtype is not torch.float32 or x.device.type != "cpu":
        return torch.exp(x)
    power = torch.round(x * (1 / math.log(2)))
    rest = x - power * _LN2_HIGH - power * (math.log(2) - _LN2_HIGH)  # at most log(2) / 2 from 0
    exponent = (power.int() + 127).clamp(0, 254)
    return _polynomial(rest, _EXP) * (exponent << 23).view(torch.float32)


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x) for x > -1, in fp32 on the CPU to 3e-7 relative."""
    if x.dtype is not torch.float32 or x.device.type != "cpu":
        return torch.log1p(x)
    power = (1 + x).view(torch.int32) - _ROOT_HALF & -(1 << 23)  # 2^23 n, where 2^-n (1 + x) is next to 1
    scale = (_ONE - power).view(torch.float32)
    rest = x * scale + (scale - 1)  # from sqrt(1/2) - 1 to sqrt(2) - 1, and x itself where n is 0
    return rest * _polynomial(rest, _LOG1P) + power.to(torch.float32) * (math.log(2) / (1 << 23))


def _log1p_in_unit(x: Tensor) -> Tensor:
    """log(1 + x) for x in [0, 1], in fp32 on the CPU to 2e-7 relative."""
    if x.dtype is not torch.float32 or x.device.type != "cpu":
        return torch.log1p(x)
    return x * _polynomial(x, _LOG1P_IN_UNIT)


# Polynomials of the least relative error among those exact at 0 (found by reweighted least squares, Lawson 1961):
# 3e-9 for exp(x), |x| <= log(2) / 2, and 3e-8 for log(1 + x) / x, sqrt(1/2) <= 1 + x <= sqrt(2), and 0 <= x <= 1.
_EXP = (1, 1, 0.49999993, 0.16666521, 0.041668393, 0.008368716, 0.0013814639)
_LOG1P = (1, -0.49999992, 0.3333395, -0.25001755, 0.19962072, -0.16570508, 0.14917973, -0.14307522, 0.087348441)
_LOG1P_IN_UNIT = (1, -0.49999648, 0.33321323, -0.24857164, 0.19153655, -0.13753803, 0.079204548, -0.0300658, 0.00536483)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The polynomial at x, its lowest coefficient first."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


def sigmoid_softplus(x: Tensor, p: Tensor, loss: Tensor) -> bool:
    """Write sigmoid(x) to `p`, which may be x, and softplus(x) to `loss`; all (n,), n > 0, on the CPU.

    Returns whether the losses are known to be far from infinity.
    """
    low = x.amax().item() <= _HIGH
    if not low or (torch.get_num_threads() > 1 and x.numel() > _GRAIN):
        torch.ops.aten.softplus.out(x, 1, 50.0, out=loss)
        torch.sigmoid(x, out=p)
        return low
    # NumPy's exp and log1p take 60 % of the time of torch's softplus, but have one thread, and exp must not overflow.
    exp = p.numpy()
    np.exp(x.numpy(), out=exp)
    np.log1p(exp, out=loss.numpy())
    p.reciprocal_().add_(1).reciprocal_()
    return low


def positive_term(x: Tensor, *, gamma: float, detach: bool) -> tuple[Tensor, Tensor]:
    """L+ and its derivative at the logits x (n,)."""
    value, slope = _focused(*sigmoid_and_softplus(x, negated=True), gamma, detach)
    return value, slope.neg_()


def negative_term(x: Tensor, *, gamma: float, clip: float, detach: bool, finite: bool = False) -> tuple[Tensor, Tensor]:
    """L- and its derivative at the logits x (n,); `finite` as in `sigmoid_and_softplus`."""
    if clip != 0:
        return _clipped(sigmoid(x), gamma, clip, detach)
    return _focused(*sigmoid_and_softplus(x, finite=finite), gamma, detach, finite)


def either_term(
    x: Tensor, y: Tensor, *, gamma_pos: float, gamma_neg: float, clip: float, detach: bool, finite: bool
) -> tuple[Tensor, Tensor]:
    """L+ where y is 1, L- where it is 0, and its derivative: in a compiled kernel with one exponential for both."""
    p, loss = sigmoid_and_softplus(x * either(y, -1, 1), finite=finite)
    positive, slope = _focused(p, loss, gamma_pos, detach, finite)
    terms = _clipped(p, gamma_neg, clip, detach) if clip != 0 else _focused(p, loss, gamma_neg, detach, finite)
    return torch.where(y > 0, positive, terms[0]), torch.where(y > 0, -slope, terms[1])


def either(y: Tensor, one: float, zero: float) -> Tensor:
    """The one where y is 1, the other where it is 0: a product and a sum, cheaper than comparing and selecting."""
    return y * (one - zero) + zero


def _focused(p: Tensor, loss: Tensor, gamma: float, detach: bool, finite: bool = False) -> tuple[Tensor, Tensor]:
    """p^g L and its derivative, of p = sigmoid(x) and L = -log(1-p): where the exponent is 0 these themselves."""
    if gamma == 0:
        return loss, p
    weight = power_(p.clone(), gamma)
    if detach:
        return loss * weight, p * weight
    # p^g [p - g (1-p) log(1-p)]
    slope = p + (gamma - gamma * p) * (loss if finite else loss.clamp(max=LARGE))
    return loss * weight, slope * weight


def _clipped(p: Tensor, gamma: float, clip: float, detach: bool) -> tuple[Tensor, Tensor]:
    """L- with a clip, and its derivative, of p = sigmoid(x)."""
    shifted = (p - clip).relu_()
    loss = (_log1p(-shifted) if torch.compiler.is_compiling() else torch.log1p(-shifted)).neg_()
    slope = p * (1 - p) / (1 - shifted)
    if gamma == 0:
        return loss, slope.mul_(shifted.sign())
    # p(1-p) [p_m^g / (1-p_m) - g p_m^(g-1) log(1-p_m)], p_m^(g-1) taken as p_m^g / p_m
    weight = power_(shifted.clone(), gamma)
    value = loss * weight
    slope.mul_(weight)
    if not detach:
        slope.addcmul_(p * (1 - p) * gamma, value / shifted.clamp(min=TINY))
    return value, slope


def negative_term_sum_(
    x: Tensor, skip: Tensor, out: Tensor, work: Tensor, *, gamma: float, clip: float, detach: bool
) -> float:
    """Sum L- over the logits x (n,) but for the indices `skip`; its derivative goes to `out`, which may be x.

    The same as `negative_term`, in place; `work` (2, n) is scratch space.
    """
    a, b = work.unbind()
    if clip == 0:
        loss = torch.ops.aten.softplus.out(x, 1, 50.0, out=a).index_fill_(0, skip, 0)
        p = torch.sigmoid(x, out=out).index_fill_(0, skip, 0)
        if gamma == 0:
            return loss.sum().item()
        weight = power_(b.copy_(p), gamma)
        if detach:
            p.mul_(weight)
            return loss.mul_(weight).sum().item()
        # p - g (1-p) log(1-p) is the point at p between -g log(1-p) and 1
        slope = torch.lerp(loss.clamp(max=LARGE).mul_(gamma), x.new_ones(()), p)
        torch.mul(slope, weight, out=out)
        return loss.mul_(weight).sum().item()
    p = torch.sigmoid(x, out=out).index_fill_(0, skip, 0)  # so that p_m and all below are 0 there
    shifted = torch._C._nn.softshrink(p, clip, out=b)  # type: ignore[call-arg]  # p_m, in one kernel
    rest = torch.sub(torch.scalar_tensor(1, dtype=p.dtype), shifted, out=a)
    p.addcdiv_(p, rest, value=-clip)  # p (1-p) / (1-p_m), where p_m > 0
    log = _log_1_minus(shifted, rest)
    if gamma == 0:
        total = -log.sum().item()
        p.mul_(shifted.sign_())
    elif detach:
        weight = power_(shifted, gamma)
        p.mul_(weight)
        total = -log.mul_(weight).sum().item()  # torch.dot is less accurate
    else:
        # p(1-p)/(1-p_m) p_m^(g-1) [p_m - g (1-p_m) log(1-p_m)]
        # where the bracket is the point at p_m between -g log(1-p_m) and 1.
        weight = power_(shifted.clamp(min=TINY), gamma - 1)
        p.mul_(weight)
        total = -weight.mul_(shifted).mul_(log).sum().item()
        p.mul_(torch.lerp(log.mul_(-gamma), x.new_ones(()), shifted, out=log))
    return total


def _log_1_minus(x: Tensor, rest: Tensor) -> Tensor:
    """log(1 - x), given rest = 1 - x, written over it; x (n,) in [0, 1) on the CPU."""
    if torch.get_num_threads() > 1 and x.numel() > _GRAIN:
        return torch.neg(x, out=rest).log1p_()
    # NumPy's logarithm is twice as fast as torch's log1p and 4 times as fast as torch's log, but has one thread.
    array = rest.numpy()
    np.log(array, out=array)
    return rest


def power_(base: Tensor, exponent: float) -> Tensor:
    """base ** exponent in place, base >= 0: by squaring where that does, torch's general pow being 20 times slower."""
    while exponent >= 2 and exponent % 2 == 0:
        base.square_()
        exponent /= 2
    if exponent == 0:
        return base.fill_(1)
    return base if exponent == 1 else base.pow_(exponent)
