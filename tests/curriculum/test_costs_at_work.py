"""Promises of what follows class costs: the losses' class weights and the sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mltrain.labels import LabelStats
from mltrain.losses import AsymmetricSoftmaxLoss, CrossEntropy, FocalSoftmaxLoss, LDAMSoftmaxLoss
from mltrain.pipeline.samplers import ClassCostSampler
from tests.curriculum.test_pieces import labels_of

LABELS = labels_of([[0]] * 6 + [[1]] * 3 + [[2]], 3)
STATS = LabelStats.from_labels(LABELS)
COSTS = np.array([1.0, 2.0, 6.0])


@pytest.mark.parametrize("loss", [CrossEntropy, FocalSoftmaxLoss, AsymmetricSoftmaxLoss, LDAMSoftmaxLoss])
def test_a_loss_weighs_its_images_by_the_costs_it_is_given(loss: type[CrossEntropy]) -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(3)
    made = loss(stats=STATS, class_weight="curriculum", reduction="none")
    plain = loss(stats=STATS, reduction="none")(logits, targets)
    torch.testing.assert_close(made(logits, targets), plain)  # all the same before there are any costs
    made.set_class_costs(COSTS)
    if loss in (CrossEntropy, FocalSoftmaxLoss, LDAMSoftmaxLoss):  # the others spread the target over all classes
        torch.testing.assert_close(made(logits, targets), plain * torch.tensor(COSTS / 3).float())
    assert not torch.equal(made(logits, targets), plain)
    assert "weight" not in made.state_dict(), "the curriculum is what keeps them"


def test_a_loss_with_other_weights_keeps_them() -> None:
    logits, targets = torch.zeros(3, 3), torch.eye(3)
    made = CrossEntropy(stats=STATS, class_weight="inverse")
    before = made(logits, targets)
    made.set_class_costs(COSTS)
    assert made(logits, targets) == before
    plain = CrossEntropy()
    plain.set_class_costs(COSTS)
    torch.testing.assert_close(plain(logits, targets), F.cross_entropy(logits, targets))
    with pytest.raises(ValueError, match="class_weight=curriculum needs stats"):
        CrossEntropy(class_weight="curriculum")


def test_the_sampler_shows_images_in_proportion_to_their_costs() -> None:
    sampler = ClassCostSampler(labels=LABELS, class_costs=COSTS, epoch_size=18)
    assert len(sampler) == 18
    for epoch in range(5):
        counts = np.bincount(sampler.order(epoch), minlength=10)
        assert counts.tolist() == [1] * 6 + [2] * 3 + [6]
    assert sampler.order(0).tolist() != sampler.order(1).tolist()
    assert (
        sampler.order(3).tolist() == ClassCostSampler(labels=LABELS, class_costs=COSTS, epoch_size=18).order(3).tolist()
    )


def test_an_image_of_several_labels_has_the_mean_of_their_costs_and_one_without_the_least() -> None:
    labels = labels_of([[0, 2], [0], []], 3)
    costs = np.array([1.0, 9.0, 5.0])
    sampler = ClassCostSampler(labels=labels, class_costs=costs, epoch_size=10)
    shown = np.bincount(np.concatenate([sampler.order(epoch) for epoch in range(30)]), minlength=3) / 30
    np.testing.assert_allclose(shown, [6, 2, 2], atol=0.4)


def test_without_costs_every_image_is_shown_once_and_wrong_ones_are_refused() -> None:
    assert sorted(ClassCostSampler(labels=LABELS).order(0)) == list(range(10))
    for costs in (np.ones(2), np.array([1.0, 0.0, 1.0])):
        with pytest.raises(ValueError, match="class_costs must be 3 numbers above 0"):
            ClassCostSampler(labels=LABELS, class_costs=costs)
    with pytest.raises(ValueError, match="epoch_size=0"):
        ClassCostSampler(labels=LABELS, epoch_size=0)
    assert not len(ClassCostSampler(labels=labels_of([], 3)).order(0))
