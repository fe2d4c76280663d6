"""Tuning learns from the split it is given, and is scored as an evaluation is."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from mltrain.engine.evaluator import Predictions
from mltrain.metrics import summarize
from mltrain.metrics.counts import count_above
from mltrain.runs.thresholds import Method, Tuner

ODDS = np.log(np.linspace(0.02, 0.5, 6))
SUMMARIZE = functools.partial(summarize, group_indices={"head": [0, 1], "tail": [2, 3, 4, 5]})
METHODS: list[Method] = ["threshold", "thresholds", "logit_adjustment"]


def draw(seed: int, images: int = 400) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, 6, generator=generator) < torch.linspace(0.03, 0.4, 6)).to(torch.int8)
    logits = torch.randn(images, 6, generator=generator) + 2 * targets - 1 + torch.tensor(ODDS).float()
    return Predictions({"val": logits, "ema": logits * 1.5}, targets)


def tuner(method: Method) -> Tuner:
    return Tuner(method=method, summarize=SUMMARIZE, log_prior_odds=ODDS)


@pytest.mark.parametrize("method", METHODS)
def test_tuning_raises_f1_on_images_it_has_not_seen(method: Method) -> None:
    source, target = draw(0, 4000), draw(1, 4000)
    key = "OF1" if method == "threshold" else "macro_F1"
    for name, found in tuner(method).across(source, target).items():
        before = SUMMARIZE(target.logits[name], target.targets).scalars
        assert found["figures"][key] > before[key] + 3
        for ranking in ("map", "map_head", "map_tail"):
            assert found["figures"][ranking] == pytest.approx(before[ranking], abs=1e-9)
        assert found["figures"].keys() == before.keys()
        counts = count_above(target.logits[name], target.targets, cuts=torch.tensor(found["cuts"]).double())
        np.testing.assert_allclose(100 * counts.f1, found["f1"])


@pytest.mark.parametrize("method", METHODS)
def test_what_is_found_depends_on_the_source_alone(method: Method) -> None:
    source, target = draw(0), draw(1)
    other = Predictions(target.logits, 1 - target.targets)
    a, b = tuner(method).across(source, target), tuner(method).across(source, other)
    for name in a:
        assert a[name]["cuts"] == b[name]["cuts"]
        assert a[name]["figures"] != b[name]["figures"]


@pytest.mark.parametrize("method", METHODS)
def test_folds_report_less_than_tuning_on_the_reported_images_and_keep_the_ranking(method: Method) -> None:
    predictions = draw(0, 60)
    tuned = tuner(method)
    honest, optimistic = tuned.within(predictions, 5), tuned.across(predictions, predictions)
    plain = SUMMARIZE(predictions.logits["val"], predictions.targets).scalars
    key = "OF1" if method == "threshold" else "macro_F1"
    assert honest["val"]["cuts"] == optimistic["val"]["cuts"], "what is kept is found on all images"
    assert honest["val"]["figures"][key] < optimistic["val"]["figures"][key]
    for ranking in ("map", "map_tail", "micro_ap"):
        assert honest["val"]["figures"][ranking] == plain[ranking]


def test_the_metric_decides_the_adjustment() -> None:
    predictions = draw(0, 2000)
    for metric in ("macro_F1", "CF1", "OF1", "words_F1"):
        tuned = Tuner(
            method="logit_adjustment", summarize=SUMMARIZE, log_prior_odds=ODDS, metric=metric, words_k=2
        ).across(predictions, predictions)["val"]
        summary = functools.partial(SUMMARIZE, words_k=2)
        before = summary(predictions.logits["val"], predictions.targets).scalars[metric]
        cuts = torch.tensor(tuned["cuts"])
        after = summary(predictions.logits["val"].double() - cuts, predictions.targets).scalars[metric]
        assert after >= before
        assert tuned["cuts"] == (tuned["tau"] * ODDS).tolist()
