"""The authors' class names give the authors' numbers: values and gradients of the published code on one input.

The numbers come from the published files, run as they are (on the CPU, in fp32): ASL (Alibaba-MIIL/ASL), Hill and
SPLC (xinyu1205/robust-loss-mlml), CSL (Alibaba-MIIL/PartialLabelingCSL), Distribution-Balanced loss
(wutong16/DistributionBalancedLoss), LDAM (kaidic/LDAM-DRW), the two-way loss (tk1980/TwoWayMultiLabelLoss). Those of
RAL and GHM-C come from a restatement of their files.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mltrain.errors import DataError
from mltrain.losses import compat
from mltrain.losses.compat import (
    GHMC,
    SPLC,
    ASLSingleLabel,
    AsymmetricLoss,
    AsymmetricLossOptimized,
    Hill,
    LDAMLoss,
    PartialSelectiveLoss,
    Ralloss,
    ResampleLoss,
    TwoWayLoss,
)

X = torch.tensor([[2.0, -1.0, 0.5, -3.0], [-0.5, 1.5, -2.0, 0.0], [-20.0, 20.0, 4.0, -6.0]])  # two beyond their cut
Y = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 0, 1, 0]])
UNKNOWN = torch.tensor([[1, 0, -1, -1], [-1, 1, 0, -1], [1, -1, 0, 0]])
VALID = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])
LABELS = torch.tensor([0, 1, 3])
FREQUENCIES = {"class_freq": [400, 90, 25, 7], "neg_class_freq": [122, 432, 497, 515]}


def csl(mode: str | None = "selective", **options: float | None) -> PartialSelectiveLoss:
    given = {"clip": 0, "gamma_pos": 0, "gamma_neg": 1, "gamma_unann": 2, "alpha_pos": 1, "alpha_neg": 1}
    given |= {"alpha_unann": 1, "likelihood_topk": 1, "prior_path": None, "prior_threshold": 0.05, **options}
    return PartialSelectiveLoss(SimpleNamespace(partial_loss_mode=mode, **given))


def db(**options: Any) -> ResampleLoss:
    return ResampleLoss(use_sigmoid=True, freq_file=FREQUENCIES, **options)


COCO_MLT = {
    "reweight_func": "rebalance",
    "focal": {"focal": True, "balance_param": 2.0, "gamma": 2},
    "logit_reg": {"neg_scale": 2.0, "init_bias": 0.05},
    "map_param": {"alpha": 0.1, "beta": 10.0, "gamma": 0.2},
}
CASES: list[tuple[nn.Module, tuple[Any, ...], list[float]]] = [
    (AsymmetricLoss(), (Y,), [23.93784, -0.014209, 0.00057841, 0.05903, -0.9074, 0.0040223, -0.033279]),
    (
        AsymmetricLoss(2, 1, 0.1, 1e-4, False),
        (Y,),
        [14.34545, -0.027536, 0.019046, 0.31582, -1.0451, 0.067463, -0.063319],
    ),
    (AsymmetricLossOptimized(), (Y,), [23.93784, -0.027536, 0.002618, 0.20887, -1.0451, 0.01713, -0.063319]),
    (ASLSingleLabel(), (LABELS,), [8.19396, -0.067419, 0.011995, 0.053801, 0.0016233, 0.030052, -0.086327]),
    (ASLSingleLabel(1, 2, 0.2), (LABELS,), [7.41013, -0.026563, 0.0046172, 0.021335, 0.0006105, 0.014663, -0.042223]),
    (Ralloss(), (Y,), [23.79635, -0.045498, 0.00022487, 0.09967, -1.015, 0.0030659, -0.1013]),
    (
        Ralloss(2, 1, 0.1, 1e-4, 1.3, 0.2, 0.5, -1.0),
        (Y,),
        [12.83832, -0.017258, 0.00035096, 0.092218, -1.0636, 0.0054425, -0.043556],
    ),
    (Hill(), (Y,), [26.32392, -0.052581, 0.11597, 0.16568, -1.0864, 0.16568, -0.13794]),
    (Hill(1.3, 0.5, 1.0, "mean"), (Y,), [2.08613, -0.0052766, 0.0079015, 0.0089307, -0.086889, 0.010849, -0.01116]),
    (SPLC(), (Y, 0), [45.60799, -0.052581, 0.052581, 0.52615, -1.0864, 0.13794, -0.13794]),
    (SPLC(), (Y, 1), [25.29814, -0.052581, 0.052581, -0.13794, -1.0864, 0.13794, -0.13794]),
    (csl(), (UNKNOWN,), [22.86197, -0.1192, 0.072329, 0, 0.00010667, 0.053814, -0.18243]),
    (
        csl("ignore", alpha_pos=2.0, alpha_neg=0.5, clip=0.05),
        (UNKNOWN,),
        [38.78041, -0.23841, 0.027557, 0, 0, 0, -0.36485],
    ),
    (
        csl("ignore_normalize_classes", gamma_pos=1),
        (UNKNOWN,),
        [28.15988, -0.018946, 0.096439, 0, 0, 0, -0.044372],
    ),
    (
        csl("negative", alpha_unann=0.3),
        (UNKNOWN,),
        [28.50601, -0.1192, 0.072329, 0.072353, 3.2001e-05, 0.016144, -0.18243],
    ),
    (csl(None, alpha_unann=0.3), (UNKNOWN,), [28.50601, -0.1192, 0.072329, 0.072353, 3.2001e-05, 0.016144, -0.18243]),
    (db(**COCO_MLT), (Y,), [4.05793, -0.00017918, 0.00021503, 0.090757, -0.20602, 0.0065675, -0.0034271]),
    (
        db(
            reweight_func="CB",
            CB_loss={"CB_beta": 0.9, "CB_mode": "by_class"},
            logit_reg={"neg_scale": 5.0, "init_bias": 0.1},
            loss_weight=10.0,
        ),
        (Y,),
        [7.646, -0.00076309, 9.3728e-08, 0.19795, -0.35932, 0.0002941, -0.0030592],
    ),
    (
        db(reweight_func="sqrt_inv", logit_reg={}, focal={"focal": False}),
        (Y,),
        [9.1989, -0.011348, 0.053975, 0.23703, -0.68549, 0.035941, -0.036612],
    ),
    (
        db(reweight_func="rebalance", weight_norm="by_instance"),
        (Y,),
        [7.1043, -0.0007596, 9.3319e-08, 0.18312, -0.18746, 0.00028275, -0.0029518],
    ),
    (
        LDAMLoss([400, 90, 25, 7], 0.3, torch.tensor([1.0, 2, 3, 4]), 10),
        (LABELS,),
        [150.28572, -1.3624e-06, 3.9806e-13, 1.3012e-06, 8.2045e-22, 2.8714e-08, -4.4278e-06],
    ),
    (TwoWayLoss(), (Y,), [25.29364, -0.074588, 0.060265, 0.2774, -0.49496, 0.28249, -0.34329]),
    (TwoWayLoss(2.0, 3.0), (Y,), [25.86094, -0.025134, 0.1253, 0.22047, -0.54792, 0.33916, -0.49857]),
    (GHMC(), (Y, VALID), [3.23095, -0.0056763, 0.03842, 0.088923, 0, 0.053934, -0.0086869]),
]


def value_and_gradient(loss: Callable[..., Tensor], *given: Any) -> list[float]:
    x = X.clone().requires_grad_()
    value = loss(x, *given)
    value.backward()
    assert x.grad is not None
    return [value.item(), *x.grad.flatten()[:6].tolist()]


@pytest.mark.parametrize(("loss", "given", "expected"), CASES, ids=[type(loss).__name__ for loss, _, _ in CASES])
def test_values_and_gradients_are_those_of_the_published_code(
    loss: nn.Module, given: tuple[Any, ...], expected: list[float]
) -> None:
    assert value_and_gradient(loss, *given) == pytest.approx(expected, rel=1e-4, abs=2e-6)


def test_ghmc_moves_its_counts_as_the_published_code_does() -> None:
    loss = GHMC(5, 0.75)
    loss(X, Y, VALID)
    expected = [10.12849, -0.010899, 0.061472, 0.28455, 0, 0.086295, -0.016679]
    assert value_and_gradient(loss, Y, VALID) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", [AsymmetricLoss(), AsymmetricLossOptimized(), Hill(), Ralloss(), db(**COCO_MLT)])
def test_other_shapes_are_those_of_their_rows(loss: nn.Module) -> None:
    """Detectors and token classifiers have logits (B, N, C); their targets may be of any real dtype."""
    x, y = torch.stack([X, X + 1]), torch.stack([Y, 1 - Y])
    assert torch.equal(loss(x, y), loss(x.reshape(-1, 4), y.reshape(-1, 4).bool()))
    assert torch.isfinite(loss(X[0], Y[0]))


def test_reductions_that_are_none() -> None:
    assert Hill(reduction="none")(X, Y).shape == X.shape
    assert ASLSingleLabel(reduction="none")(X, LABELS).shape == (3,)
    assert db(**COCO_MLT, reduction="none")(X, Y).mean().item() == pytest.approx(4.05793, rel=1e-4)


def test_frequencies_come_from_the_authors_file_which_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "class_freq.pkl"
    path.write_bytes(pickle.dumps(FREQUENCIES))
    assert ResampleLoss(freq_file=str(path), **COCO_MLT)(X, Y).item() == pytest.approx(4.05793, rel=1e-4)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError):
        ResampleLoss(freq_file=str(path))


def test_the_prior_comes_from_the_authors_file(tmp_path: Path) -> None:
    path = tmp_path / "prior.csv"
    path.write_text("Classes,avg_pred\nperson,0.4\ncar,0.01\ndog,0.2\ncat,0.03\n")
    by_prior = csl(prior_path=str(path), likelihood_topk=0)
    x = X.clone().requires_grad_()
    by_prior(x[:2], UNKNOWN[:2]).backward()  # the last row is beyond the cut of the logarithms
    assert x.grad is not None
    left_out = (UNKNOWN[:2] == -1) & (torch.tensor([0.4, 0.01, 0.2, 0.03]) > 0.05)
    assert torch.equal(x.grad[:2] == 0, left_out)


def test_forms_outside_the_papers_are_refused() -> None:
    with pytest.raises(ValueError, match="use_sigmoid must be True"):
        ResampleLoss(use_sigmoid=False, freq_file=FREQUENCIES)
    with pytest.raises(ValueError, match="allowed: None, inv, sqrt_inv, rebalance, CB"):
        db(reweight_func="rebalanced")
    with pytest.raises(ValueError, match="use_sigmoid must be True"):
        GHMC(use_sigmoid=False)


def test_every_name_is_exported() -> None:
    tested = {type(loss).__name__ for loss, _, _ in CASES}
    assert set(compat.__all__) == tested
