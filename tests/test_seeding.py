from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch

from mltrain.seeding import generator_for, key_hash, seed_start, seed_step, splitmix64


@pytest.fixture(autouse=True)
def _fast_kernels_again():
    yield
    seed_start(0)


def test_splitmix64_gives_the_published_sequence():
    # The first outputs of the reference generator for seed 1234567; its state grows by the golden-ratio constant.
    states = [(1234567 + k * 0x9E3779B97F4A7C15) % 2**64 for k in range(3)]
    assert [splitmix64(s) for s in states] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_differ_by_value_order_length_and_kind():
    keys = [
        (),
        (0,),
        (1,),
        (0, 0),
        (0, 1),
        (1, 0),
        ("a",),
        ("b",),
        ("a", 0),
        (0, "a"),
        ("ab",),
        ("a", "b"),
        (2**64 - 1,),
    ]
    hashes = [key_hash(*key) for key in keys]
    assert len(set(hashes)) == len(keys)
    assert all(0 <= value < 2**64 for value in hashes)
    assert key_hash("mix", 3, 1) == 0xD827A9B334B05E83


def test_neighbouring_keys_share_about_half_their_bits():
    flips = [bin(key_hash(0, step) ^ key_hash(0, step + 1)).count("1") for step in range(500)]
    assert 30 < sum(flips) / len(flips) < 34


def test_a_step_draws_the_same_whatever_was_drawn_before():
    seed_step(3, 100, 1, 2)
    first = torch.rand(5)
    torch.manual_seed(0)
    torch.rand(1000)
    seed_step(3, 100, 1, 2)
    assert torch.equal(torch.rand(5), first)


def test_seed_step_micro_and_rank_each_change_the_draws():
    draws = []
    for key in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]:
        seed_step(*key)
        draws.append(tuple(torch.rand(3).tolist()))
    assert len(set(draws)) == 5


def test_seed_start_covers_torch_numpy_and_python():
    draws = []
    for seed in (5, 5, 6):
        seed_start(seed)
        draws.append((torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()))
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))


def test_generators_depend_on_their_key_alone():
    assert torch.equal(
        torch.rand(4, generator=generator_for(1, "mix", 2)), torch.rand(4, generator=generator_for(1, "mix", 2))
    )
    assert not torch.equal(
        torch.rand(4, generator=generator_for(1, "mix", 2)), torch.rand(4, generator=generator_for(1, "mix", 3))
    )


def test_deterministic_kernels_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    seed_start(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    seed_start(0)
    assert not torch.are_deterministic_algorithms_enabled()


def test_seeding_a_step_is_cheap():
    times = []
    for _ in range(20):
        start = time.perf_counter()
        for step in range(100):
            seed_step(0, step, 0, 0)
        times.append((time.perf_counter() - start) / 100)
    assert min(times) < 20e-6


@pytest.mark.gpu
def test_a_step_seeds_the_gpu_too():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.zeros(1, device="cuda")
    seed_step(0, 7)
    first = torch.rand(4, device="cuda")
    torch.rand(4, device="cuda")
    seed_step(0, 7)
    assert torch.equal(torch.rand(4, device="cuda"), first)
    seed_step(0, 8)
    assert not torch.equal(torch.rand(4, device="cuda"), first)
