"""Write a page to look at a data set before training: images before and after augmentation, labels, classes, counts.

    mltrain browse_dataset dataset=auto dataset.path=FOLDER
    mltrain browse_dataset dataset=coco2017 augment=asl model.image_size=448
    mltrain browse_dataset dataset=csv dataset.file=labels.csv classes=[cat,dog] images=500
    mltrain browse_dataset +experiment=coco_mlt_db split=val out=val.html

The command takes every key of `mltrain train`; dataset, partial, augment, eval_resize, model.image_size,
metrics.head_min and seed have an effect. The page is a single file that can be mailed, and read on a phone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.config.identity import component_name
from mltrain.config.schema import number
from mltrain.errors import ConfigError
from mltrain.runs.offline import offline
from mltrain.runs.outputs import check_suffix, writing
from mltrain.sizes import in_pixels, simplest
from mltrain.text import counted, did_you_mean, first_lines
from mltrain.transcript import typed

if TYPE_CHECKING:
    import numpy as np

    from mltrain.labels import LabelSet
    from mltrain.pipeline.batch import Transform

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the config's."""

    split: Literal["train", "val", "test"] = "train"
    """split to show; images of val and test are resized as for evaluation"""
    images: int = number(200, least=1, most=5000)
    """number of images to show"""
    pick: Literal["classes", "random", "first"] = "classes"
    """classes: some images of every class, the rarest class first; random: any images; first: the first ones"""
    classes: list[str] = field(default_factory=list)
    """only images with one of these labels"""
    versions: int = number(2, least=1, most=8)
    """number of augmented versions per image"""
    side: int = number(192, least=32, most=1024)
    """longer side of the pictures in pixels"""
    out: str = "browse.html"
    """file to write"""

    def __post_init__(self) -> None:
        check_suffix(self.out, ".html", ".htm")


def browse(cfg: DictConfig, options: Options) -> Path:
    """Write the page and return its file. An image that cannot be decoded is marked on the page.

    Raises:
        ConfigError: there is no such split or class, or the page cannot be written.
        DataError: the data set cannot be read.
    """
    from mltrain.labels import LabelStats
    from mltrain.report.html.browse import About, choose, write_browse

    splits = instantiate(cfg.dataset, "dataset", need_val=options.split != "train")
    train = instantiate(cfg.partial, "partial", labels=splits.train) or splits.train
    labels: LabelSet | None = train if options.split == "train" else getattr(splits, options.split)
    if labels is None or not len(labels):
        has = " and ".join(part for part, labels in splits._asdict().items() if labels is not None)
        raise ConfigError(f"split={options.split}: {component_name(cfg.dataset)} has no such split; it has {has}")
    stats = LabelStats.from_labels(train, cfg.metrics.head_min, cfg.metrics.medium_min)
    among = [_index(name, labels.class_names) for name in options.classes]
    indices = choose(labels, options.images, pick=options.pick, seed=cfg.seed, among=among)
    size = cfg.model.get("image_size") or instantiate(offline(cfg).model, "model").image_size
    section = "augment" if options.split == "train" else "eval_resize"
    if section == "eval_resize":
        size = cfg.eval_resize.get("image_size") or size
    size = simplest(size)
    transform: Transform = instantiate(cfg[section], section, image_size=size)
    count = options.versions if options.split == "train" else 1

    def versions(index: int, image: np.ndarray) -> Sequence[np.ndarray]:
        return [_transformed(transform, image, cfg.seed, epoch, index) for epoch in range(count)]

    described = _augmentation(cfg) if section == "augment" else f"eval_resize={component_name(cfg.eval_resize)}"
    about = About(name=labels.name, transform=f"{described}, {in_pixels(size)}", command=typed())
    with writing(Path(options.out)) as out:
        shown = _with_bar(indices, cfg.logger.progress)
        broken = write_browse(out, labels, stats, shown, versions, about=about, side=options.side)
    if broken:
        logger.warning("%s cannot be read; the page says why:%s", counted(len(broken), "image"), first_lines(broken))
    logger.info("%s: %d of %s, %.1f MB", out, len(indices), counted(len(labels), "image"), out.stat().st_size / 1e6)
    return out


def _transformed(transform: Transform, image: np.ndarray, seed: int, epoch: int, index: int) -> np.ndarray:
    """Return an image augmented as in training, uint8 (H, W, 3), with its own random stream per image and epoch."""
    from mltrain.seeding import IMAGE, integer_hash, kept_random_state

    with kept_random_state() as generator:
        generator.manual_seed(integer_hash(IMAGE, seed, epoch, index))
        pixels: np.ndarray = transform(image).permute(1, 2, 0).numpy()
    return pixels


def _augmentation(cfg: DictConfig) -> str:
    """Return the options of the augmentation that have an effect."""
    without_effect = (None, False, 0, 0.0, "bilinear")
    skipped = ("_target_", "randaugment_magnitude")
    given = [f"{k} {v}" for k, v in cfg.augment.items() if k not in skipped and v not in without_effect]
    return ", ".join(["augmentation", *given])


def _with_bar(indices: np.ndarray, mode: str) -> Iterator[int]:
    """Yield the indices, with a progress bar on a terminal."""
    from tqdm import tqdm

    bar = mode == "bar" or (mode == "auto" and sys.stderr.isatty())
    yield from tqdm(indices.tolist(), desc="images", leave=False, disable=not bar, file=sys.stderr)


def _index(name: str, names: Sequence[str]) -> int:
    if name in names:
        return list(names).index(name)
    raise ConfigError(f"classes: there is no class {name!r}{did_you_mean(name, names, '{!r}')}")


COMMAND = Command(browse, about=__doc__, takes="config", options=Options, unnamed_data="say")
