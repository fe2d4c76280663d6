"""Promises of LDAM-DRW: weights by class that are switched on at an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mltrain.config.build import load
from mltrain.errors import Interrupted
from mltrain.labels import LabelSet, LabelStats
from mltrain.losses.ldam import LDAMLoss
from mltrain.losses.ldam_softmax import LDAMSoftmaxLoss
from mltrain.runs.train import train
from tests.promises.runs import TINY, assert_same, fit, state, stop_at

COUNTS = [60, 12, 3, 0]


def stats() -> LabelStats:
    positives = [[c for c, n in enumerate(COUNTS) if i < n] for i in range(80)]
    labels = LabelSet.from_lists(
        name="t", root="", files=[str(i) for i in range(80)], class_names=list("abcd"), positives=positives
    )
    return LabelStats.from_labels(labels)


def authors_weights(beta: float) -> np.ndarray:
    """Return the weights of the authors' training script: effective numbers, scaled to sum to the number of classes."""
    effective = 1.0 - np.power(beta, np.maximum(COUNTS, 1))
    weights = (1.0 - beta) / effective
    return np.asarray(weights / weights.sum() * len(COUNTS))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(16, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(-1, 2, (16, 4), generator=generator)


def value_and_gradient(
    loss: torch.nn.Module, logits: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    x = logits.clone().requires_grad_()
    value = loss(x, targets)
    value.sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_from_its_epoch_on_every_entry_weighs_as_its_class(scale: float, reduction: str) -> None:
    logits, targets = batch()
    options = {"stats": stats(), "scale": scale, "reduction": reduction}
    plain = LDAMLoss(**options)  # type: ignore[arg-type]
    loss = LDAMLoss(**options, drw_epoch=3, drw_beta=0.99)  # type: ignore[arg-type]
    weights = torch.from_numpy(authors_weights(0.99))
    entries = LDAMLoss(stats=stats(), scale=scale, reduction="none")
    before, slope = value_and_gradient(entries, logits, targets)
    for epoch in (0, 2):
        loss.set_epoch(epoch)
        for found, wanted in zip(
            value_and_gradient(loss, logits, targets), value_and_gradient(plain, logits, targets), strict=True
        ):
            assert torch.equal(found, wanted)
    for epoch in (3, 7):
        loss.set_epoch(epoch)
        value, gradient = value_and_gradient(loss, logits, targets)
        wanted = before * weights
        known = int((targets >= 0).sum())
        divisor = known if reduction == "mean" else 1
        expected = wanted if reduction == "none" else wanted.sum() / divisor
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(gradient, slope * weights / divisor, rtol=1e-6, atol=1e-7)
        assert torch.equal(loss(logits, targets), value), "the value without a gradient is the same"


def test_over_a_softmax_the_label_weighs_from_its_epoch_on() -> None:
    logits = batch()[0]
    targets = torch.nn.functional.one_hot(torch.arange(16) % 4, 4)
    plain = LDAMSoftmaxLoss(stats=stats(), reduction="none")
    always = LDAMSoftmaxLoss(stats=stats(), class_weight="effective", beta=0.99, reduction="none")
    loss = LDAMSoftmaxLoss(stats=stats(), class_weight="effective", beta=0.99, drw_epoch=2, reduction="none")
    assert torch.equal(loss(logits, targets), plain(logits, targets))
    loss.set_epoch(1)
    assert torch.equal(loss(logits, targets), plain(logits, targets))
    loss.set_epoch(2)
    assert torch.equal(loss(logits, targets), always(logits, targets))
    weights = torch.from_numpy(authors_weights(0.99))[torch.arange(16) % 4]
    torch.testing.assert_close(loss(logits, targets), plain(logits, targets) * weights, rtol=1e-6, atol=1e-7)


def test_epoch_0_is_from_the_start_and_none_is_as_before() -> None:
    logits, targets = batch()
    first, never = LDAMLoss(stats=stats(), drw_epoch=0), LDAMLoss(stats=stats())
    assert first(logits, targets) != never(logits, targets)
    never.set_epoch(500)
    assert torch.equal(never(logits, targets), LDAMLoss(stats=stats())(logits, targets))
    labels = torch.nn.functional.one_hot(torch.arange(16) % 4, 4)
    softmax = [LDAMSoftmaxLoss(stats=stats(), class_weight="effective", drw_epoch=k) for k in (0, None)]
    assert torch.equal(softmax[0](logits, labels), softmax[1](logits, labels))


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="drw_epoch=-1"):
        LDAMLoss(stats=stats(), drw_epoch=-1)
    with pytest.raises(ValueError, match=r"drw_beta=1\.0"):
        LDAMLoss(stats=stats(), drw_beta=1.0)
    with pytest.raises(ValueError, match="no effect with class_weight=none"):
        LDAMSoftmaxLoss(stats=stats(), drw_epoch=3)


@pytest.mark.slow
def test_a_run_switches_at_the_epoch_and_resumes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY, "loss=ldam", "loss.drw_epoch=1", "runner.epochs=3", f"paths.data={tmp_path}"]
    whole = fit([*words, f"paths.runs={tmp_path}/whole"])
    never = fit([*words, "loss.drw_epoch=null", "runner.max_steps=5", f"paths.runs={tmp_path}/never"])
    switched = fit([*words, "runner.max_steps=5", f"paths.runs={tmp_path}/first"])
    assert_same(state(never)["model"], state(switched)["model"])
    later = [fit([*words, f"loss.drw_epoch={k}", "runner.max_steps=6", f"paths.runs={tmp_path}/{k}"]) for k in (1, 2)]
    first = [state(folder)["model"]["head.fc.weight"] for folder in later]
    assert not torch.equal(*first), "the sixth step is of epoch 1, which is weighted"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, 12)
        train(load([*words, f"paths.runs={tmp_path}/runs"]))
    assert_same(state(fit([*words, f"paths.runs={tmp_path}/runs"])), state(whole))


def test_the_id_of_an_older_run_stays() -> None:
    from mltrain.config.identity import relevant

    for loss in (["loss=ldam"], ["loss=ldam_softmax", "task=single_label"]):
        assert not [key for key in relevant(load(loss))["loss"] if key.startswith("drw")]
