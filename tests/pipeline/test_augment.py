from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mltrain.pipeline import pixels, randaugment
from mltrain.pipeline.augment import EvalResize, ShorterSide, TrainAugment
from mltrain.pipeline.pixels import photometric

from .conftest import photograph

SHAPES = [(60, 91), (91, 60), (40, 40), (13, 200)]


def run(augment, image: np.ndarray, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return augment(image)


def planes(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_squish_equals_pillow_within_two_grey_levels(shape, interpolation):
    image = photograph(0, *shape)
    result = EvalResize(image_size=32, interpolation=interpolation)(image)
    assert result.shape == (3, 32, 32) and result.dtype == torch.uint8
    expected = np.array(Image.fromarray(image).resize((32, 32), Image.Resampling[interpolation.upper()]))
    assert np.abs(result.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2


@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("shape", SHAPES)
def test_crop_equals_torchvision_resize_and_centre_crop(shape, crop_pct):
    image = photograph(0, *shape)
    expected = v2.Compose([v2.Resize(int(32 / crop_pct), antialias=True), v2.CenterCrop(32)])(planes(image))
    result = EvalResize(image_size=32, resize="crop", crop_pct=crop_pct)(image)
    assert (result.int() - expected.int()).abs().max() <= 1  # torchvision takes the planar kernel


@pytest.mark.parametrize("crop", ["squish", "random_resized", "random_sides", "shorter_side"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_crop_gives_the_size_that_was_asked_for(shape, crop):
    image = photograph(0, *shape)
    augment = TrainAugment(image_size=24, crop=crop, color_jitter=0.3, cutout=0.5, randaugment_ops=2)
    for seed in range(5):
        result = run(augment, image, seed)
        assert result.shape == (3, 24, 24) and result.dtype == torch.uint8


def test_without_augmentation_training_sees_what_evaluation_sees():
    image = photograph(0, 60, 90)
    torch.testing.assert_close(
        TrainAugment(image_size=32, flip=0.0)(image), EvalResize(image_size=32)(image), rtol=0, atol=0
    )


FULL = {"color_jitter": 0.4, "photometric": True, "cutout": 0.5, "randaugment_ops": 2}


@pytest.mark.parametrize("crop", ["squish", "random_resized", "random_sides", "shorter_side"])
def test_the_generator_decides_everything(crop):
    image = photograph(0, 60, 90)
    augment = TrainAugment(image_size=32, crop=crop, **FULL)
    first = run(augment, image, 1)
    np.random.seed(5)  # state that must not matter
    assert torch.equal(first, run(augment, image, 1))
    assert not torch.equal(first, run(augment, image, 2))


@pytest.mark.parametrize("options", [{"flip": 1.0}, {"photometric": True}, {"cutout": 0.5}, {"randaugment_ops": 2}])
@pytest.mark.parametrize("size", [32, 60])
def test_the_source_image_is_not_changed(options, size):
    image = photograph(0, 60, 60)
    kept = image.copy()
    changed = [not torch.equal(run(TrainAugment(image_size=size, **options), image, s), planes(kept)) for s in range(4)]
    assert any(changed)
    np.testing.assert_array_equal(image, kept)


def test_flip_mirrors_with_its_probability():
    image = photograph(0, 32, 32)
    augment = TrainAugment(image_size=32, flip=0.3)
    results = [run(augment, image, seed) for seed in range(300)]
    flipped = sum(torch.equal(result, planes(image).flip(-1)) for result in results)
    assert flipped + sum(torch.equal(result, planes(image)) for result in results) == 300
    assert 60 <= flipped <= 120


def test_random_resized_crop_stays_within_its_bounds():
    height, width = 90, 120
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, columns], axis=2)
    augment = TrainAugment(image_size=64, crop="random_resized", scale=(0.2, 0.6), ratio=(0.5, 2.0), flip=0.0)
    areas, ratios = [], []
    for seed in range(200):
        result = run(augment, image, seed).int()
        h = int(result[0].max() - result[0].min()) + 1
        w = int(result[1].max() - result[1].min()) + 1
        areas.append(h * w / (height * width))
        ratios.append(w / h)
    assert 0.17 < min(areas) < 0.25 and 0.55 < max(areas) < 0.66
    assert 0.45 < min(ratios) < 0.65 and 1.5 < max(ratios) < 2.2


def test_random_sides_draws_each_side_for_itself_within_its_share():
    height, width = 120, 90
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, columns], axis=2)
    augment = TrainAugment(image_size=256, crop="random_sides", flip=0.0)  # larger: the extremes stay
    boxes = []
    for seed in range(300):
        result = run(augment, image, seed).int()
        low, high = result.amin((1, 2)).tolist(), result.amax((1, 2)).tolist()
        boxes.append([(high[0] - low[0] + 1) / height, (high[1] - low[1] + 1) / width, low[0], low[1]])
    h, w, top, left = np.array(boxes).T
    for share in (h, w):
        assert 0.79 < share.min() < 0.81 and share.max() > 0.99 and abs(share.mean() - 0.9) < 0.015
    assert abs(np.corrcoef(h, w)[0, 1]) < 0.15
    assert top.max() > 20 and left.max() > 14 and (top + h * height <= height).all()


def test_random_sides_keeps_to_its_ratio_and_an_image_that_has_no_such_crop_whole():
    image = np.zeros((40, 84, 3), np.uint8)
    image[:, :, 0] = np.arange(84)
    augment = TrainAugment(image_size=128, crop="random_sides", flip=0.0)
    for seed in range(100):
        columns = run(augment, image, seed)[0].int()
        assert int(columns.max() - columns.min()) + 1 <= 80  # twice the height at most
    strip = photograph(0, 40, 120)
    np.testing.assert_array_equal(
        run(TrainAugment(image_size=32, crop="random_sides", flip=0.0), strip), EvalResize(image_size=32)(strip)
    )


def test_random_resized_crop_of_a_strip_falls_back_to_its_centre():
    image = np.zeros((4, 400, 3), np.uint8)
    image[:, 197:203] = 200
    result = run(TrainAugment(image_size=6, crop="random_resized", scale=(0.9, 1.0), flip=0.0), image)
    assert (result > 150).float().mean() > 0.8


def test_colour_jitter_equals_the_three_adjustments_in_turn():
    image = photograph(3, 32, 32)
    augment = TrainAugment(image_size=32, flip=0.0, color_jitter=0.2)
    for seed in range(10):
        torch.manual_seed(seed)
        brightness, contrast, saturation = (0.8 + 0.4 * torch.rand(49, dtype=torch.float64)[41:44]).tolist()
        x = planes(image).float() / 255
        x = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(x, brightness), contrast), saturation)
        # torchvision's grey uses 0.2989, 0.587, 0.114, which do not add up to 1.
        assert (run(augment, image, seed) - x * 255).abs().max() < 1.0


