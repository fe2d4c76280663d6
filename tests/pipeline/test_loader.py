from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from mltrain.errors import DataError
from mltrain.pipeline import batch as batch_module
from mltrain.pipeline import workers as workers_module
from mltrain.pipeline.augment import EvalResize, TrainAugment
from mltrain.pipeline.batch import Batch
from mltrain.pipeline.loader import EvalLoader, TrainLoader
from mltrain.pipeline.samplers import UniformSampler
from mltrain.pipeline.workers import default_workers, start_loading

from .conftest import harmed_or_sound_jpeg, make_labels

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SEED = 11


def train_loader(labels, **options) -> TrainLoader:
    augment = TrainAugment(image_size=16, crop="random_resized", color_jitter=0.3, cutout=0.5, randaugment_ops=1)
    options = {"batch_size": 4, "num_workers": 0, "seed": SEED, **options}
    return TrainLoader(labels, augment, UniformSampler(labels=labels, seed=SEED), **options)


def gather(loader) -> list[Batch]:
    batches = list(loader)
    loader.close()
    return batches


def gather_epoch(loader: TrainLoader) -> list[Batch]:
    batches = list(loader.epoch(0))
    loader.close()
    return batches


def equal(first: Iterable[Batch], second: Iterable[Batch]) -> None:
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
        assert torch.equal(a.indices, b.indices) and a.corrupt == b.corrupt


def test_a_batch_is_uint8_channels_last_with_the_targets_of_its_images(labels):
    for batch in train_loader(labels).epoch(0):
        assert batch.images.shape == (4, 3, 16, 16) and batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.targets.dtype == torch.int8 and batch.indices.dtype == torch.int64
        np.testing.assert_array_equal(batch.targets.numpy(), labels.targets_batch(batch.indices.numpy()))
        assert {-1, 0, 1} >= set(batch.targets.flatten().tolist())
    assert (labels.dense() == -1).any()


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_workers(labels, workers):
    alone, helped = train_loader(labels), train_loader(labels, num_workers=workers)
    for epoch in (0, 1, 5):
        equal(alone.epoch(epoch), helped.epoch(epoch))
    helped.close()
    options = {"batch_size": 6, "num_workers": 0}
    transform = EvalResize(image_size=16)
    serial = gather(EvalLoader(labels, transform, **options))
    parallel = EvalLoader(labels, transform, **{**options, "num_workers": workers})
    equal(serial, parallel)
    equal(serial, parallel)  # a second pass with the same workers
    parallel.close()


def test_epochs_and_seeds_differ_in_order_and_in_augmentation(labels):
    loader, other = train_loader(labels), train_loader(labels, seed=SEED + 1)
    first, second, third = (list(x.epoch(e)) for x, e in ((loader, 0), (loader, 1), (other, 0)))
    assert not torch.equal(first[0].indices, second[0].indices)
    assert torch.equal(first[0].indices, third[0].indices)  # same sampler, so only the augmentation differs
    assert not torch.equal(first[0].images, third[0].images)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_continues_exactly_from_any_step(labels, workers):
    loader = train_loader(labels, num_workers=workers, accumulate=2)
    whole = list(loader.epoch(3))
    assert loader.steps_per_epoch == 2 and len(whole) == 4
    for step in (1, 0, 2):
        equal(loader.epoch(3, start_step=step), whole[2 * step :])
    loader.close()


