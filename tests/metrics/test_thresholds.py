"""Best cuts against brute force over every cut, and that nothing learns from the images it is applied to."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from mltrain.metrics import average_precision, summarize
from mltrain.metrics.counts import count_above, count_at_threshold, overall_and_per_class
from mltrain.metrics.thresholds import TAUS, Criterion, adjust_logits, best_cut, best_cuts, best_tau, crossed, folds


def draw(
    images: int = 300, classes: int = 7, *, levels: int | None = None, unknown: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rates = torch.linspace(0.02, 0.5, classes)
    targets = (torch.rand(images, classes, generator=generator) < rates).to(torch.int8)
    logits = 2 * torch.randn(images, classes, generator=generator) + 2 * targets - 2
    if levels is not None:
        logits = (logits * levels / 8).round() * 8 / levels
    targets[torch.rand(images, classes, generator=generator) < unknown] = -1
    return logits, targets


def f1(chosen: np.ndarray, labels: np.ndarray) -> float:
    known = labels >= 0
    return float(f1_score(labels[known], chosen[known], zero_division=0))


def brute_force(scores: np.ndarray, labels: np.ndarray) -> float:
    scores, positive = scores[labels >= 0], labels[labels >= 0] == 1
    chosen = scores[:, None] > np.array([-np.inf, *np.unique(scores)])
    return float((2 * (chosen & positive[:, None]).sum(0) / (chosen.sum(0) + positive.sum())).max())


@pytest.mark.parametrize("levels", [None, 8, 2])
@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_no_cut_has_a_higher_f1_than_the_one_found(levels: int | None, unknown: float) -> None:
    logits, targets = draw(levels=levels, unknown=unknown)
    found = best_cuts(logits, targets, min_positives=1)
    assert found.own.all()
    for c in range(logits.shape[1]):
        scores, labels = logits[:, c].numpy(), targets[:, c].numpy()
        best = brute_force(scores, labels)
        assert found.f1[c] == pytest.approx(best, abs=1e-12)
        assert f1(scores > found.cuts[c], labels) == pytest.approx(best, abs=1e-12)
    common = best_cut(logits, targets)
    scores, labels = logits.numpy().ravel(), targets.numpy().ravel()
    assert common.f1 == pytest.approx(brute_force(scores, labels), abs=1e-12)
    assert f1(scores > common.cut, labels) == pytest.approx(common.f1, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_counting_with_the_found_cuts_gives_their_f1(dtype: torch.dtype) -> None:
    logits, targets = draw(images=5000)  # large enough for the counting in buckets
    logits = logits.to(dtype)
    found, common = best_cuts(logits, targets), best_cut(logits, targets)
    counts = count_above(logits, targets, cuts=torch.from_numpy(found.cuts))
    np.testing.assert_allclose(counts.f1, found.f1, atol=1e-12)
    assert overall_and_per_class(counts)["macro_F1"] == pytest.approx(found.f1.mean(), abs=1e-12)
    at_common = overall_and_per_class(count_above(logits, targets, cuts=common.cut))
    assert at_common["OF1"] == pytest.approx(common.f1, abs=1e-12)
    plain = overall_and_per_class(count_at_threshold(logits, targets))
    assert common.f1 >= plain["OF1"] and found.f1.mean() >= plain["macro_F1"]


@pytest.mark.parametrize("gap", [1.0, 1e-7, 0.0])
def test_the_cut_lies_between_the_scores_it_parts_however_close(gap: float) -> None:
    high = np.float32(1.5)
    low = np.nextafter(high, np.float32(0)) if gap == 0 else high - np.float32(gap)
    logits = torch.tensor([[high], [high], [low], [-5]], dtype=torch.float32)
    found = best_cut(logits, torch.tensor([[1], [1], [0], [0]]))
    assert float(low) <= found.cut < float(high) and found.f1 == 1
    if gap == 1.0:
        assert found.cut == 1.0


def test_extreme_logits_have_exact_cuts_too() -> None:
    logits = torch.tensor([[torch.inf], [3e38], [-3e38], [-torch.inf]])
    for positives, expected in (([1, 0, 0, 0], 1.0), ([1, 1, 0, 0], 1.0), ([1, 1, 1, 0], 1.0), ([0, 0, 1, 0], 0.5)):
        targets = torch.tensor(positives).view(4, 1)
        found = best_cut(logits, targets)
        assert found.f1 == expected
        assert count_above(logits, targets, cuts=found.cut).f1[0] == expected


def test_of_equal_f1_the_highest_cut_is_taken() -> None:
    logits = torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    targets = torch.tensor([[1], [0], [0], [1]])  # 2/3 above 3, and 2/3 above 0
    assert best_cut(logits, targets).cut == 3.5


def test_classes_with_few_positives_share_the_common_cut() -> None:
    logits, targets = draw()
    targets[:, 0] = 0
    targets[5:, 1] = 0
    targets[:5, 1] = torch.tensor([1, 1, 1, 1, 0])
    found, common = best_cuts(logits, targets, min_positives=5), best_cut(logits, targets)
    assert found.own.tolist() == [False, False, True, True, True, True, True]
    assert (found.cuts[:2] == common.cut).all() and found.f1[0] == 0
    assert found.f1[1] == count_above(logits, targets, cuts=common.cut).f1[1]
    assert best_cuts(logits, targets, min_positives=4).own[1]


def test_cuts_of_one_class_or_entry_are_compared_with_its_own_logits() -> None:
    logits, targets = draw()
    cuts = torch.linspace(-2, 2, 7, dtype=torch.float64)
    counts = count_above(logits, targets, cuts=cuts)
    assert counts.predicted.tolist() == (logits > cuts).sum(0).tolist()
    entry = count_above(logits, targets, cuts=cuts.expand(300, 7))
    assert all(np.array_equal(a, b) for a, b in zip(counts, entry, strict=True))
    assert summarize(logits, targets, cuts=cuts).scalars["macro_F1"] == pytest.approx(
        100 * overall_and_per_class(counts)["macro_F1"]
    )
    with pytest.raises(ValueError, match=r"cuts must be .* got \(6,\)"):
        count_above(logits, targets, cuts=torch.zeros(6))
    with pytest.raises(ValueError, match="NaN"):
        count_above(logits, targets, cuts=torch.full((7,), torch.nan))


def test_adjustment_shifts_classes_and_leaves_their_average_precision() -> None:
    logits, targets = draw()
    odds, before = np.log(np.linspace(0.01, 1, 7)), logits.clone()
    adjusted = adjust_logits(logits, odds, 0.5)
    assert torch.equal(logits, before)
    np.testing.assert_allclose(adjusted.numpy(), logits.numpy() - 0.5 * odds, atol=1e-12)
    assert torch.equal(average_precision(adjusted, targets), average_precision(logits, targets))
    with pytest.raises(ValueError, match="one per class"):
        adjust_logits(logits, odds[:3], 0.5)


def test_the_best_tau_undoes_a_known_shift_and_prefers_none() -> None:
    logits, targets = draw(images=4000)
    odds = np.log(np.linspace(0.02, 0.5, 7) / np.linspace(0.98, 0.5, 7))

    def score(adjusted: Tensor) -> float:
        return overall_and_per_class(count_at_threshold(adjusted, targets))["macro_F1"]

    tau, value = best_tau(logits, odds, score)
    assert value == max(score(adjust_logits(logits, odds, t)) for t in TAUS)
    shifted, _ = best_tau(logits + torch.tensor(0.5 * odds), odds, score)
    assert shifted == pytest.approx(tau + 0.5, abs=1e-9)
    assert best_tau(logits, odds, lambda adjusted: 1.0)[0] == 0


def test_folds_are_even_and_reproducible() -> None:
    fold = folds(103, 5)
    assert sorted(np.bincount(fold)) == [20, 20, 21, 21, 21]
    assert np.array_equal(fold, folds(103, 5)) and not np.array_equal(fold, folds(103, 5, seed=1))
    assert not np.array_equal(fold, np.arange(103) % 5), "files are often sorted by class"
    for count in (1, 104):
        with pytest.raises(ValueError, match="folds must be 2 to"):
            folds(103, count)


def test_what_an_image_gets_never_depends_on_its_own_labels() -> None:
    logits, targets = draw()
    fold = folds(300, 4)

    def find(targets: Tensor, chosen: np.ndarray) -> Tensor:
        rows = torch.from_numpy(np.flatnonzero(chosen))
        return torch.from_numpy(best_cuts(logits[rows], targets[rows]).cuts)

    cuts = crossed(functools.partial(find, targets), fold)
    changed = targets.clone()
    changed[fold == 2] = 1 - changed[fold == 2]
    again = crossed(functools.partial(find, changed), fold)
    assert torch.equal(again[fold == 2], cuts[fold == 2])
    assert not torch.equal(again[fold == 1], cuts[fold == 1])


def test_wrong_arguments_are_refused_in_words() -> None:
    logits, targets = draw()
    with pytest.raises(ValueError, match="no entry is positive"):
        best_cut(logits, targets.clamp(max=0))
    with pytest.raises(ValueError, match="min_positives=0"):
        best_cuts(logits, targets, min_positives=0)
    with pytest.raises(ValueError, match="targets must be 1"):
        best_cut(logits, targets + 1)
    with pytest.raises(ValueError, match="NaN"):
        best_cut(logits * torch.nan, targets)


@pytest.mark.parametrize("levels", [None, 8, 2])
@pytest.mark.parametrize("least", [0.1, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("kept", ["recall", "precision"])
def test_no_cut_that_keeps_the_one_has_more_of_the_other(kept: str, least: float, levels: int | None) -> None:
    logits, targets = draw(levels=levels, unknown=0.2)
    found = best_cuts(logits, targets, Criterion(**{kept: least}), min_positives=1) if kept == "recall" else None
    for c in range(logits.shape[1]):
        labels = targets[:, c : c + 1]
        scores = logits[:, c].numpy()[labels[:, 0] >= 0]
        positive = labels[:, 0].numpy()[labels[:, 0] >= 0] == 1
        chosen = scores[:, None] > np.array([-np.inf, *np.unique(scores)])[:-1]
        hits = (chosen & positive[:, None]).sum(0)
        recall, precision = hits / positive.sum(), hits / chosen.sum(0)
        held, raised = (recall, precision) if kept == "recall" else (precision, recall)
        try:
            cut = best_cut(logits[:, c : c + 1], labels, Criterion(**{kept: least})).cut
        except ValueError:
            assert kept == "precision" and not ((held >= least) & (hits > 0)).any()
            continue
        mine = scores > cut
        own = {"recall": mine[positive].mean(), "precision": positive[mine].mean()}
        assert own.pop(kept) >= least - 1e-12
        assert own.popitem()[1] == pytest.approx(raised[held >= least].max(), abs=1e-12)
        assert found is None or found.cuts[c] == cut


def test_of_equal_precision_the_cut_with_more_recall_is_taken() -> None:
    logits = torch.tensor([[5.0], [4.0], [3.0], [2.0], [1.0]])
    targets = torch.tensor([[1], [1], [1], [0], [1]])
    assert best_cut(logits, targets, Criterion(recall=0.25)).cut == 2.5


def test_a_class_that_reaches_the_precision_nowhere_takes_the_common_cut() -> None:
    logits = torch.tensor([[9.0, 5.0], [8.0, 4.0], [7.0, 1.0], [6.0, -9.0]])
    targets = torch.tensor([[1, 0], [1, 1], [1, 0], [0, 0]])
    criterion = Criterion(precision=0.7)
    found = best_cuts(logits, targets, criterion, min_positives=1)
    assert found.own.tolist() == [True, False]
    assert found.cuts[1] == best_cut(logits, targets, criterion).cut
    with pytest.raises(ValueError, match=r"no threshold gives recall at a precision of 0\.7"):
        best_cut(logits[:, 1:], targets[:, 1:], criterion)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 0.5, "precision": 0.5}, "give one"),
        ({"recall": 0}, "recall=0: must be above 0"),
        ({"precision": 1.5}, "at most 1"),
    ],
)
def test_criteria_that_mean_nothing_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Criterion(**options)
