"""Losses for missing labels and long tails, GHM and the two-way loss under their authors' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from mltrain.labels import LabelStats
from mltrain.losses import db, hill, splc, two_way
from mltrain.losses.base import Reduction
from mltrain.losses.class_balanced import ClassBalancedLoss
from mltrain.losses.compat.asymmetric import AnyShape
from mltrain.losses.ghm import GHMLoss
from mltrain.losses.inverse_frequency import InverseFrequencyLoss
from mltrain.safe_pickle import read_pickle


class Hill(AnyShape, hill.HillLoss):
    """Hill loss as in github.com/xinyu1205/robust-loss-mlml (Zhang et al., 2021).

    Args:
        lamb: lambda of the negative term (lambda - p) p^2.
        margin: margin that a positive's logit has to clear.
        gamma: focusing exponent of the positives.
        reduction: ``sum``, ``mean``; anything else returns the loss of each entry.
    """

    def __init__(self, lamb: float = 1.5, margin: float = 1.0, gamma: float = 2.0, reduction: str = "sum") -> None:
        super().__init__(lam=lamb, margin=margin, gamma=gamma, reduction=_reduction(reduction))


class SPLC(splc.SPLCLoss):
    """SPLC as in github.com/xinyu1205/robust-loss-mlml (Zhang et al., 2021); called with the epoch, from 0, too.

    Args:
        tau: negatives of a higher probability are taken for positives.
        change_epoch: first epoch that does so.
        margin: margin that a labelled positive's logit has to clear.
        gamma: focusing exponent.
        reduction: ``sum``, ``mean``; anything else returns the loss of each entry.
    """

    def __init__(
        self,
        tau: float = 0.6,
        change_epoch: int = 1,
        margin: float = 1.0,
        gamma: float = 2.0,
        reduction: str = "sum",
    ) -> None:
        super().__init__(
            tau=tau, change_epoch=change_epoch, margin=margin, gamma=gamma, reduction=_reduction(reduction)
        )

    def forward(self, logits: Tensor, targets: Tensor, epoch: int) -> Tensor:  # type: ignore[override]
        self.set_epoch(epoch)
        return super().forward(logits, targets)


class ResampleLoss(AnyShape, db.DistributionBalancedLoss):
    """Distribution-Balanced loss as in github.com/wutong16/DistributionBalancedLoss (Wu et al., ECCV 2020).

    Args:
        use_sigmoid: must be True: the losses of the paper are binary.
        reduction: ``mean`` or ``sum``; anything else returns the loss of each entry. With `focal` the authors' code
            always does that, and its training loop takes the mean.
        loss_weight: factor of the loss.
        partial: must be False.
        focal: {focal, balance_param, gamma}: whether to use the focal weight, its factor and exponent.
        CB_loss: {CB_beta, CB_mode}, for ``reweight_func="CB"``.
        map_param: {alpha, beta, gamma}: weights alpha + sigmoid(beta (r - gamma)), for ``reweight_func="rebalance"``.
        logit_reg: {neg_scale, init_bias}; init_bias was called neg_bias in earlier versions. Empty: no regularisation.
        reweight_func: None, ``inv``, ``sqrt_inv``, ``rebalance`` or ``CB``.
        weight_norm: None, ``by_instance`` or ``by_batch``.
        freq_file: class_freq.pkl with class_freq and neg_class_freq, or a mapping with these keys.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        partial: bool = False,
        focal: Mapping[str, Any] | None = None,
        CB_loss: Mapping[str, Any] | None = None,
        map_param: Mapping[str, float] | None = None,
        logit_reg: Mapping[str, float] | None = None,
        reweight_func: str | None = None,
        weight_norm: Literal["by_instance", "by_batch"] | None = None,
        freq_file: str | Mapping[str, Sequence[float]] = "./class_freq.pkl",
    ) -> None:
        if not use_sigmoid or partial:
            raise ValueError("use_sigmoid must be True and partial False: other forms are not losses of the paper")
        if reweight_func not in (None, "inv", "sqrt_inv", "rebalance", "CB"):
            raise ValueError(f"reweight_func={reweight_func!r}; allowed: None, inv, sqrt_inv, rebalance, CB")
        focal = {"focal": True, "balance_param": 2.0, "gamma": 2} | dict(focal or {})
        balanced: dict[str, Any] = {"CB_beta": 0.9, "CB_mode": "average_w"} | dict(CB_loss or {})
        mapping = {"alpha": 10.0, "beta": 0.2, "gamma": 0.1} | dict(map_param or {})
        regularised = {"neg_scale": 5.0, "init_bias": 0.1} if logit_reg is None else dict(logit_reg)
        stats = _stats_of(freq_file)
        super().__init__(
            stats=stats,
            rebalance=reweight_func == "rebalance",
            alpha=mapping["alpha"],
            beta=mapping["beta"],
            mu=mapping["gamma"],
            ntr=bool(regularised),
            neg_scale=regularised.get("neg_scale", 1.0),
            init_bias=regularised.get("init_bias", regularised.get("neg_bias", 0.0)),
            focal=focal["focal"],
            gamma=focal["gamma"],
            focal_factor=focal["balance_param"],
            reduction=_reduction(reduction),
        )
        self.loss_weight, self.weight_norm = loss_weight, weight_norm
        self._other: InverseFrequencyLoss | ClassBalancedLoss | None = None
        if reweight_func in ("inv", "sqrt_inv"):
            power = 1.0 if reweight_func == "inv" else 0.5
            self._other = InverseFrequencyLoss(stats=stats, power=power, normalize=False)
        elif reweight_func == "CB":
            mode, beta = balanced["CB_mode"], balanced["CB_beta"]
            self._other = ClassBalancedLoss(stats=stats, beta=beta, mode=mode, normalize=False)

    def forward(self, cls_score: Tensor, label: Tensor) -> Tensor:
        return self.loss_weight * super().forward(cls_score, label)

    def prepare(self, classes: int, dtype: torch.dtype) -> None:
        super().prepare(classes, dtype)
        if self._other is not None:
            self._other.prepare(classes, dtype)

    def weight(self, targets: Tensor) -> Tensor | None:
        if self._other is None:
            return super().weight(targets)
        weight = self._other.weight(targets)
        if self.weight_norm == "by_instance":
            return weight / weight.amax(-1, keepdim=True)
        return weight / weight.amax() if self.weight_norm == "by_batch" else weight


