"""Image transforms: uint8 RGB array (H, W, 3) -> uint8 tensor (3, h, w) with channels-last strides.

All transforms stay in uint8, crop before they resize, and draw only from torch's default CPU generator, which the
loader seeds for each image (see `mltrain.seeding`). Resizing is antialiased unless asked otherwise, by torch's uint8
kernel: it differs from Pillow's by at most 2 grey levels, and may differ by 1 between processor families.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2

from mltrain.pipeline import crops, pixels, randaugment
from mltrain.seeding import PHOTOMETRIC, POLICY, SIDES, integer_generator
from mltrain.sizes import ImageSize, height_width, scaled, simplest

Interpolation = Literal["bilinear", "bicubic"]

# Each augmentation has fixed positions among the draws of an image, so that switching one on does not change another.
# `random_sides` and `photometric` have their own generators instead, keyed by the first draw.
_FLIP = 4 * crops.RESIZED_TRIES
_JITTER = _FLIP + 1
_CUTOUT = _JITTER + 3
_DRAWS = _CUTOUT + 5

_CROPS = ("squish", "random_resized", "random_sides", "shorter_side")
_DEFAULT_RANGES = {"random_sides": ((0.8, 1.0), (1 / 2, 2.0))}


@dataclass(kw_only=True, eq=False, repr=False)
class EvalResize:
    """The deterministic transform of evaluation.

    Args:
        image_size: of the output in pixels: S, the side of a square, or (height, width). In a config: null takes the
            size of the model; another number evaluates at another size than training.
        resize: ``squish`` resizes to S x S and ignores the aspect ratio (as ASL, Query2Label and ML-Decoder do);
            ``crop`` resizes the shorter side to ``floor(S / crop_pct)`` and takes the centre S x S. Equal to
            torchvision's ``Resize`` and ``CenterCrop``. Of (height, width), the image is resized until it just
            covers both, each divided by `crop_pct`.
        crop_pct: share of the shorter side that ``crop`` keeps, in (0, 1].
        interpolation: ``bilinear`` or ``bicubic``.
        antialias: average over all pixels that a smaller one covers, as Pillow does. False interpolates between the
            nearest ones alone, as OpenCV does, and so mmcv and the Distribution-Balanced code.

    Raises:
        ValueError: an argument is out of range, or `crop_pct` is given for ``squish``.
    """

    image_size: ImageSize
    resize: Literal["squish", "crop"] = "squish"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        _check_choice("resize", self.resize, ("squish", "crop"))
        _check_choice("interpolation", self.interpolation, ("bilinear", "bicubic"))
        self.image_size = simplest(self.image_size)
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct={self.crop_pct}: must be in (0, 1]")
        if self.resize == "squish" and self.crop_pct != 1:
            raise ValueError(
                f"crop_pct={self.crop_pct} has no effect with resize=squish; use resize=crop, or leave it out"
            )

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        h, w = height_width(self.image_size)
        if self.resize == "squish":
            return _resize(image, h, w, self.interpolation, self.antialias)
        height, width, top, left = self._crop(*image.shape[:2])
        resized = _resize(image, height, width, self.interpolation, self.antialias)
        return resized[:, top : top + h, left : left + w]

    def region(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return the visible part (top, left, height, width) of an image of this size, in its pixels."""
        if self.resize == "squish":
            return 0.0, 0.0, float(height), float(width)
        h, w = height_width(self.image_size)
        resized_height, resized_width, top, left = self._crop(height, width)
        y, x = height / resized_height, width / resized_width
        return top * y, left * x, h * y, w * x

    def _crop(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the size after resizing, and top and left of the centre crop."""
        h, w = height_width(self.image_size)
        covered = math.floor(h / self.crop_pct), math.floor(w / self.crop_pct)
        height, width = _covering(height, width, covered)
        return height, width, round((height - h) / 2), round((width - w) / 2)

    def __repr__(self) -> str:
        return (
            f"EvalResize(image_size={self.image_size}, resize={self.resize}, crop_pct={self.crop_pct}, "
            f"interpolation={self.interpolation}{_unlike_earlier(self.antialias)})"
        )


@dataclass(kw_only=True, eq=False, repr=False)
class ShorterSide:
    """Shrinks an image until its shorter side is `size`, never enlarges it; for a cache that serves random crops.

    Of a `size` (height, width), it shrinks the image until it just covers both.
    """

    size: ImageSize
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        self.size = simplest(self.size)

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        (height, width), (h, w) = image.shape[:2], height_width(self.size)
        if height <= h or width <= w:
            return torch.from_numpy(image).permute(2, 0, 1)
        return _resize(image, *_covering(height, width, (h, w)), self.interpolation, self.antialias)

    def __repr__(self) -> str:
        return f"ShorterSide(size={self.size}, interpolation={self.interpolation}{_unlike_earlier(self.antialias)})"


@dataclass(kw_only=True, eq=False)
class TrainAugment:
    """The random transform of training.

    It applies crop and resize, flip, colour jitter, photometric distortion, cutout and RandAugment, in this order.

    Args:
        image_size: of the output in pixels: S, the side of a square, or (height, width).
        crop: ``squish`` keeps the whole image and ignores the aspect ratio; ``random_resized`` is Inception's crop
            (Szegedy et al. 2015), drawn as torchvision's ``RandomResizedCrop`` draws it; ``random_sides`` draws height
            and width independently, as Distribution-Balanced Loss did; ``shorter_side`` takes a square as large as
            the shorter side at a random place, or else the largest box of the output's shape.
        scale, ratio: for ``random_resized``: share of the area (default 0.08 to 1), ratio width / height (default
            3/4 to 4/3); for ``random_sides``: share of each side (default 0.8 to 1), aspect ratio (default 1/2 to 2).
            The ratio is relative to that of the output, so that 1 means undistorted: for an output of 320 x 640
            pixels 3/4 to 4/3 gives crops that are 1.5 to 2.67 times as wide as high.
        flip: probability of a horizontal flip.
        color_jitter: strength j; brightness, contrast and saturation are each scaled by U(max(0, 1 - j), 1 + j), in
            this order and in one pass, rounded and clipped once at the end.
        photometric: distort brightness, contrast, saturation, hue and the order of the channels, each with probability
            1/2, as SSD and Distribution-Balanced Loss did (see `pixels.photometric`).
        cutout: f; a rectangle of f x S by f x S centred on a random pixel (clipped at the border) is filled with a
            random colour: CutoutPIL of the published ASL training code (Ridnik et al. 2021, f = 0.5). 0 is off.
        randaugment_ops, randaugment_magnitude: RandAugment (Cubuk et al. 2020), torchvision's operations, out of 30.
        asl_policy: apply the random operations of the published ASL training code, milder than RandAugment (see
            `randaugment`). Its cutout is one pixel wider and higher, and so it is here.
        interpolation: ``bilinear`` or ``bicubic``.
        antialias: average over all pixels that a smaller one covers; see `EvalResize`.

    Raises:
        ValueError: an argument is out of range, `scale` or `ratio` is given for another crop, or `asl_policy` beside
            `randaugment_ops`.
    """

    image_size: ImageSize
    crop: Literal["squish", "random_resized", "random_sides", "shorter_side"] = "squish"
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    flip: float = 0.5
    color_jitter: float = 0.0
    photometric: bool = False
    cutout: float = 0.0
    randaugment_ops: int = 0
    randaugment_magnitude: int = 9
    asl_policy: bool = False
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        _check_choice("crop", self.crop, _CROPS)
        _check_choice("interpolation", self.interpolation, ("bilinear", "bicubic"))
        self.image_size = simplest(self.image_size)
        height, width = height_width(self.image_size)
        if not self.crop.startswith("random") and (self.scale is not None or self.ratio is not None):
            raise ValueError(
                f"scale and ratio have no effect with crop={self.crop}; use crop=random_resized or random_sides, or "
                "leave them out"
            )
        default_scale, default_ratio = _DEFAULT_RANGES.get(self.crop, ((0.08, 1.0), (3 / 4, 4 / 3)))
        self._scale = _pair("scale", self.scale or default_scale, upper=1.0)
        low, high = _pair("ratio", self.ratio or default_ratio, upper=math.inf)
        self._ratio = low * width / height, high * width / height
        for name, value in (("flip", self.flip), ("cutout", self.cutout)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: must be in 0..1")
        if not 0 <= self.color_jitter < math.inf:
            raise ValueError(f"color_jitter={self.color_jitter}: must be 0 or more, and finite")
        ops, magnitude = self.randaugment_ops, self.randaugment_magnitude
        if ops < 0 or not 0 <= magnitude <= 30:
            raise ValueError(
                f"randaugment_ops={ops}, randaugment_magnitude={magnitude}: operations must not be negative and the "
                "magnitude is in 0..30"
            )
        if ops and self.asl_policy:
            raise ValueError(f"asl_policy=true and randaugment_ops={ops}: choose one of the two policies")
        self.randaugment = v2.RandAugment(num_ops=ops, magnitude=magnitude) if ops else None

    def cache_resize(self, size: int | None = None) -> EvalResize | ShorterSide:
        """Return the transform whose results a cache stores for this augmentation.

        With ``squish`` it is the squished image, so training from the cache sees the same pixels as without (`size` has
        no effect). With random crops the image is shrunk to a shorter side of `size` (default: 8/7 of image_size),
        which is a slightly different input.
        """
        if self.crop == "squish":
            options: dict[str, Any] = {"resize": "squish", "interpolation": self.interpolation}
            return EvalResize(image_size=self.image_size, antialias=self.antialias, **options)
        kept = size or scaled(self.image_size, 8 / 7)
        return ShorterSide(size=kept, interpolation=self.interpolation, antialias=self.antialias)

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        draws = torch.rand(_DRAWS, dtype=torch.float64).tolist()
        size = height_width(self.image_size)
        result = _resize(self._crop(image, draws), *size, self.interpolation, self.antialias)
        if draws[_FLIP] < self.flip:
            result = result.flip(-1)
        if self.color_jitter:
            low, high = max(0.0, 1 - self.color_jitter), 1 + self.color_jitter
            result = pixels.jitter(result, *(low + u * (high - low) for u in draws[_JITTER : _JITTER + 3]))
        if self.photometric:
            own = integer_generator(PHOTOMETRIC, int(draws[0] * 2**53))
            amounts = torch.rand(pixels.PHOTOMETRIC_DRAWS, dtype=torch.float64, generator=own).tolist()
            result = pixels.photometric(result, amounts)
        if self.cutout:
            result = pixels.cut_out(result, self.cutout, draws[_CUTOUT : _CUTOUT + 5], inclusive=self.asl_policy)
        # Pillow's uint8 affine is 4 times as fast as torch's float grid sampling.
        if self.asl_policy:
            own = integer_generator(POLICY, int(draws[0] * 2**53))
            amounts = torch.rand(randaugment.DRAWS, dtype=torch.float64, generator=own).tolist()
            result = _tensor(randaugment.policy(_picture(result), amounts))
        elif self.randaugment is not None:
            result = _tensor(self.randaugment(_picture(result)))
        return result

    def _crop(self, image: np.ndarray, draws: list[float]) -> np.ndarray:
        if self.crop == "squish":
            return image
        height, width = image.shape[:2]
        if self.crop == "shorter_side":
            top, left, h, w = crops.largest(height, width, height_width(self.image_size), draws)
        elif self.crop == "random_sides":
            own = integer_generator(SIDES, int(draws[0] * 2**53))
            top, left, h, w = crops.random_sides(height, width, self._scale, self._ratio, own)
        else:
            top, left, h, w = crops.random_resized(height, width, self._scale, self._ratio, draws)
        return image[top : top + h, left : left + w]


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")


def _pair(name: str, value: tuple[float, float], upper: float) -> tuple[float, float]:
    if len(value) != 2 or not 0 < value[0] <= value[1] <= upper:
        raise ValueError(f"{name}={tuple(value)}: must be two numbers, 0 < low <= high{'' if upper > 1 else ' <= 1'}")
    return float(value[0]), float(value[1])


def _covering(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an image once it just covers `size`: of a square, its shorter side has that length."""
    h, w = size
    if height * w <= width * h:
        return h, max(w, int(h * width / height))
    return max(h, int(w * height / width)), w


def _unlike_earlier(antialias: bool) -> str:
    """Return the part of a name that caches made before the option came lack."""
    return "" if antialias else ", antialias=False"


def _picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _resize(image: np.ndarray, height: int, width: int, interpolation: str, antialias: bool) -> torch.Tensor:
    """Resize a uint8 (H, W, 3) array to a (3, height, width) tensor, which shares its memory if the sizes are equal."""
    # Add the batch dimension before permuting: only then torch sees channels-last strides and uses its vectorised
    # uint8 kernel, which takes half the time of the planar one.
    batch = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    if image.shape[:2] == (height, width):
        return batch[0]
    return F.interpolate(batch, (height, width), mode=interpolation, antialias=antialias)[0]
