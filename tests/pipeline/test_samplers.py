from __future__ import annotations

import numpy as np
import torch

from mltrain.pipeline.keys import hash_key, keyed_generator
from mltrain.pipeline.samplers import UniformSampler


def test_uniform_shows_every_image_once_in_an_order_that_only_seed_and_epoch_decide(labels):
    sampler, same, other = (UniformSampler(labels=labels, seed=seed) for seed in (3, 3, 4))
    late = sampler.order(7)
    torch.manual_seed(0)
    orders = [sampler.order(epoch) for epoch in range(3)]
    for order in orders:
        assert order.dtype == np.int64 and len(sampler) == len(order)
        np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))
    np.testing.assert_array_equal(same.order(7), late)
    assert not np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], other.order(0))


def test_keys_of_near_integers_are_far_apart():
    keys = {hash_key(a, b, c) for a in range(20) for b in range(20) for c in range(20)}
    assert len(keys) == 8000 and all(0 <= key < 2**63 for key in keys)
    bits = np.array([[key >> k & 1 for k in range(63)] for key in keys])
    assert np.abs(bits.mean(0) - 0.5).max() < 0.03
    assert hash_key(1, 2) != hash_key(2, 1) and hash_key(1) != hash_key(1, 0)


def test_keyed_generators_leave_the_default_one_alone():
    state = torch.get_rng_state()
    first = torch.rand(3, generator=keyed_generator(1, 2))
    assert torch.equal(first, torch.rand(3, generator=keyed_generator(1, 2)))
    assert torch.equal(state, torch.get_rng_state())