def distorted(image: np.ndarray, draws: list[float], contrast_first: bool) -> np.ndarray:
    """SSD's distortion one step after the other, in HSV by the standard library, pixel by pixel, not rounded."""
    on = [u < 0.5 for u in draws[::2]]
    amounts = [low + u * (high - low) for u, (low, high) in zip(draws[1::2], RANGES, strict=True)]
    x = image.astype(np.float64)
    x = x + amounts[0] if on[0] else x
    factor = amounts[1] if on[1] else 1.0
    x = x * factor if contrast_first else x
    for pixel in x.reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        saturation *= amounts[2] if on[2] else 1.0
        hue += amounts[3] / 360 if on[3] else 0.0
        pixel[:] = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    x = x if contrast_first else x * factor
    return x[..., list(itertools.permutations(range(3)))[int(amounts[4])]] if on[4] else x


RANGES = [(-32, 32), (0.5, 1.5), (0.5, 1.5), (-18, 18), (0, 6)]


@pytest.mark.parametrize("seed", range(24))
def test_photometric_distortion_equals_its_steps_in_turn(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(33, 256, (12, 11, 3)).astype(np.uint8)  # above what brightness can take away
    image[0] = image[0, :, :1]  # greys
    image[1, :, 0], image[2, :, 1] = image[1, :, 1], image[2, :, 2]  # two channels alike
    draws = rng.random(10).tolist()
    if seed < 6:  # each alone, at last all together
        draws[::2] = [0.0 if seed in (k, 5) else 0.9 for k in range(5)]
    result = photometric(planes(image), draws)
    assert result.dtype == torch.uint8 and result.stride() == planes(image).stride()
    for contrast_first in (True, False):
        expected = distorted(image, draws, contrast_first).clip(0, 255)
        assert np.abs(result.permute(1, 2, 0).numpy() - expected).max() < 0.51


def test_photometric_distortion_switches_each_part_with_probability_one_half():
    image = np.full((4, 4, 3), (90, 120, 140), np.uint8)
    augment = TrainAugment(image_size=4, flip=0.0, photometric=True)
    results = [run(augment, image, seed)[:, 0, 0].tolist() for seed in range(800)]
    unchanged = sum(result == [90, 120, 140] for result in results)
    # all five switches off, or only the permutation on and it the identity: 1/32 (1 + 1/6)
    assert 15 <= unchanged <= 48
    swapped = sum(result != sorted(result) for result in results)
    assert 265 <= swapped <= 400  # 1/2 * 5/6, and ties


def test_cutout_fills_one_rectangle_of_half_the_side_with_one_colour():
    image = np.full((40, 40, 3), 77, np.uint8)
    augment = TrainAugment(image_size=40, flip=0.0, cutout=0.5)
    sizes = []
    for seed in range(60):
        result = run(augment, image, seed)
        cut = (result != 77).any(0)
        rows, columns = cut.any(1).nonzero().flatten(), cut.any(0).nonzero().flatten()
        assert cut[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert len(torch.unique(result[:, cut], dim=1).T) == 1
        assert len(rows) <= 20 and len(columns) <= 20
        sizes.append((len(rows), len(columns)))
    assert (20, 20) in sizes and min(min(s) for s in sizes) < 20  # whole ones, and ones that the border clips


def test_randaugment_is_that_of_torchvision():
    image = photograph(0, 32, 32)
    augment = TrainAugment(image_size=32, flip=0.0, randaugment_ops=2, randaugment_magnitude=9)
    torch.manual_seed(4)
    torch.rand(49, dtype=torch.float64)  # what the augmentation draws for itself
    expected = v2.RandAugment(num_ops=2, magnitude=9)(Image.fromarray(image))
    assert torch.equal(run(augment, image, 4), planes(np.array(expected)))


def test_the_published_policy_draws_as_its_package_does(monkeypatch):
    """`randaugment` 1.0.2: two of 15 operations, each with probability 1/2, at one of nine magnitudes."""
    seen, levels, signs = [], [], []

    def recorded(name, operation):
        def record(picture, m, sign, place):
            seen.append(name), levels.append(round(9 * m)), signs.append(sign)
            return operation(picture, m, sign, place)

        return record

    monkeypatch.setattr(randaugment, "OPERATIONS", {k: recorded(k, v) for k, v in randaugment.OPERATIONS.items()})
    image = photograph(0, 48, 48)
    augment = TrainAugment(image_size=48, flip=0.0, asl_policy=True)
    changes = np.array([(run(augment, image, seed) != planes(image)).any().item() for seed in range(1000)])
    assert 0.25 < 1 - changes.mean() < 0.31  # 1/4 without any operation, and some operations change nothing
    assert len(seen) == pytest.approx(1000, abs=5 * 1000**0.5)
    frequencies = np.array([seen.count(name) for name in randaugment.OPERATIONS])
    assert len(frequencies) == 15 and (np.abs(frequencies - 1000 / 15) < 5 * (1000 / 15) ** 0.5).all()
    counts = np.bincount(levels, minlength=10)
    assert counts[0] == 0 and (np.abs(counts[1:] - 1000 / 9) < 5 * (1000 / 9) ** 0.5).all()
    assert abs(sum(signs)) < 5 * 1000**0.5
    fixed = [0.0, 0.0, 0.9, 0.0, 0.0, 0.0] * 2
    assert randaugment.policy(Image.fromarray(image), fixed) == Image.fromarray(image)


def test_operations_of_the_published_policy_have_its_ranges():
    """The formulas of the package at its largest magnitude, which the tests of Pillow cover otherwise."""
    image = photograph(1, 40, 60)
    picture = Image.fromarray(image)

    def applied(name, m, sign=1.0, place=(0.5, 0.5)):
        return np.array(randaugment.OPERATIONS[name](picture, m, sign, place))

    assert np.array_equal(applied("invert", 1), 255 - image)
    assert np.array_equal(applied("posterize", 1), image & 0xF0)
    assert np.array_equal(applied("posterize", 1 / 9), image)  # eight bits still
    assert np.array_equal(applied("solarize", 1), 255 - image)
    assert np.array_equal(applied("solarize", 5 / 9), np.where(image < 256 - 256 * 5 / 9, image, 255 - image))
    assert np.abs(applied("brightness", 1, -1.0) - 0.1 * image).max() <= 1
    moved = applied("translate_x", 1)
    shift = round(150 / 331 * 60)
    assert np.array_equal(moved[:, : 60 - shift], image[:, shift:]) and (moved[:, -shift + 1 :] == 128).all()
    cut = applied("cutout", 1)
    rows, columns = (cut != image).any(2).nonzero()
    assert (cut[10:30, 20:40] == (125, 122, 113)).all() and (rows.min(), rows.max(), columns.min()) == (10, 29, 20)
    assert (applied("rotate", 1)[0, 0] == 128).all() and (applied("shear_y", 1)[-1, -1] == 128).all()


def test_cutout_of_the_published_code_is_one_pixel_larger():
    image = np.full((40, 40, 3), 77, np.uint8)
    assert isinstance(TrainAugment(image_size=40, cutout=0.5, asl_policy=True), TrainAugment)
    for draws in ([0.5, 0.5, 0.1, 0.2, 0.3], [0.99, 0.02, 0.1, 0.2, 0.3]):
        y, x = int(draws[0] * 40), int(draws[1] * 40)
        expected = Image.fromarray(image)
        box = (max(0, x - 10), max(0, y - 10), min(40, x + 10), min(40, y + 10))
        ImageDraw.Draw(expected).rectangle(box, fill=tuple(int(256 * u) for u in draws[2:]))
        result = pixels.cut_out(planes(image), 0.5, draws, inclusive=True)
        assert torch.equal(result, planes(np.array(expected)))


def test_two_policies_are_refused():
    with pytest.raises(ValueError, match="asl_policy=true and randaugment_ops=2: choose one"):
        TrainAugment(image_size=8, asl_policy=True, randaugment_ops=2)


@pytest.mark.parametrize("size", [(50, 70), (20, 24), (90, 33)])
def test_resizing_without_antialias_interpolates_between_the_nearest_pixels(size):
    """OpenCV's bilinear rule: the four pixels around each centre, whatever the scale."""
    image = photograph(2, *size).astype(np.float64)
    rows, columns = (np.clip((np.arange(32) + 0.5) * n / 32 - 0.5, 0, n - 1) for n in size)
    top, left = (np.minimum(np.floor(at).astype(int), n - 2) for at, n in zip((rows, columns), size, strict=True))
    v, u = (rows - top)[:, None, None], (columns - left)[None, :, None]
    corner = [image[top + i][:, left + j] for i in (0, 1) for j in (0, 1)]
    expected = (1 - v) * ((1 - u) * corner[0] + u * corner[1]) + v * ((1 - u) * corner[2] + u * corner[3])
    result = EvalResize(image_size=32, antialias=False)(image.astype(np.uint8)).permute(1, 2, 0).numpy()
    assert np.abs(result - expected).max() <= 1
    trained = run(TrainAugment(image_size=32, flip=0.0, antialias=False), image.astype(np.uint8))
    assert np.array_equal(trained.permute(1, 2, 0).numpy(), result)


def test_a_cache_without_antialias_is_another_cache():
    options = {"image_size": 32, "flip": 0.0}
    choices = itertools.product((True, False), ("squish", "shorter_side"))
    names = {repr(TrainAugment(antialias=on, crop=c, **options).cache_resize()) for on, c in choices}
    assert len(names) == 4 and sum("antialias=False" in name for name in names) == 2


def test_one_augmentation_does_not_change_the_draws_of_another():
    image = photograph(0, 60, 90)
    plain = run(TrainAugment(image_size=32, crop="random_resized"), image, 3)
    cut = run(TrainAugment(image_size=32, crop="random_resized", cutout=0.25), image, 3)
    assert (plain == cut).float().mean() > 0.9
    cut_and_distorted = run(
        TrainAugment(image_size=32, crop="random_resized", cutout=0.25, photometric=True, randaugment_ops=0), image, 3
    )
    assert torch.equal((cut == cut_and_distorted).all(0), (plain != cut).any(0)), "the same patch of the same colour"


def test_shorter_side_shrinks_and_never_enlarges():
    assert ShorterSide(size=30)(photograph(0, 60, 90)).shape == (3, 30, 45)
    assert ShorterSide(size=30)(photograph(0, 91, 60)).shape == (3, 45, 30)
    assert ShorterSide(size=64)(photograph(0, 60, 90)).shape == (3, 60, 90)


@pytest.mark.parametrize(
    "options",
    [
        {"crop": "centre"},
        {"scale": (0.5, 1.0)},
        {"crop": "shorter_side", "ratio": (1.0, 1.0)},
        {"crop": "random_sides", "scale": (0.0, 1.0)},
        {"crop": "random_resized", "scale": (0.5, 1.5)},
        {"crop": "random_resized", "scale": (0.9, 0.5)},
        {"flip": 1.5},
        {"cutout": -0.1},
        {"color_jitter": -1.0},
        {"randaugment_ops": -1},
        {"randaugment_magnitude": 31},
        {"interpolation": "nearest"},
        {"image_size": 0},
    ],
)
def test_an_argument_that_is_wrong_or_without_effect_is_refused(options):
    with pytest.raises(ValueError, match=next(name for name in reversed(options) if name in str(options))):
        TrainAugment(**{"image_size": 32, **options})


@pytest.mark.parametrize("options", [{"resize": "fit"}, {"crop_pct": 0.875}, {"resize": "crop", "crop_pct": 0.0}])
def test_a_wrong_evaluation_resize_is_refused(options):
    with pytest.raises(ValueError, match=r"resize|crop_pct"):
        EvalResize(image_size=32, **options)
