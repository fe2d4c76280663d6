from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain.errors import DataError
from mltrain.pipeline import cache, store
from mltrain.pipeline.augment import EvalResize, ShorterSide, TrainAugment
from mltrain.pipeline.cache import cached_images
from mltrain.pipeline.decode import read_image
from mltrain.pipeline.loader import EvalLoader, TrainLoader
from mltrain.pipeline.samplers import UniformSampler

from .conftest import harmed_or_sound_jpeg, make_labels, photograph
from .test_loader import equal, gather


@pytest.mark.parametrize("options", [{"resize": "squish"}, {"resize": "crop", "crop_pct": 0.8}])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_from_the_cache_sees_the_same_pixels(labels, tmp_path, options, workers):
    transform = EvalResize(image_size=32, **options)
    cached = cached_images(labels, transform, folder=tmp_path)
    loaders = [EvalLoader(labels, transform, batch_size=8, num_workers=workers, cache=c) for c in (None, cached)]
    equal(*(gather(loader) for loader in loaders))
    with pytest.raises(ValueError, match="resized by"):
        EvalLoader(labels, EvalResize(image_size=16), batch_size=8, num_workers=0, cache=cached)


@pytest.mark.parametrize("options", [{}, {"color_jitter": 0.3, "cutout": 0.5, "randaugment_ops": 1}])
def test_training_on_squished_images_from_the_cache_sees_the_same_pixels(labels, tmp_path, options):
    augment = TrainAugment(image_size=32, **options)
    cached = cached_images(labels, augment.cache_resize(64), folder=tmp_path)
    loaders = [
        TrainLoader(labels, augment, UniformSampler(labels=labels), batch_size=8, num_workers=0, cache=s)
        for s in (None, cached)
    ]
    for epoch in range(2):
        equal(*(list(loader.epoch(epoch)) for loader in loaders))


def test_random_crops_from_the_cache_are_cut_from_the_shrunk_image(labels, tmp_path):
    augment = TrainAugment(image_size=16, crop="random_resized")
    cached = cached_images(labels, augment.cache_resize(24), folder=tmp_path)
    for i in range(len(labels)):
        expected = ShorterSide(size=24)(read_image(labels.path(i))).permute(1, 2, 0).numpy()
        assert min(expected.shape[:2]) == 24
        np.testing.assert_array_equal(cached.read(i), expected)


def made_at(folder: Path) -> int:
    (pixels,) = folder.glob("*.pixels")
    return pixels.stat().st_ino


def test_the_cache_is_made_once_and_again_when_an_image_has_changed(tmp_path):
    images, folder = tmp_path / "images", tmp_path / "cache"
    images.mkdir()
    for i in range(4):
        Image.fromarray(photograph(i, 30, 40)).save(images / f"{i}.png")
    labels, transform = make_labels(images), EvalResize(image_size=16)
    cached_images(labels, transform, folder=folder)
    first = made_at(folder)
    cached_images(labels, transform, folder=folder)
    assert made_at(folder) == first
    Image.fromarray(photograph(9, 30, 40)).save(images / "2.png")
    os.utime(images / "2.png", ns=(1, 1))
    cached = cached_images(labels, transform, folder=folder)
    np.testing.assert_array_equal(cached.read(2), transform(photograph(9, 30, 40)).permute(1, 2, 0).numpy())


def test_another_size_or_image_list_is_another_cache(labels, tmp_path):
    cached_images(labels, EvalResize(image_size=16), folder=tmp_path)
    cached_images(labels, EvalResize(image_size=24), folder=tmp_path)
    cached_images(labels.select([3, 1]), EvalResize(image_size=16), folder=tmp_path)
    assert len(list(tmp_path.glob("*.pixels"))) == 3


@pytest.mark.parametrize("damage", ["short-pixels", "no-index", "bad-index"])
def test_a_damaged_cache_is_made_again(labels, tmp_path, damage):
    transform = EvalResize(image_size=16)
    cached_images(labels, transform, folder=tmp_path)
    (pixels,), (index,) = tmp_path.glob("*.pixels"), tmp_path.glob("*.index.npy")
    if damage == "short-pixels":
        os.truncate(pixels, 1000)
    elif damage == "no-index":
        index.unlink()
    else:
        index.write_bytes(b"no array")
    cached = cached_images(labels, transform, folder=tmp_path)
    for i in range(len(labels)):
        expected = transform(read_image(labels.path(i))).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(cached.read(i), expected)


