from __future__ import annotations

import importlib
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from mltrain.metrics import average_precision, micro_average_precision

module = importlib.import_module("mltrain.metrics.average_precision")  # the package's attribute is the function


def reference(logits: Tensor, targets: Tensor) -> np.ndarray:
    scores, labels = logits.double().numpy(), targets.numpy()
    result = np.full(labels.shape[1], np.nan)
    for index in range(labels.shape[1]):
        known = labels[:, index] != -1
        if (labels[known, index] == 1).any():
            result[index] = average_precision_score(labels[known, index], scores[known, index])
    return result


def assert_equal(logits: Tensor, targets: Tensor) -> None:
    result = average_precision(logits, targets)
    assert result.dtype == torch.float64
    assert result.shape == (targets.shape[1],)
    np.testing.assert_allclose(result.numpy(), reference(logits, targets), rtol=0, atol=1e-9, equal_nan=True)


def draw(images: int, classes: int, *, rate: float = 0.1, unknown: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, classes, generator=generator) < rate).to(torch.int8)
    logits = torch.randn(images, classes, generator=generator) + targets
    targets[torch.rand(images, classes, generator=generator) < unknown] = -1
    return logits, targets


# Below 2,048 known images all scores are sorted, above it only those in a bucket with a positive: both are tried.
@pytest.mark.parametrize("images", [1, 7, 300, 5000])
@pytest.mark.parametrize("rate", [0.002, 0.1, 0.9])
@pytest.mark.parametrize("unknown", [0.0, 0.3])
@pytest.mark.parametrize("levels", [None, 1, 2, 40])
def test_average_precision_equals_scikit_learn_with_ties(images: int, rate: float, unknown: float, levels: int | None):
    logits, targets = draw(images, 9, rate=rate, unknown=unknown, seed=images)
    if levels is not None:
        logits = (logits.clamp(-3, 3) / 6 * (levels - 1)).round()
    assert_equal(logits, targets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("images", [200, 4000])
def test_average_precision_ranks_the_scores_of_every_dtype_exactly_as_given(dtype: torch.dtype, images: int):
    logits, targets = draw(images, 6)
    assert_equal((logits * 5).to(dtype), targets)


def test_average_precision_keeps_differences_that_only_fp64_holds():
    logits, targets = draw(3000, 3, rate=0.2)
    assert_equal(1.0 + 1e-12 * logits.double(), targets)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float16, torch.float32, torch.float64])
def test_average_precision_takes_targets_of_every_dtype(dtype: torch.dtype):
    logits, targets = draw(400, 5, unknown=0.2)
    assert torch.equal(average_precision(logits, targets.to(dtype)), average_precision(logits, targets))
    known = targets.clamp(min=0)
    assert torch.equal(average_precision(logits, known.bool()), average_precision(logits, known))
    assert torch.equal(average_precision(logits, known.to(torch.uint8)), average_precision(logits, known))


def test_average_precision_of_all_positive_single_positive_and_no_positive_classes():
    logits, _ = draw(3000, 4)
    targets = torch.zeros(3000, 4, dtype=torch.int8)
    targets[:, 0] = 1
    targets[17, 1] = 1
    targets[:5, 2] = -1
    rank = int((logits[:, 1] >= logits[17, 1]).sum())
    result = average_precision(logits, targets)
    assert result[0] == 1.0
    assert result[1] == pytest.approx(1 / rank, abs=1e-15)
    assert torch.isnan(result[2:]).all()


def test_average_precision_of_scores_of_very_unlike_size_equals_scikit_learn():
    logits, targets = draw(4000, 4, rate=0.05)
    logits = torch.sinh(8 * logits)  # nearly all fall into one bucket
    logits[0] = 3e38
    logits[1] = -3e38
    targets[:2] = 1
    targets[1, 1:] = 0
    assert_equal(logits, targets)
    assert_equal(logits * 1e-42, targets)  # subnormal


def test_average_precision_ranks_infinities_at_the_ends_and_zeros_as_tied():
    logits, targets = draw(3000, 3, rate=0.2)
    logits[::50] = float("inf")
    logits[1::50] = float("-inf")
    finite = logits.clamp(-100, 100)
    assert torch.equal(average_precision(logits, targets), average_precision(finite, targets))
    logits[:] = 0.0
    logits[::2] = -0.0
    assert torch.allclose(average_precision(logits, targets), targets.double().mean(dim=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [None, 30])
@pytest.mark.parametrize("images", [500, 6000])
def test_order_of_images_does_not_change_a_bit(images: int, levels: int | None):
    logits, targets = draw(images, 8, unknown=0.1)
    if levels is not None:
        logits = (logits * levels / 6).round()
    expected = average_precision(logits, targets)
    for seed in range(3):
        order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(average_precision(logits[order], targets[order]), expected)


@pytest.mark.parametrize("entries", [40, 3000, 7000, 10**9])
@pytest.mark.parametrize("threads", [1, 3])
def test_block_size_and_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, entries: int, threads: int):
    logits, targets = draw(3000, 7, unknown=0.1)
    expected, expected_micro = average_precision(logits, targets), micro_average_precision(logits, targets)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(module, "BLOCK_ENTRIES", entries)
    assert torch.equal(average_precision(logits, targets), expected)
    assert micro_average_precision(logits, targets) == expected_micro


