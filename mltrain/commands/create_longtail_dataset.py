"""Make a long-tailed subset of a multi-label data set: image ids, labels, counts, groups, co-occurrence, plots.

    mltrain create_longtail_dataset                                       of the drawn shapes, to look around
    mltrain create_longtail_dataset dataset=coco max=1200 b=6 shortage=clip
    mltrain create_longtail_dataset dataset=csv dataset.file=labels.csv curve=exponential max=500 min=5
    mltrain create_longtail_dataset dataset=csv dataset.file=labels.csv curve=explicit counts=counts.csv
    mltrain create_longtail_dataset dataset=voc2012 dataset.difficult=positive source=trainval \\
        method=published max=800                                                  as VOC-MLT was made
    mltrain create_longtail_dataset dataset=coco2017 dataset.degenerate=drop method=published max=1200 shortage=clip \\
        published_files=true                                    as COCO-MLT was made, with the files that its code reads

A curve gives each class its number of training images, and images are chosen so that the classes come near the curve.
A part of the source is held out for validation. docs/longtail.md describes curves, methods and files.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import DictConfig, OmegaConf

from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.config.identity import component_name
from mltrain.config.rules import SINGLE_LABEL
from mltrain.errors import ConfigError
from mltrain.longtail.options import LongTailOptions
from mltrain.text import counted

if TYPE_CHECKING:
    from mltrain.labels import LabelSet

logger = logging.getLogger(__name__)

PUBLISHED_FILES = "published"
"""folder in a split folder, with the files of Distribution-Balanced Loss"""


@dataclass(frozen=True)
class Options(LongTailOptions):
    """Options of the command itself, beside the data set's."""

    source: Literal["train", "trainval"] = "train"
    """train: choose from the training split; trainval: from it and the validation split, in the order of their files"""
    name: str | None = None
    """name of the split; null: made from the options"""
    out: str | None = None
    """folder to write; null: appendix/<dataset.name>/<name>"""
    published_files: bool = False
    """write class_freq.pkl, class_split.pkl and img_id.txt into published/ of the folder, for code that loads them"""
    overwrite: bool = False
    """replace the split in the folder"""


def create_longtail(cfg: DictConfig, options: Options) -> Path:
    """Build a long-tailed split of the config's data set, write its folder and return it.

    Raises:
        ConfigError: an option does not fit the data set, or the folder is in use.
        DataError: the data set cannot be read, or a class has too few images.
    """
    from mltrain.longtail import LongTail, build_longtail
    from mltrain.longtail.build import below_root_of, default_name, joined
    from mltrain.longtail.published_files import write_published_files
    from mltrain.longtail.split import check_free

    if options.name and Path(options.name).name != options.name:
        raise ConfigError(f"name={options.name}: a name without / is needed; out=FOLDER says where the split goes")
    name = options.name or default_name(options) + ("_trainval" if options.source == "trainval" else "")
    folder = Path(options.out) if options.out else Path("appendix") / component_name(cfg.dataset) / name
    check_free(folder, overwrite=options.overwrite)
    splits = instantiate(cfg.dataset, "dataset", need_val=False)
    images: LabelSet = splits.train
    if options.source == "trainval" and len(splits.val):
        if splits.test is None and splits.val.name.endswith("/test"):
            raise ConfigError(
                f"source=trainval: there is no validation split, {splits.val.name} stands in for it, and its images "
                "would be trained on; source=train takes the training split"
            )
        try:
            images = joined(splits.train, splits.val, name=f"{component_name(cfg.dataset)}/trainval")
        except ValueError as error:
            raise ConfigError(f"source=trainval: {error}; source=train takes the training split") from error
    made: LongTail = build_longtail(images, options, name=name)
    made.manifest["dataset"] = OmegaConf.to_container(cfg.dataset, resolve=True)
    if options.published_files and not images.fully_labelled:
        raise ConfigError("published_files=true: class_freq.pkl holds 0 and 1 only, and there are unknown labels (-1)")
    logger.info("drawing plots")
    test = None if splits.test is None else below_root_of(images, splits.test)
    if splits.test is not None:
        how = "left out: other classes or unknown labels" if test is None else "kept as the test set in labels.csv"
        logger.info("%s: %s, %s", splits.test.name, counted(len(splits.test), "image"), how)
    if options.source == "train" and len(splits.val):
        logger.info(
            "%s: %s not used; the validation part comes out of train (source=trainval: of both)",
            *(splits.val.name, counted(len(splits.val), "image", "are")),
        )

    def finish(place: Path) -> None:
        _draw(place, made)
        if options.published_files:
            write_published_files(place / PUBLISHED_FILES, made.train, made.stats)

    written = made.write(folder, test=test, finish=finish, overwrite=options.overwrite)
    logger.info("wrote %s\n%s", folder, _how_to_train(folder, images, made, cfg))
    return written


def _draw(folder: Path, made: Any) -> None:
    from mltrain.report import plots

    stats = made.stats
    plots.class_counts_plot(
        folder / "class_counts.png",
        stats,
        title=f"{made.name}: {len(made.train):,} training images",
        targets=made.targets,
        source_counts=made.source_counts,
    )
    plots.cooccurrence_plot(folder / "cooccurrence.png", stats, title=made.name)


def _how_to_train(folder: Path, images: LabelSet, made: Any, cfg: DictConfig) -> str:
    """Return a message with the command that trains on the split, with the groups of the split."""
    from mltrain.labels.label_table import separator_of

    if made.val is None:
        return "train on it with dataset=csv and a validation split of your own (val_fraction=0 left none here)"
    keys = {
        "file": folder / "labels.csv",
        "classes": folder / "classes.txt",
        "root": images.root or ".",
        "name": made.name,
    }
    separator = separator_of(images.class_names)
    if separator != ";":
        keys["separator"] = separator
    arguments = " ".join(shlex.quote(f"dataset.{key}={value}") for key, value in keys.items())
    for key in ("head_min", "medium_min"):
        if getattr(made.stats, key) != getattr(LongTailOptions(), key):
            arguments += f" metrics.{key}={getattr(made.stats, key)}"
    if cfg.task == SINGLE_LABEL:
        arguments += f" task={cfg.task} loss=cross_entropy"
    if str(cfg.name).startswith("small-"):  # the source is a drawn set, which brings settings that dataset=csv lacks
        arguments += (
            f" model=small model.image_size={cfg.model.image_size} optimizer=scratch augment=crops "
            f"augment.flip={cfg.augment.flip} runner.epochs={cfg.runner.epochs}"
        )
    return f"train on it: mltrain train dataset=csv {arguments}"


COMMAND = Command(create_longtail, about=__doc__, takes="dataset", options=Options)
