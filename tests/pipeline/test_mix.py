from __future__ import annotations

import pytest
import torch

from mltrain.pipeline.mix import BatchMix, _beta


def batch(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Image k is k everywhere; its only positive class is k, class n is unknown for image 0 and 0 elsewhere."""
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 16, 16).clone() * 10
    targets = torch.cat([torch.eye(n, dtype=torch.int8), torch.zeros(n, 1, dtype=torch.int8)], dim=1)
    targets[0, n] = -1
    return images, targets


def run(mix: BatchMix, seed: int, images=None, targets=None):
    given = batch()
    images, targets = (given[0] if images is None else images), (given[1] if targets is None else targets)
    return mix(images, targets, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_targets_are_the_shares_of_the_pixels(kind, dtype):
    images, targets = batch()
    mix = BatchMix(**{kind: 1.0})
    for seed in range(20):
        mixed, soft = run(mix, seed, images.to(dtype))
        assert mixed.dtype == soft.dtype == torch.float32
        expected = (soft[:, :6] * torch.arange(6.0) * 10).sum(1)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(soft[:, :6].sum(1), torch.ones(6))
    assert torch.equal(images, batch()[0]) and torch.equal(targets, batch()[1])


def test_cutmix_takes_one_rectangle_and_leaves_the_rest():
    images, _ = batch()
    for seed in range(10):
        mixed, _ = run(BatchMix(cutmix=1.0), seed, images.float())
        changed = (mixed != images).any(1)[1]
        if changed.any():
            rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
            assert changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_linear_targets_are_unknown_where_either_is():
    unknown_seen = 0
    for seed in range(20):
        _, soft = run(BatchMix(mixup=1.0), seed)
        for row in range(6):
            with_first = row == 0 or soft[row, 0] > 0
            assert (soft[row, 6] == -1) == with_first
            unknown_seen += int(with_first and row > 0)
    assert unknown_seen


def test_union_targets_are_positive_if_either_is_and_else_unknown_if_either_is():
    targets = torch.tensor([[1, 1, 1, 0, 0, -1], [1, 0, -1, 0, -1, -1]])
    expected = torch.tensor([1.0, 1.0, 1.0, 0.0, -1.0, -1.0])
    mix = BatchMix(mixup=1.0, targets="union")
    seen = [run(mix, seed, torch.zeros(2, 3, 4, 4), targets)[1] for seed in range(20)]
    swapped = [soft for soft in seen if not torch.equal(soft, targets.float())]
    assert swapped and all(torch.equal(row, expected) for soft in swapped for row in soft)


def test_the_generator_decides_everything_and_nothing_else_is_drawn_from():
    state = torch.get_rng_state()
    mix = BatchMix(mixup=0.4, cutmix=1.0, probability=0.7)
    torch.testing.assert_close(run(mix, 5), run(mix, 5), rtol=0, atol=0)
    results = [run(mix, seed)[1] for seed in range(40)]
    unmixed = sum(torch.equal(soft, batch()[1].float()) for soft in results)
    assert 4 <= unmixed <= 22
    assert torch.equal(state, torch.get_rng_state())


def test_weights_follow_the_beta_distribution():
    generator = torch.Generator().manual_seed(0)
    for a in (0.2, 1.0, 4.0):
        drawn = torch.tensor([_beta(a, generator) for _ in range(4000)])
        assert abs(drawn.mean() - 0.5) < 0.03
        assert abs(drawn.var() - 1 / (4 * (2 * a + 1))) < 0.012
    assert all(0 <= _beta(1e-4, generator) <= 1 for _ in range(50))


def test_a_single_image_stays_as_it_is():
    images, targets = batch(1)
    mixed, soft = run(BatchMix(mixup=1.0), 0, images, targets)
    assert torch.equal(mixed, images.float()) and torch.equal(soft, targets.float())


@pytest.mark.parametrize(
    "options", [{}, {"mixup": -1.0}, {"mixup": 1.0, "probability": 2.0}, {"mixup": 1.0, "targets": "max"}]
)
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ValueError, match=r"mixup|probability|targets"):
        BatchMix(**options)