def test_extra_memory_does_not_grow_with_the_number_of_classes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "BLOCK_ENTRIES", 1 << 16)
    copied = []  # torch's own allocations, which tracemalloc does not see
    for name in ("to_scores", "to_labels"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda part, f=original: (copied.append(part.numel()), f(part))[1])

    def peak(classes: int) -> int:
        logits, targets = draw(3000, classes)
        tracemalloc.start()
        average_precision(logits, targets)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(400) < 1.5 * peak(100) + 100_000
    assert len(copied) > 20
    assert max(copied) <= 1 << 16


def test_average_precision_reads_strided_and_gradient_carrying_logits_without_changing_them():
    logits, targets = draw(600, 10)
    wide = torch.stack([logits, -logits], dim=2)
    assert torch.equal(average_precision(wide[:, :, 0], targets), average_precision(logits, targets))
    leaf = logits.clone().requires_grad_()
    assert torch.equal(average_precision(leaf, targets), average_precision(logits, targets))
    copy = logits.clone()
    average_precision(logits, targets)
    assert torch.equal(logits, copy)


@pytest.mark.parametrize("function", [average_precision, micro_average_precision])
def test_nan_logits_are_refused_with_their_number(function):
    logits, targets = draw(300, 5)
    logits[3, 1] = logits[200, 4] = logits[7, 0] = float("nan")
    with pytest.raises(ValueError, match="3 of 1500 logits are NaN"):
        function(logits, targets)


@pytest.mark.parametrize("function", [average_precision, micro_average_precision])
@pytest.mark.parametrize("value", [0.5, 2.0, -2.0, float("nan"), 256.0])
def test_targets_other_than_1_0_and_minus_1_are_refused(function, value: float):
    logits, targets = draw(30, 5)
    wrong = targets.float()
    wrong[4, 2] = value
    with pytest.raises(ValueError, match="targets must be"):
        function(logits, wrong)


@pytest.mark.parametrize("function", [average_precision, micro_average_precision])
def test_shapes_and_integer_logits_are_refused(function):
    logits, targets = draw(30, 5)
    with pytest.raises(ValueError, match=r"\(30, 5\) and \(30, 4\)"):
        function(logits, targets[:, :4])
    with pytest.raises(ValueError, match=r"\(images, classes\)"):
        function(logits[:, 0], targets[:, 0])
    with pytest.raises(ValueError, match="floating point"):
        function(targets, targets)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_empty_inputs_have_no_average_precision(shape: tuple[int, int]):
    logits, targets = torch.zeros(shape), torch.zeros(shape, dtype=torch.int8)
    result = average_precision(logits, targets)
    assert result.shape == (shape[1],)
    assert torch.isnan(result).all()
    assert np.isnan(micro_average_precision(logits, targets))


@pytest.mark.parametrize("levels", [None, 25])
@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_micro_average_precision_equals_scikit_learn(levels: int | None, unknown: float):
    logits, targets = draw(2000, 7, unknown=unknown)
    if levels is not None:
        logits = (logits * levels / 6).round()
    known = targets >= 0
    expected = average_precision_score(targets[known].numpy(), logits[known].numpy(), average="micro")
    assert micro_average_precision(logits, targets) == pytest.approx(expected, abs=1e-9)


def test_no_warning_reaches_the_user():
    logits, targets = draw(3000, 5, unknown=0.2)
    logits[0], logits[1] = float("inf"), float("-inf")
    targets[:, 3] = 0
    logits[:, 4] = 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average_precision(logits, targets)
        micro_average_precision(logits, targets)


@pytest.mark.gpu
def test_average_precision_of_cuda_tensors_equals_that_on_the_cpu():
    logits, targets = draw(3000, 11, unknown=0.1)
    assert torch.equal(average_precision(logits.cuda(), targets.cuda()), average_precision(logits, targets))
    assert micro_average_precision(logits.cuda(), targets.cuda()) == micro_average_precision(logits, targets)
