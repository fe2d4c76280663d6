"""Images that are not square: every transform, the loader, the cache and the views of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mltrain.labels import LabelSet
from mltrain.pipeline import crops
from mltrain.pipeline.augment import EvalResize, ShorterSide, TrainAugment
from mltrain.pipeline.cache import cached_images
from mltrain.pipeline.loader import EvalLoader, TrainLoader
from mltrain.pipeline.own_transform import OwnTransform
from mltrain.pipeline.samplers import UniformSampler
from mltrain.pipeline.views import SeveralResizes, resizes_for, views
from mltrain.sizes import area, height_width, in_pixels, scaled, simplest, spelled

WIDE = (24, 48)


def photo(height: int, width: int) -> np.ndarray:
    """A picture whose red is the row and whose green is the column."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, np.zeros_like(x)], 2).astype(np.uint8)


def test_a_size_is_one_number_or_two() -> None:
    assert height_width(32) == height_width([32, 32]) == (32, 32) and height_width((24, 48)) == (24, 48)
    assert simplest([32, 32]) == 32 and simplest([24, 48]) == (24, 48)
    assert (area(32), area((24, 48)), scaled((28, 56), 8 / 7), scaled(224, 8 / 7)) == (1024, 1152, (32, 64), 256)
    assert (in_pixels(32), in_pixels((24, 48))) == ("32 px", "24 x 48 px")
    assert (spelled(32), spelled((24, 48))) == ("32", "[24,48]")
    for wrong in (0, (24,), (24, 48, 3), (24, -1)):
        with pytest.raises(ValueError, match="must be a positive number of pixels, or two"):
            height_width(wrong)


def test_a_squished_image_has_both_sides() -> None:
    image = photo(50, 60)
    result = EvalResize(image_size=WIDE)(image)
    expected = v2.functional.resize(torch.from_numpy(image).permute(2, 0, 1), list(WIDE), antialias=True)
    assert result.shape == (3, *WIDE) and (result.int() - expected.int()).abs().max() <= 1
    assert repr(EvalResize(image_size=(32, 32))) == repr(EvalResize(image_size=32)), "one name in caches"


@pytest.mark.parametrize("shape", [(100, 100), (40, 300), (300, 40), (48, 96)])
def test_a_crop_covers_the_output_undistorted(shape: tuple[int, int]) -> None:
    resize = EvalResize(image_size=WIDE, resize="crop", crop_pct=0.75)
    top, left, height, width = resize.region(*shape)
    assert resize(photo(*shape)).shape == (3, *WIDE)
    assert width / height == pytest.approx(2, rel=0.05), "of the shape of the output, up to whole pixels"
    assert max(height / shape[0], width / shape[1]) == pytest.approx(0.75, rel=0.05)
    assert top + height / 2 == pytest.approx(shape[0] / 2, abs=2) and left + width / 2 == pytest.approx(
        shape[1] / 2, abs=2
    )


@pytest.mark.parametrize("crop", ["squish", "random_resized", "random_sides", "shorter_side"])
def test_every_augmentation_gives_both_sides(crop: str) -> None:
    options = {"color_jitter": 0.2, "photometric": True, "cutout": 0.5}
    for policy in ({"randaugment_ops": 2}, {"asl_policy": True}):
        augment = TrainAugment(image_size=WIDE, crop=crop, **options, **policy)  # type: ignore[arg-type]
        for seed in range(2):
            torch.manual_seed(seed)
            result = augment(photo(64, 70))
            assert result.shape == (3, *WIDE) and result.dtype == torch.uint8


def test_random_crops_of_a_wide_output_are_wide() -> None:
    """The ratio is relative to that of the output: crops from 3/4 to 4/3 of 2, so that objects keep their shape."""
    image = photo(400, 400)
    augment = TrainAugment(image_size=(64, 128), crop="random_resized", scale=(0.1, 0.3), flip=0.0)
    ratios = []
    for seed in range(40):
        torch.manual_seed(seed)
        red, green, _ = augment(image).float()
        # the steps of red and green over the output show height and width of the crop
        ratios.append(float((green[:, -1] - green[:, 0]).mean() / (red[-1] - red[0]).mean()))
    assert 1.4 < min(ratios) < 1.75 and 2.3 < max(ratios) < 2.8


