"""Look at a data set before training: a page with its images before and after augmentation, labels, classes, counts.

    mltrain browse_dataset                                             the drawn shapes
    mltrain browse_dataset dataset=coco2017 augment=asl model.image_size=448
    mltrain browse_dataset dataset=csv dataset.file=labels.csv classes=[cat,dog] images=500
    mltrain browse_dataset +experiment=coco_mlt_db split=val out=val.html

Takes every key of `mltrain train`, of which dataset, partial, augment, eval_resize, model.image_size, metrics.head_min
and seed have a part in it. The page is one file, which loads nothing: it can be mailed, and read on a phone.

    split=train           val and test are shown as evaluation resizes them
    images=200            how many are shown
    pick=classes          some of every class, the rarest first; random: any; first: the first ones
    classes=[a,b]         only images with one of these labels
    versions=2            augmented versions of an image
    side=192              longer side of a picture, pixels
    out=browse.html       the page

    --cfg job             print every option instead of running
    --config-dir DIR      look for configs in DIR too
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from omegaconf import DictConfig

from mltrain.cli import Command, typed
from mltrain.commands.inspect_batch import offline
from mltrain.config.build import instantiate
from mltrain.config.identity import component_name
from mltrain.config.schema import number
from mltrain.errors import ConfigError
from mltrain.text import nearest

if TYPE_CHECKING:
    from mltrain.labels import LabelSet
    from mltrain.pipeline.batch import Transform

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    split: Literal["train", "val", "test"] = "train"
    """val and test are shown as evaluation resizes them"""
    images: int = number(200, least=1, most=5000)
    """how many are shown"""
    pick: Literal["classes", "random", "first"] = "classes"
    """classes: some of every class, the rarest first; random: any; first: the first ones"""
    classes: list[str] = field(default_factory=list)
    """only images with one of these labels"""
    versions: int = number(2, least=1, most=8)
    """augmented versions of an image"""
    side: int = number(192, least=32, most=1024)
    """longer side of a picture, pixels"""
    out: str = "browse.html"
    """file of the page"""

    def __post_init__(self) -> None:
        if Path(self.out).suffix not in (".html", ".htm"):
            raise ValueError(f"out={self.out}: the name must end in .html")


def browse(cfg: DictConfig, options: Options) -> Path:
    """Write a self-contained page; returns its file.

    Raises:
        ConfigError: there is no such split or class, or the page cannot be written.
        DataError: the data set cannot be read. A single image that cannot be decoded is shown as such.
    """
    from mltrain.labels import LabelStats
    from mltrain.report.html.browse import About, choose, write_browse

    splits = instantiate(cfg.dataset, "dataset", need_val=options.split != "train")
    train = instantiate(cfg.partial, "partial", labels=splits.train) or splits.train
    labels: LabelSet | None = train if options.split == "train" else getattr(splits, options.split)
    if labels is None or not len(labels):
        raise ConfigError(f"split={options.split}: {component_name(cfg.dataset)} has no such split; split=train")
    stats = LabelStats.from_labels(train, cfg.metrics.head_min, cfg.metrics.medium_min)
    among = [_index(name, labels.class_names) for name in options.classes]
    indices = choose(labels, options.images, pick=options.pick, seed=cfg.seed, among=among)
    size = cfg.model.get("image_size") or instantiate(offline(cfg).model, "model").image_size
    section = "augment" if options.split == "train" else "eval_resize"
    transform: Transform = instantiate(cfg[section], section, image_size=size)
    count = options.versions if options.split == "train" else 1

    def versions(index: int, image: np.ndarray) -> Sequence[np.ndarray]:
        return [_transformed(transform, image, cfg.seed, epoch, index) for epoch in range(count)]

    about = About(
        name=labels.name,
        transform=f"{section}={component_name(cfg[section])}, {size} px"
        if section == "eval_resize"
        else _described(cfg, size),
        command=typed(),
    )
    out = Path(options.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_browse(out, labels, stats, _shown(indices, cfg.logger.progress), versions, about=about, side=options.side)
    except OSError as error:
        raise ConfigError(f"out={options.out}: cannot be written: {error.strerror or error}") from error
    logger.info("%s: %d of %d images, %.1f MB", out, len(indices), len(labels), out.stat().st_size / 1e6)
    return out


def _transformed(transform: Transform, image: np.ndarray, seed: int, epoch: int, index: int) -> np.ndarray:
    """As training draws it for an image, though not the draw of a certain place in an epoch."""
    from mltrain.seeding import IMAGE, integer_hash, kept_random_state

    with kept_random_state() as generator:
        generator.manual_seed(integer_hash(IMAGE, seed, epoch, index))
        pixels: np.ndarray = transform(image).permute(1, 2, 0).numpy()
    return pixels


def _described(cfg: DictConfig, size: int) -> str:
    """The options of the augmentation that are not at rest."""
    rest = (None, False, 0, 0.0, "bilinear")
    given = {k: v for k, v in cfg.augment.items() if k not in ("_target_", "randaugment_magnitude") and v not in rest}
    return ", ".join(["augmentation", *(f"{key} {value}" for key, value in given.items()), f"{size} px"])


def _shown(indices: np.ndarray, mode: str) -> Iterator[int]:
    """The indices, with a bar on a terminal."""
    from tqdm import tqdm

    bar = mode == "bar" or (mode == "auto" and sys.stderr.isatty())
    yield from tqdm(indices.tolist(), desc="images", leave=False, disable=not bar, file=sys.stderr)


def _index(name: str, names: Sequence[str]) -> int:
    if name in names:
        return list(names).index(name)
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    raise ConfigError(f"classes: there is no class {name!r}{hint}")


COMMAND = Command(browse, about=__doc__, takes="config", options=Options)