class GHMC(GHMLoss):
    """GHM-C as in github.com/libuyu/GHM_Detection (Li et al., AAAI 2019): counts are averaged, without a correction.

    Args:
        bins: equal bins of the gradient norm.
        momentum: momentum of the moving average of the counts.
        use_sigmoid: must be True.
        loss_weight: factor of the loss.
    """

    acc_sum: Tensor

    def __init__(self, bins: int = 10, momentum: float = 0, use_sigmoid: bool = True, loss_weight: float = 1.0) -> None:
        if not use_sigmoid:
            raise ValueError("use_sigmoid must be True: GHM-C is a loss of sigmoids")
        super().__init__(bins=bins, momentum=momentum, reduction="mean")
        self.loss_weight = loss_weight
        self.register_buffer("acc_sum", torch.zeros(bins))

    def forward(self, pred: Tensor, target: Tensor, label_weight: Tensor | None = None) -> Tensor:
        """Return the loss of logits and targets (B, C); entries with a label_weight of 0 do not count."""
        target = target if label_weight is None else target.masked_fill(label_weight <= 0, -1)
        return self.loss_weight * super().forward(pred, target)

    def _weights(self, counts: Tensor) -> Tensor:
        filled = counts > 0
        seen = counts
        if self.momentum:
            moved = self.momentum * self.acc_sum + (1 - self.momentum) * counts.to(self.acc_sum.dtype)
            self.acc_sum.copy_(torch.where(filled, moved, self.acc_sum))
            seen = self.acc_sum
        return torch.where(filled, counts.sum() / (seen * filled.sum()), 0)


class LDAMLoss(nn.Module):
    """LDAM as in github.com/kaidic/LDAM-DRW (Cao et al., NeurIPS 2019): logits (B, C), class indices (B,); the mean.

    Args:
        cls_num_list: training images of each class.
        max_m: margin of the rarest class.
        weight: weight of each class, (C,); the mean is divided by the weights, as torch's is.
        s: factor of the logits.
    """

    margins: Tensor
    weight: Tensor | None

    def __init__(
        self, cls_num_list: Sequence[int], max_m: float = 0.5, weight: Tensor | None = None, s: float = 30
    ) -> None:
        super().__init__()
        counts = torch.as_tensor(np.asarray(cls_num_list), dtype=torch.float64)
        self.register_buffer("margins", (max_m * (counts / counts.min()) ** -0.25).float())
        self.register_buffer("weight", weight)
        self.s = s

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        margins = self.margins[target].unsqueeze(1) * F.one_hot(target, x.shape[1])
        return F.cross_entropy(self.s * (x - margins), target, weight=self.weight)


class TwoWayLoss(two_way.TwoWayLoss):
    """Two-way loss as in github.com/tk1980/TwoWayMultiLabelLoss (Kobayashi, CVPR 2023).

    The authors' code adds -100 to masked logits, which shows where logits differ by more than 100 times a temperature.

    Args:
        Tp: temperature over positives.
        Tn: temperature over negatives.
    """

    def __init__(self, Tp: float = 4.0, Tn: float = 1.0) -> None:
        super().__init__(temperature_pos=Tp, temperature_neg=Tn)


def _reduction(name: str) -> Reduction:
    return cast("Reduction", name) if name in ("sum", "mean") else "none"


def _stats_of(frequencies: str | Mapping[str, Sequence[float]]) -> LabelStats:
    """Return label statistics of the authors' class_freq.pkl, which is read without running anything in it."""
    table = frequencies if isinstance(frequencies, Mapping) else read_pickle(frequencies)
    positives, negatives = (np.asarray(table[key], dtype=np.int64) for key in ("class_freq", "neg_class_freq"))
    classes = len(positives)
    return LabelStats(
        tuple(map(str, range(classes))),
        int(positives[0] + negatives[0]),
        positives,
        negatives,
        np.zeros(classes, dtype=np.int64),
        sparse.csr_matrix(np.diag(positives)),
    )