def test_the_largest_box_of_a_shape() -> None:
    assert crops.largest(100, 60, (1, 1), [0.0, 0.0]) == (0, 0, 60, 60)
    assert crops.largest(100, 60, (1, 2), [0.99, 0.5]) == (70, 0, 30, 60)
    assert crops.largest(100, 300, (2, 1), [0.0, 0.999]) == (0, 250, 100, 50)


def test_a_cache_of_crops_covers_the_output() -> None:
    kept = TrainAugment(image_size=(28, 56), crop="random_resized").cache_resize()
    assert isinstance(kept, ShorterSide) and kept.size == (32, 64)
    assert kept(photo(100, 400)).shape == (3, 32, 128) and kept(photo(100, 100)).shape == (3, 64, 64)
    small = photo(100, 50)
    assert kept(small).shape == (3, 100, 50), "never enlarged"


def test_batches_come_with_both_sides_from_files_and_from_a_cache(tmp_path: Path) -> None:
    for k in range(4):
        Image.fromarray(photo(40, 50 + k)).save(tmp_path / f"{k}.png")
    files = [f"{k}.png" for k in range(4)]
    labels = LabelSet.from_lists(
        name="wide", root=str(tmp_path), files=files, class_names=["a"], positives=[[0], [], [0], []]
    )
    resize = EvalResize(image_size=WIDE)
    cache = cached_images(labels, resize, folder=tmp_path / "cache", threads=1)
    plain, cached = (EvalLoader(labels, resize, batch_size=3, num_workers=0, cache=c) for c in (None, cache))
    for first, second in zip(plain, cached, strict=True):
        assert first.images.shape[1:] == (3, *WIDE) and torch.equal(first.images, second.images)
        assert first.images.is_contiguous(memory_format=torch.channels_last)
    augment = TrainAugment(image_size=WIDE, crop="random_resized")
    with_workers, without = (
        TrainLoader(labels, augment, UniformSampler(labels=labels, seed=0), batch_size=2, num_workers=n) for n in (1, 0)
    )
    pairs = zip(with_workers.epoch(0), without.epoch(0), strict=True)
    assert all(torch.equal(a.images, b.images) and a.images.shape == (2, 3, *WIDE) for a, b in pairs)
    with_workers.close()


def test_views_of_a_wide_image_have_its_shape() -> None:
    image = photo(60, 100)

    def resize(size):
        return EvalResize(image_size=size)

    for tta, step, shapes in (
        ("flip", (1, 1), [WIDE] * 2),
        ("five_crop", (1, 1), [WIDE] * 5),
        ("sizes", (8, 16), [(16, 32), (24, 48), (32, 64)]),
    ):
        transforms = resizes_for(tta, resize, WIDE, step)  # type: ignore[arg-type]
        packed = SeveralResizes(transforms)
        sizes = packed.unpack(torch.stack([packed(image)] * 2))
        for transform, found in zip(transforms, sizes, strict=True):
            assert torch.equal(found[1], transform(image))
        assert [tuple(view.shape[2:]) for view in views(tta, sizes, WIDE)] == shapes  # type: ignore[arg-type]
    (larger,) = resizes_for("five_crop", resize, WIDE, (1, 1))
    assert larger.image_size == (27, 54)
    seen = views("five_crop", [larger(image)[None]], WIDE)
    assert torch.equal(seen[3][0], larger(image)[:, 3:, 6:]), "bottom right"
    with pytest.raises(ValueError, match="the input of 24 x 48 px is one step"):
        resizes_for("sizes", resize, WIDE, (24, 48))


def test_a_transform_of_the_user_is_held_to_both_sides() -> None:
    own = OwnTransform(v2.Resize(WIDE), image_size=WIDE, where="eval_resize", draws=False)
    assert own(photo(40, 40)).shape == (3, *WIDE)
    with pytest.raises(Exception, match=r"shape \(3, 24, 24\), expected \(3, 24, 48\)"):
        OwnTransform(v2.Resize((24, 24)), image_size=WIDE, where="eval_resize", draws=False)(photo(40, 40))