def test_what_comes_before_the_start_is_not_loaded(labels, monkeypatch):
    read = []
    monkeypatch.setattr(
        batch_module, "read_image", lambda path, damage: read.append(path) or np.zeros((8, 8, 3), np.uint8)
    )
    loader = train_loader(labels)
    list(loader.epoch(0, start_step=4))
    assert len(read) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_does_not_disturb_the_next(labels, workers):
    expected = [list(train_loader(labels).epoch(e)) for e in range(2)]
    loader = train_loader(labels, num_workers=workers)
    left = loader.epoch(0)
    next(left), next(left)
    equal(loader.epoch(1), expected[1])
    equal(loader.epoch(0), expected[0])
    with pytest.raises(RuntimeError, match="another one has been started"):
        next(left)
    loader.close()


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (2, 2), (1, 2)])
def test_ranks_and_accumulation_only_cut_the_steps_of_one_process(labels, world_size, accumulate):
    step = 8
    whole = list(train_loader(labels, batch_size=step).epoch(1))
    parts = [
        list(
            train_loader(
                labels, batch_size=step // accumulate, accumulate=accumulate, rank=r, world_size=world_size
            ).epoch(1)
        )
        for r in range(world_size)
    ]
    assert len(whole) == 2
    for k, expected in enumerate(whole):
        pieces = [parts[r][k * accumulate + m] for m in range(accumulate) for r in range(world_size)]
        assert all(len(piece.indices) == step // accumulate // world_size for piece in pieces)
        assert torch.equal(torch.cat([piece.images for piece in pieces]), expected.images)
        assert torch.equal(torch.cat([piece.targets for piece in pieces]), expected.targets)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_set_smaller_than_a_step_makes_one_short_step(labels, world_size, workers):
    few, options = labels.select(range(4)), {"batch_size": 6, "accumulate": 2, "num_workers": workers}
    loaders = [train_loader(few, rank=r, world_size=world_size, **options) for r in range(world_size)]
    assert all(loader.steps_per_epoch == 1 for loader in loaders)
    batches = [gather_epoch(loader) for loader in loaders]
    assert all(len(of_rank) == 2 for of_rank in batches)
    seen = sorted(i for of_rank in batches for batch in of_rank for i in batch.indices.tolist())
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_sees_each_image_once_over_all_ranks(labels, world_size):
    loaders = [
        EvalLoader(labels, EvalResize(image_size=8), batch_size=6, rank=r, world_size=world_size, num_workers=0)
        for r in range(world_size)
    ]
    batches = [batch for loader in loaders for batch in loader]
    assert sum(len(loader) for loader in loaders) == len(batches)
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(len(labels)))


