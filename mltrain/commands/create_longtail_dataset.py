"""Make a long-tailed subset of a multi-label data set: image ids, labels, counts, groups, co-occurrence, plots.

    mltrain create_longtail_dataset                                       of the drawn shapes, to look around
    mltrain create_longtail_dataset dataset=coco max=1200 b=6 shortage=clip
    mltrain create_longtail_dataset dataset=csv dataset.file=labels.csv curve=exponential max=500 min=5
    mltrain create_longtail_dataset dataset=csv dataset.file=labels.csv curve=explicit counts=counts.csv
    mltrain create_longtail_dataset dataset=voc2012 dataset.difficult=positive source=trainval \\
        method=published max=800                                                  as VOC-MLT was made

The curve: how many training images each class should have
    curve=pareto          pareto | exponential | explicit (counts=FILE with class,count; or counts='{cat: 90, dog: 5}')
    max=null min=1 b=6    of the first class, what it falls to, shape of pareto; max=null: all that it has
    order=cooccurrence    which class comes first: the one that most often comes along, or order=frequency
    cap=null at_least=0   no class gets more, every class gets at least so many
    shortage=error        a class has too few images: error, or clip its target
How images are chosen
    method=balanced       near the curve for all classes at once; published: the algorithm and random stream of VOC-MLT
    source=train          or trainval: the validation split too
    seed=0
Validation part, never trained on
    val_fraction=0.1      of the source, stratified; 0: none (then tune on data of your own, not on the test set)
    val_per_class=null    instead: so many images of each class
Groups and output
    head_min=100 medium_min=20
    name=null out=null    folder: out, or appendix/<dataset.name>/<name>; name is made from the options
    overwrite=false

    --cfg job             print every option instead of running
    --config-dir DIR      look for data set configs in DIR too
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.config.identity import component_name
from mltrain.config.rules import SINGLE_LABEL
from mltrain.errors import ConfigError
from mltrain.labels import LabelSet
from mltrain.longtail.options import LongTailOptions
from mltrain.longtail.split import separator_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options(LongTailOptions):
    """Options of the command itself."""

    source: Literal["train", "trainval"] = "train"
    """images to choose from: the training split, or it with the validation split, in the order of their files"""
    name: str | None = None
    """of the split; None: from the options"""
    out: str | None = None
    """folder; None: appendix/<dataset.name>/<name>"""
    overwrite: bool = False
    """replace the split that is in the folder"""


def create_longtail(cfg: DictConfig, options: Options) -> Path:
    """Build a long-tailed split of the config's data set and write its folder; returns it."""
    from mltrain.longtail import LongTail, build_longtail
    from mltrain.longtail.build import default_name, joined
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
    logger.info("drawing plots")
    written = made.write(folder, finish=lambda place: _draw(place, made), overwrite=options.overwrite)
    logger.info("wrote %s\n%s", folder, _how_to_train(folder, images, made, cfg.task))
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


def _how_to_train(folder: Path, images: LabelSet, made: Any, task: str) -> str:
    if made.val is None:
        return "train on it with the csv reader and a val split of your own (val_fraction=0 left none here)"
    keys = {
        "file": folder / "labels.csv",
        "classes": folder / "classes.txt",
        "root": images.root or ".",
        "name": made.name,
    }
    separator = separator_of(images.class_names)
    if separator != ";":
        keys["separator"] = separator
    words = " ".join(shlex.quote(f"dataset.{key}={value}") for key, value in keys.items())
    for key in ("head_min", "medium_min"):
        if getattr(made.stats, key) != getattr(LongTailOptions(), key):
            words += f" metrics.{key}={getattr(made.stats, key)}"  # else a run would have other groups than the split
    if task == SINGLE_LABEL:
        words += f" task={task} loss=cross_entropy"
    return f"train on it: python tools/train.py dataset=csv {words}"


COMMAND = Command(create_longtail, about=__doc__, takes="dataset", options=Options)
