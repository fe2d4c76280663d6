from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch

from mltrain.pipeline.augment import EvalResize
from mltrain.pipeline.buffers import BatchBuffers, Lent, hand_out
from mltrain.pipeline.loader import EvalLoader, TrainLoader

from .test_loader import equal, train_loader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def lend(buffers: BatchBuffers) -> Lent:
    lent = buffers.lend()
    assert lent is not None
    return lent


def buffers_of(loader: TrainLoader | EvalLoader) -> BatchBuffers:
    return loader._loader.sampler._buffers  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t,
        lambda t: t[3:5],
        lambda t: t.view(2, 50).T,
        lambda t: t.view(torch.int8),
        lambda t: t.numpy()[1:],
        lambda t: memoryview(t.numpy()),
        lambda t: np.asarray(memoryview(t.numpy())),
        lambda t: t.detach().requires_grad_(False),
    ],
)
def test_a_buffer_is_free_when_the_last_view_of_it_is_gone_and_no_sooner(view):
    buffers = BatchBuffers(1, 100)
    lent = lend(buffers)
    buffers.memory(lent).fill_(7)
    kept = view(hand_out(lent))
    assert buffers.lend() is None
    del kept
    assert lend(buffers) == lent


def test_buffers_do_not_overlap_and_keep_what_was_written():
    buffers = BatchBuffers(3, 5000)
    lent = [lend(buffers) for _ in range(3)]
    for value, each in enumerate(lent):
        buffers.memory(each).fill_(value)
    assert [hand_out(each).unique().tolist() for each in lent] == [[0], [1], [2]]


def test_a_tensor_outlives_its_buffers():
    buffers = BatchBuffers(1, 100)
    lent = lend(buffers)
    buffers.memory(lent).fill_(7)
    kept = hand_out(lent)
    del buffers
    assert kept.eq(7).all()


def test_what_was_lent_can_be_taken_back_but_not_what_was_handed_out():
    buffers = BatchBuffers(2, 100)
    kept = hand_out(lend(buffers))
    lost = lend(buffers)
    buffers.take_back()
    assert lend(buffers) == lost and buffers.lend() is None
    del kept
    assert buffers.lend() is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_as_they_were_while_others_come_and_go(labels, workers):
    expected = [batch for epoch in range(3) for batch in train_loader(labels).epoch(epoch)]
    loader = train_loader(labels, num_workers=workers)
    kept = []
    for k, batch in enumerate(batch for epoch in range(3) for batch in loader.epoch(epoch)):
        assert torch.equal(batch.images, expected[k].images) and torch.equal(batch.targets, expected[k].targets)
        if k % 2:
            kept.append((k, batch.images[1:3], batch.targets.numpy()))
        del batch
    loader.close()
    for k, images, targets in kept:
        assert torch.equal(images, expected[k].images[1:3])
        np.testing.assert_array_equal(targets, expected[k].targets)


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_goes_round_and_none_gets_lost(damaged, workers):
    loader = train_loader(damaged, num_workers=workers, on_corrupt="skip", accumulate=2, batch_size=2)
    buffers = buffers_of(loader)
    count = len(buffers._free)
    assert count == 2 * workers + 4  # what workers have ahead, and two steps of two micro-batches
    for epoch in range(4):
        stream = loader.epoch(epoch)
        step = [next(stream), next(stream)]
        step = [next(stream), next(stream)]
        assert all(batch.images.untyped_storage().nbytes() == buffers.size for batch in step)  # no memory of its own
        del step, stream  # left in the middle
    loader.close()
    buffers.take_back()
    assert sorted(buffers._free) == list(range(count))


def test_spawned_workers_give_the_same_batches(labels, monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    transform = EvalResize(image_size=16)
    spawned = EvalLoader(labels, transform, batch_size=6, num_workers=1)
    equal(EvalLoader(labels, transform, batch_size=6, num_workers=0), spawned)
    spawned.close()


def test_pinning_frees_the_buffer_at_once(labels, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    loader = train_loader(labels)
    buffers = buffers_of(loader)
    count = len(buffers._free)
    packed = [next(iter(loader._loader)).pin_memory() for _ in range(2 * count)]
    assert len(buffers._free) == count
    first = next(iter(train_loader(labels).epoch(0)))
    assert all(torch.equal(each.unpack().images, first.images) for each in packed)