@pytest.mark.parametrize("workers", [0, 2])
def test_random_state_of_the_process_is_untouched(labels, workers):
    torch.manual_seed(1), random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    loader = train_loader(labels, num_workers=workers)
    list(loader.epoch(0)), list(loader.epoch(1))
    loader.close()
    gather(EvalLoader(labels, EvalResize(image_size=16), batch_size=4, num_workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_the_next_epoch_is_loaded_ahead(labels, monkeypatch):
    loader = train_loader(labels, num_workers=1)
    last = list(loader.epoch(0))
    stream = loader._stream
    equal(loader.epoch(1), train_loader(labels).epoch(1))
    assert loader._stream is stream and len(last) == loader.steps_per_epoch
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_stops_with_its_path_and_one_line(damaged, workers):
    loader = train_loader(damaged, num_workers=workers)
    with pytest.raises(DataError, match=r"0[37]\.jpg: ") as caught:
        list(loader.epoch(0))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"0[37]\.jpg: "):  # still usable, and still stops
        list(loader.epoch(1))
    loader.close()
    evaluation = EvalLoader(damaged, EvalResize(image_size=16), batch_size=4, num_workers=workers)
    with pytest.raises(DataError, match=r"03\.jpg: the file is empty"):
        list(evaluation)
    evaluation.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_shortens_the_batch_and_changes_no_other_image(damaged, workers):
    loader = train_loader(damaged, num_workers=workers, on_corrupt="skip", corrupt_budget=2)
    batches = [batch for epoch in range(3) for batch in loader.epoch(epoch)]
    assert sum(len(batch.indices) for batch in batches) == 30
    lines = [line for batch in batches for line in batch.corrupt]
    assert len(lines) == 6 and len(loader.corrupt) == 2
    for batch in batches:
        assert len(batch.images) == len(batch.targets) == len(batch.indices) == 4 - len(batch.corrupt)
        np.testing.assert_array_equal(batch.targets.numpy(), damaged.targets_batch(batch.indices.numpy()))
    loader.close()
    whole = train_loader(damaged, on_corrupt="skip", batch_size=12)
    (joined,) = whole.epoch(0)
    assert torch.equal(joined.images, torch.cat([batch.images for batch in batches[:3]]))


def test_the_corrupt_budget_ends_the_run_with_the_paths(damaged):
    loader = train_loader(damaged, on_corrupt="skip", corrupt_budget=1)
    with pytest.raises(DataError, match=r"2 images cannot be decoded, more than corrupt_budget=1") as caught:
        list(loader.epoch(0))
    assert "03.jpg" in str(caught.value) and "07.jpg" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_corrupt_images_only_is_empty(damaged, workers):
    loader = train_loader(damaged.select([3, 7]), batch_size=2, num_workers=workers, on_corrupt="skip")
    (batch,) = loader.epoch(0)
    assert batch.images.shape == (0, 3, 16, 16) and batch.targets.shape == (0, damaged.num_classes)
    assert batch.indices.shape == (0,) and len(batch.corrupt) == 2
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_jpeg_files_with_damage_that_libjpeg_decodes_are_counted_in_one_line(tmp_path, workers, caplog, capfd):
    for i in range(8):
        harmed_or_sound_jpeg(tmp_path / f"{i}.jpg", i, harmed=i in (2, 5))
    labels = make_labels(tmp_path)
    training = train_loader(labels, batch_size=4, accumulate=1, num_workers=workers)
    evaluation = EvalLoader(labels, EvalResize(image_size=16), batch_size=4, num_workers=workers)
    for loader, batches in ((training, lambda: training.epoch(0)), (evaluation, lambda: evaluation)):
        caplog.clear()
        taken = list(itertools.islice(batches(), 2))  # as the runner does: no more than there are
        assert sum(len(batch.indices) for batch in taken) == 8, "training and evaluation use them as before"
        (line,) = [record.getMessage() for record in caplog.records]
        assert (
            line.startswith("test: damaged JPEG files: 2; used as far as they decode") and "Corrupt JPEG data" in line
        )
        assert str(tmp_path) in line
        list(batches())
        assert len(caplog.records) == 1, "the same files are not reported again"
        loader.close()
    assert "Corrupt JPEG" not in capfd.readouterr().err


def test_torch_pins_the_memory_of_a_whole_batch(labels, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: pinned.append(len(tensor)) or tensor)
    loader = train_loader(labels)
    batch = pin_memory(next(start_loading(loader._loader, loader.waiting))).unpack()
    assert pinned == [batch.images.numel() + batch.targets.numel()]


@pytest.mark.gpu
def test_pinned_batches_are_the_same(labels):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device to pin memory for")
    loader = train_loader(labels, num_workers=1, pin_memory=True)
    pinned = list(loader.epoch(0))
    assert all(b.images.is_pinned() and b.images.is_contiguous(memory_format=torch.channels_last) for b in pinned)
    equal(pinned, train_loader(labels).epoch(0))
    loader.close()


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


@needs_proc
def test_close_ends_the_workers(labels):
    before = set(_children(os.getpid()))
    loader = train_loader(labels, num_workers=2)
    next(loader.epoch(0))
    workers = set(_children(os.getpid())) - before
    assert len(workers) >= 2
    loader.close()
    assert _until(lambda: all(_gone(pid) for pid in workers), 3)
    equal(loader.epoch(0), train_loader(labels).epoch(0))  # and it can be used again
    loader.close()


@needs_proc
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_group_leave_the_workers_at_work(labels, signum):
    before = set(_children(os.getpid()))
    loader = train_loader(labels, num_workers=2)
    stream = loader.epoch(0)
    batches = [next(stream)]
    for pid in set(_children(os.getpid())) - before:
        os.kill(pid, signum)
    equal([*batches, *stream], train_loader(labels).epoch(0))
    loader.close()


@needs_proc
def test_workers_that_give_nothing_are_an_error_after_a_while_and_can_be_replaced(labels, monkeypatch):
    monkeypatch.setattr(workers_module, "PATIENCE", 1.0)
    before = set(_children(os.getpid()))
    loader = train_loader(labels, num_workers=2)
    stream = loader.epoch(0)
    next(stream)
    workers = set(_children(os.getpid())) - before
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DataError, match=r"test: no batch has come from the 2 workers.*can be read"):
        list(loader.epoch(1))
    assert _until(lambda: all(_gone(pid) for pid in workers), 3)
    equal(loader.epoch(0), train_loader(labels).epoch(0))
    loader.close()


