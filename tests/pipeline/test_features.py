from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from mltrain.errors import DataError
from mltrain.pipeline.augment import EvalResize, TrainAugment
from mltrain.pipeline.batch import Layout, to_device
from mltrain.pipeline.decode import read_image
from mltrain.pipeline.features import cached_features
from mltrain.pipeline.loader import EvalLoader, TrainLoader
from mltrain.pipeline.samplers import UniformSampler
from mltrain.seeding import IMAGE, integer_generator

from .conftest import make_labels, photograph

SIZE = 8
RESIZE = EvalResize(image_size=SIZE)


def quarters(images: torch.Tensor) -> torch.Tensor:
    """Features of 4 tokens: the mean colour of each quarter of the image."""
    colours = torch.nn.functional.avg_pool2d(images.float(), SIZE // 2)
    return colours.flatten(2).transpose(1, 2).to(torch.float16)


def opened(labels, folder, transform=RESIZE, compute=quarters, **options):
    layout = Layout((4, 3), torch.float16)
    given = {"content": "quarters", "batch_size": 5, "num_workers": 0, **options}
    return cached_features(labels, transform, compute, layout=layout, folder=folder, **given)


def expected(labels, index: int, transform=RESIZE) -> torch.Tensor:
    return quarters(transform(read_image(labels.path(index)))[None])[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_features_of_their_images(labels, tmp_path, workers):
    cached = opened(labels, tmp_path, num_workers=workers)
    loader = EvalLoader(labels, RESIZE, batch_size=4, num_workers=workers, cache=cached)
    seen = 0
    for batch in loader:
        assert batch.images.dtype == torch.float16 and batch.images.shape[1:] == (4, 3)
        assert torch.equal(to_device(batch.images, torch.device("cpu"), torch.channels_last), batch.images)
        for features, index in zip(batch.images, batch.indices.tolist(), strict=True):
            assert torch.equal(features, expected(labels, index))
            seen += 1
        np.testing.assert_array_equal(batch.targets, labels.targets_batch(batch.indices.numpy()))
    assert seen == len(labels)
    loader.close()
    sampler = UniformSampler(labels=labels, seed=1)
    training = TrainLoader(labels, TrainAugment(image_size=SIZE), sampler, batch_size=4, num_workers=0, cache=cached)
    batch = next(training.epoch(0))
    assert torch.equal(batch.images, torch.stack([expected(labels, i) for i in batch.indices.tolist()]))


def test_an_epoch_draws_from_the_stored_views_by_seed_and_epoch_alone(labels, tmp_path):
    augment = TrainAugment(image_size=SIZE, crop="random_resized")
    cached = opened(labels, tmp_path, augment, views=3)
    views = []
    for i in range(len(labels)):
        own = []
        for view in range(3):
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(integer_generator(IMAGE, 0, view, i, i).get_state())
                own.append(expected(labels, i, augment))
        views.append(torch.stack(own))
    assert not torch.equal(views[0][0], views[0][1])

    def drawn(seed: int, epoch: int, workers: int = 0) -> dict[int, int]:
        sampler = UniformSampler(labels=labels, seed=0)
        loader = TrainLoader(labels, augment, sampler, batch_size=11, seed=seed, num_workers=workers, cache=cached)
        found = {}
        for batch in loader.epoch(epoch):
            for features, i in zip(batch.images, batch.indices.tolist(), strict=True):
                (match,) = [view for view in range(3) if torch.equal(features, views[i][view])]
                found[i] = match
        loader.close()
        return found

    first = drawn(0, 0)
    assert set(first.values()) == {0, 1, 2} and len(first) == len(labels)
    assert drawn(0, 0, workers=2) == first
    assert drawn(0, 1) != first and drawn(1, 0) != first
    with pytest.raises(ValueError, match="one view"):
        EvalLoader(labels, RESIZE, batch_size=4, num_workers=0, cache=cached)


def test_features_are_computed_once_and_again_when_something_has_changed(tmp_path, caplog):
    caplog.set_level("INFO")
    images, folder = tmp_path / "images", tmp_path / "cache"
    images.mkdir()
    for i in range(4):
        Image.fromarray(photograph(i, 30, 40)).save(images / f"{i}.png")
    labels, seen = make_labels(images), []

    def counting(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return quarters(batch)

    opened(labels, folder, compute=counting)
    assert seen == [4]
    opened(labels, folder, compute=counting)
    assert seen == [4, 1], "the first image is looked at again"
    Image.fromarray(photograph(9, 30, 40)).save(images / "2.png")
    cached = opened(labels, folder, compute=counting)
    assert seen[2:] == [4]
    loader = EvalLoader(labels, RESIZE, batch_size=4, num_workers=0, cache=cached)
    assert torch.equal(next(iter(loader)).images[2], expected(labels, 2))
    # code that gives other features from the same weights
    cached = opened(labels, folder, compute=lambda batch: quarters(255 - batch))
    loader = EvalLoader(labels, RESIZE, batch_size=4, num_workers=0, cache=cached)
    assert torch.equal(next(iter(loader)).images[1], quarters(255 - RESIZE(read_image(labels.path(1)))[None])[0])
    assert "gives other features" in caplog.text
    assert len(list(folder.glob("*.features"))) == 1
    opened(labels, folder, content="other weights")
    opened(labels.select([3, 1]), folder)
    opened(labels, folder, views=2)
    assert len(list(folder.glob("*.features"))) == 4


def test_an_interrupted_computation_leaves_nothing_in_use(labels, tmp_path):
    calls = []

    def fails(batch: torch.Tensor) -> torch.Tensor:
        calls.append(batch)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return quarters(batch)

    with pytest.raises(KeyboardInterrupt):
        opened(labels, tmp_path, compute=fails)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert len(opened(labels, tmp_path)) == len(labels)


@pytest.mark.parametrize("views", [0, 2])
def test_a_corrupt_image_stays_an_error_with_its_path(damaged, tmp_path, views):
    cached = opened(damaged, tmp_path / "cache", views=views)
    sampler = UniformSampler(labels=damaged, seed=0)
    options = {"batch_size": 12, "num_workers": 0, "cache": cached}
    loader = TrainLoader(damaged, TrainAugment(image_size=SIZE), sampler, on_corrupt="skip", **options)
    (batch,) = loader.epoch(0)
    assert len(batch.corrupt) == 2 and re.search(r"03\.jpg", "".join(batch.corrupt))
    for features, index in zip(batch.images, batch.indices.tolist(), strict=True):
        assert torch.equal(features, expected(damaged, index))
    with pytest.raises(DataError, match=r"0[37]\.jpg"):
        list(TrainLoader(damaged, TrainAugment(image_size=SIZE), sampler, **options).epoch(0))
