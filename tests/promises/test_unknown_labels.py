"""An unknown label (-1) is as if it were not there: in every loss, sampler, statistic and metric that has a config."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mltrain.config.build import instantiate
from mltrain.config.compose import load
from mltrain.config.overrides import CONFIGS
from mltrain.config.rules import MULTI_LABEL, task_of_loss
from mltrain.labels import LabelSet, LabelStats
from mltrain.metrics import best_cut, best_cuts, summarize
from mltrain.report.label_stats import count, summary

IMAGES, CLASSES = 60, 9


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def make_labels(unknown: float = 0.3) -> LabelSet:
    rng = np.random.default_rng(0)
    targets = (rng.random((IMAGES, CLASSES)) < np.linspace(0.5, 0.05, CLASSES)).astype(np.int8)
    targets[rng.random(targets.shape) < unknown] = -1
    classes = [str(c) for c in range(CLASSES)]
    files = [f"{k}.jpg" for k in range(IMAGES)]
    return LabelSet.from_dense(name="x", root="", files=files, class_names=classes, targets=targets)


def multi_label_losses() -> list[str]:
    targets = {name: OmegaConf.load(CONFIGS / "loss" / f"{name}.yaml")["_target_"] for name in names("loss")}
    return [name for name, target in targets.items() if task_of_loss(target) == MULTI_LABEL]


@pytest.mark.parametrize("name", multi_label_losses())
def test_a_loss_does_not_see_what_is_predicted_for_an_unknown_label(name: str) -> None:
    options = ["loss.mode=ignore"] if name == "csl" else []  # its other modes train some unknown labels as negatives
    cfg = load([f"loss={name}", *options])
    labels = make_labels()
    stats = LabelStats.from_labels(labels)
    loss = instantiate(cfg.loss, "loss", stats=stats, num_classes=CLASSES).eval()
    targets = torch.from_numpy(labels.dense())
    unknown = targets < 0
    torch.manual_seed(0)
    logits = torch.randn(IMAGES, CLASSES)
    results = []
    for filled in (logits, logits.masked_fill(unknown, 30.0), logits.masked_fill(unknown, -30.0)):
        x = filled.clone().requires_grad_()
        value = loss(x, targets)
        (grad,) = torch.autograd.grad(value, x)
        assert not grad[unknown].any() and grad[~unknown].any()
        results.append((value.detach(), grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(results[2], results[0], rtol=1e-6, atol=1e-7)
    as_negative = loss(logits, targets.clamp(min=0))
    assert as_negative != results[0][0], "an unknown label is no negative"


@pytest.mark.parametrize("name", names("sampler"))
def test_a_sampler_takes_an_unknown_label_for_no_positive(name: str) -> None:
    labels = make_labels()
    negative = labels.with_targets(*labels.positive_pairs(), np.ones(len(labels.positive_pairs()[0]), np.int8), fill=0)
    cfg = load([f"sampler={name}", *(["curriculum=spbl"] if name == "class_cost" else [])]).sampler
    orders = [
        instantiate(cfg, "sampler", labels=each, stats=LabelStats.from_labels(each), seed=0).order(3)
        for each in (labels, negative)
    ]
    assert not labels.fully_labelled and negative.fully_labelled
    np.testing.assert_array_equal(*orders)


def test_statistics_count_an_unknown_label_as_neither() -> None:
    labels = make_labels()
    dense, stats = labels.dense(), LabelStats.from_labels(labels)
    for value, counts in ((1, stats.positives), (0, stats.negatives), (-1, stats.unknowns)):
        np.testing.assert_array_equal(counts, (dense == value).sum(0))
    odds = (dense == 1).sum(0) / (dense == 0).sum(0)
    np.testing.assert_allclose(stats.log_prior_odds(), np.log(odds))
    both = (dense == 1).astype(int)
    np.testing.assert_array_equal(stats.cooccurrence.toarray(), both.T @ both)
    told = summary(count(labels), stats)
    assert told["unknown_targets"] == (dense == -1).sum()
    assert told["labels"] == (dense == 1).sum()


def test_a_metric_does_not_see_what_is_predicted_for_an_unknown_label() -> None:
    targets = torch.from_numpy(make_labels().dense())
    torch.manual_seed(0)
    logits = torch.randn(IMAGES, CLASSES) + targets
    results = []
    for fill in (None, 30.0, -30.0):
        filled = logits if fill is None else logits.masked_fill(targets < 0, fill)
        figures = summarize(filled, targets, group_indices={"tail": [6, 7, 8]}, topk=None, words_k=None)
        cuts = best_cuts(filled, targets, min_positives=2)
        results.append((figures.scalars, best_cut(filled, targets), cuts.cuts.tolist(), cuts.f1.tolist()))
    assert results[0] == results[1] == results[2]


def test_an_unknown_label_among_the_k_highest_takes_a_place_but_counts_nowhere() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    figures = summarize(logits, torch.tensor([[-1, 1, 0]]), topk=2, words_k=None).scalars
    assert (figures["OP@2"], figures["OR@2"]) == (100, 100)
    figures = summarize(logits, torch.tensor([[-1, 1, 0]]), topk=1, words_k=None).scalars
    assert (figures["OP@1"], figures["OR@1"]) == (0, 0)