@needs_proc
def test_an_evaluation_looks_around_while_no_batch_comes(labels, monkeypatch):
    monkeypatch.setattr(workers_module, "LOOK_SECONDS", 0.05)
    before = set(_children(os.getpid()))
    loader = EvalLoader(labels, EvalResize(image_size=16), batch_size=1, num_workers=1)
    batches = iter(loader)
    next(batches)
    for pid in set(_children(os.getpid())) - before:
        os.kill(pid, signal.SIGSTOP)

    def look():
        raise KeyboardInterrupt

    loader.waiting.look = look
    with pytest.raises(KeyboardInterrupt):
        list(batches)
    loader.waiting.look = None
    assert len(list(loader)) == len(labels)
    loader.close()


@needs_proc
def test_a_killed_worker_is_an_error_in_the_wait_and_nowhere_else(labels):
    before = set(_children(os.getpid()))
    loader = train_loader(labels, num_workers=2)
    stream = loader.epoch(0)
    next(stream)
    worker = next(iter(set(_children(os.getpid())) - before))
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.5)  # torch would raise here, or in the middle of an optimizer step
    with pytest.raises(DataError, match=rf"process {worker}\) was killed by SIGKILL.*memory.*data.num_workers=1"):
        list(stream)
    loader.close()


@needs_proc
def test_a_signal_while_workers_start_does_not_kill_them(labels, monkeypatch):
    slow = workers_module._init_worker

    def init(*args):
        time.sleep(0.3)  # the moment before a worker decides what it does at a signal
        slow(*args)

    monkeypatch.setattr(workers_module, "_init_worker", init)
    before = set(_children(os.getpid()))
    loader = train_loader(labels, num_workers=2)
    started = workers_module.start_loading(loader._loader, loader.waiting)
    workers = set(_children(os.getpid())) - before
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    assert len(workers) >= 2 and next(started) is not None
    assert not any(_gone(pid) for pid in workers)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())  # and the main process listens again
    loader.close()


def _load_and_wait(labels, ready) -> None:
    next(train_loader(labels, num_workers=2).epoch(0))
    ready.set()
    time.sleep(60)


@needs_proc
@pytest.mark.parametrize("while_starting", [False, True])
def test_workers_die_with_the_process(labels, monkeypatch, while_starting):
    init = workers_module._init_worker

    def slow(*args):
        time.sleep(0.5 * args[-1])  # the second worker has not begun when the first has given a batch
        init(*args)

    if while_starting:
        monkeypatch.setattr(workers_module, "_init_worker", slow)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_load_and_wait, args=(labels, ready))
    process.start()
    assert process.pid is not None and ready.wait(20)
    workers = _children(process.pid)
    assert len(workers) >= 2
    process.kill()
    process.join()
    assert _until(lambda: all(_gone(pid) for pid in workers), 3)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"accumulate": 0},
        {"rank": 2, "world_size": 2},
        {"batch_size": 5, "world_size": 2},
        {"on_corrupt": "ignore"},
        {"corrupt_budget": -1},
        {"num_workers": -1},
        {"prefetch": 0},
    ],
)
def test_wrong_arguments_are_refused(labels, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        train_loader(labels, **options)


def test_a_start_beyond_the_epoch_and_an_empty_set_are_refused(labels):
    with pytest.raises(ValueError, match="start_step=9: the epoch has 5 steps"):
        train_loader(labels).epoch(0, start_step=9)
    with pytest.raises(ValueError, match="no image"):
        train_loader(labels.select([]))


def test_default_workers_share_the_cores_among_local_ranks(monkeypatch):
    monkeypatch.setattr("mltrain.pipeline.workers.available_cores", lambda: 32)
    assert (default_workers(True), default_workers(False)) == (16, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert (default_workers(True), default_workers(False)) == (3, 1)
