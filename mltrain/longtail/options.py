"""Options of `build_longtail` and of mltrain create_longtail_dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

LARGEST = 2**31 - 1
"""greatest number of images, per class and in all"""


def _number(default: Any, *, least: float, most: float | None = None) -> Any:
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True)
class LongTailOptions:
    """Options: the curve gives each rank a number of images, `order` gives each class its rank.

    Raises:
        ValueError: options contradict each other.
    """

    method: Literal["balanced", "published"] = "balanced"
    """balanced: choose images for the rarest class first, and exceed no target if possible; published: the algorithm
    and random stream of Wu et al. (ECCV 2020), which made VOC-MLT"""
    curve: Literal["pareto", "exponential", "explicit"] = "pareto"
    """training images over the ranks of the classes; explicit needs counts"""
    max: int | None = _number(None, least=1)
    """images of the first class; null: all of its images but the validation share"""
    min: int = _number(1, least=0)
    """lower end of the curve; exponential reaches it, pareto stays above it"""
    b: float = _number(6.0, least=0.01)
    """shape of the pareto curve; a larger value gives more classes with many images"""
    counts: str | dict[str, int] | None = None
    """images per class for curve=explicit: a file (json, or csv with the columns class,count) or '{cat: 90, dog: 5}'"""
    order: Literal["cooccurrence", "frequency"] = "cooccurrence"
    """cooccurrence: classes that often occur with others come first, as in the paper; frequency: frequent ones do"""
    cap: int | None = _number(None, least=1)
    """greatest number of images per class, whatever its target"""
    at_least: int = _number(0, least=0)
    """smallest number of images per class, even if other classes then exceed their targets"""
    shortage: Literal["error", "clip"] = "error"
    """for a class with fewer images than its target, error: refuse; clip: lower the target"""
    val_fraction: float = _number(0.1, least=0, most=0.9)
    """share of the source held out for validation, stratified; with 0, tune on other data, not on the test set"""
    val_per_class: int | None = _number(None, least=1)
    """validation images of each class, or as many as training can spare; null: by val_fraction"""
    head_min: int = _number(100, least=1)
    """a class with at least this many training images is a head class"""
    medium_min: int = _number(20, least=1)
    """a class with fewer is a medium class down to this many training images, and a tail class below"""
    seed: int = _number(0, least=0, most=2**31 - 1)
    """seed of the random choices"""

    def __post_init__(self) -> None:
        for name in ("max", "min", "cap", "at_least", "val_per_class"):
            if (getattr(self, name) or 0) > LARGEST:
                raise ValueError(f"{name}={getattr(self, name)} must be at most {LARGEST}")
        if self.medium_min > self.head_min:
            raise ValueError(f"medium_min={self.medium_min} must not be above head_min={self.head_min}")
        if (self.curve == "explicit") != (self.counts is not None):
            raise ValueError(
                "counts is for curve=explicit, which needs it: counts=FILE (csv with the columns class,count) or "
                "counts='{person: 800, dog: 20}'"
            )
        if self.curve != "explicit" and self.max is not None and self.min > self.max:
            raise ValueError(f"min={self.min} is above max={self.max}")
        if self.curve == "exponential" and self.min < 1:
            raise ValueError("curve=exponential falls by a constant factor, so min must be at least 1")
        if self.cap is not None and self.at_least > self.cap:
            raise ValueError(f"at_least={self.at_least} is above cap={self.cap}")
        if self.method == "published":
            for name, off in (("cap", None), ("at_least", 0)):
                if getattr(self, name) != off:
                    raise ValueError(
                        f"{name}={getattr(self, name)} needs method=balanced: method=published has no {name}"
                    )
            if self.order != "cooccurrence":
                raise ValueError("order=frequency needs method=balanced: the published order is cooccurrence")