def test_a_full_disk_is_reported_and_leaves_nothing_in_use(labels, tmp_path, monkeypatch):
    real, calls = os.pwrite, []

    def full(*args):
        calls.append(args)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(store.os, "pwrite", full)
    with pytest.raises(DataError, match=r"disk is full.*cache_dir.*data\.cache=false"):
        cached_images(labels, EvalResize(image_size=16), folder=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    monkeypatch.undo()
    assert len(cached_images(labels, EvalResize(image_size=16), folder=tmp_path)) == len(labels)


def test_too_little_space_is_reported_before_the_work(labels, tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    monkeypatch.setattr(cache, "read_image", lambda path, damage: pytest.fail("an image was read"))
    with pytest.raises(DataError, match=r"disk is full \(.*GB needed.*GB free"):
        cached_images(labels, EvalResize(image_size=16), folder=tmp_path)


def _make_slowly(labels, folder: Path) -> None:
    def slow(path, damage):
        time.sleep(0.05)
        return read_image(path, damage)

    cache.read_image = slow
    cached_images(labels, EvalResize(image_size=16), folder=folder, threads=1)


def test_a_process_killed_while_making_it_leaves_nothing_in_use(labels, tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_make_slowly, args=(labels, tmp_path))
    process.start()
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob(".*.pixels.*.tmp")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list(tmp_path.glob("*.pixels"))
    transform = EvalResize(image_size=16)
    cached = cached_images(labels, transform, folder=tmp_path)
    np.testing.assert_array_equal(cached.read(5), transform(read_image(labels.path(5))).permute(1, 2, 0).numpy())
    assert not list(tmp_path.glob(".*.tmp")), "the space is given back"


def _make_counting(labels, folder: Path, counter) -> None:
    def counted(path, damage):
        with counter.get_lock():
            counter.value += 1
        return read_image(path, damage)

    cache.read_image = counted
    cached_images(labels, EvalResize(image_size=16), folder=folder, threads=1)


def test_of_two_processes_one_makes_it_and_the_other_waits(labels, tmp_path):
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    both = [context.Process(target=_make_counting, args=(labels, tmp_path, counter)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    assert counter.value == len(labels)


def test_a_corrupt_image_stays_an_error_with_its_path(damaged, tmp_path):
    transform = EvalResize(image_size=16)
    cached = cached_images(damaged, transform, folder=tmp_path / "cache")
    np.testing.assert_array_equal(cached.read(4), transform(read_image(damaged.path(4))).permute(1, 2, 0).numpy())
    with pytest.raises(DataError, match=r"03\.jpg"):
        list(EvalLoader(damaged, transform, batch_size=4, num_workers=0, cache=cached))


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_jpeg_files_are_counted_as_without_a_cache(tmp_path, workers, caplog, capfd):
    (tmp_path / "images").mkdir()
    harmed = {3, 4, 9, 17}
    for k in range(24):
        harmed_or_sound_jpeg(tmp_path / "images" / f"{k:02d}.jpg", k, harmed=k in harmed)
    labels, transform = make_labels(tmp_path / "images"), EvalResize(image_size=16)

    def lines(**options) -> list[str]:
        caplog.clear()
        loader = EvalLoader(labels, transform, batch_size=8, num_workers=workers, **options)
        assert sum(len(batch.indices) for batch in loader) == 24
        loader.close()
        return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]

    made = cached_images(labels, transform, folder=tmp_path / "cache", threads=4)
    expected = lines()
    assert expected[0].startswith("test: damaged JPEG files: 4; ") and "03.jpg: Corrupt JPEG data" in expected[0]
    assert lines(cache=made) == expected
    opened = cached_images(labels, transform, folder=tmp_path / "cache")
    assert lines(cache=opened) == expected, "a later run counts them too"
    (file,) = (tmp_path / "cache").glob("*.damaged.json")
    assert {*map(int, json.loads(file.read_text()))} == harmed
    assert "Corrupt" not in capfd.readouterr().err
    for k in harmed:
        harmed_or_sound_jpeg(tmp_path / "images" / f"{k:02d}.jpg", k + 100, harmed=False)
    assert lines(cache=cached_images(labels, transform, folder=tmp_path / "cache")) == [] and not file.exists()


def test_making_it_leaves_threads_and_random_state_alone(labels, tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    cached_images(labels, EvalResize(image_size=16), folder=tmp_path)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
