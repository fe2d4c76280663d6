"""Count a data set: images, labels, groups, imbalance, co-occurrence. Reads annotation files only, opens no image.

    mltrain dataset_stats                                     the drawn shapes
    mltrain dataset_stats dataset=coco2017                    COCO under data/coco
    mltrain dataset_stats dataset=csv dataset.file=labels.csv json=stats.json
    mltrain dataset_stats dataset=voc2007 out=stats/voc2007   with plots

The tables go to standard output.
    out=DIR               also stats.json, stats.txt, classes.csv and plots of each split
    json=FILE             also all numbers as JSON
    head_min=100          head: classes with at least so many training images
    medium_min=20         medium: at least so many; tail: fewer
    top=10                co-occurring pairs, and classes at each end of the table

    --cfg job             print every option instead of running
    --config-dir DIR      look for data set configs in DIR too
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    head_min: int = 100
    """head: classes with at least so many training images"""
    medium_min: int = 20
    """medium: at least so many; tail: fewer"""
    top: int = 10
    """co-occurring pairs, and classes at each end of the table"""
    json: str | None = None
    """file for all numbers"""
    out: str | None = None
    """folder for all numbers, tables and plots"""

    def __post_init__(self) -> None:
        if not self.head_min >= self.medium_min >= 1 or self.top < 1:
            raise ValueError(
                f"head_min={self.head_min} >= medium_min={self.medium_min} >= 1 and top={self.top} >= 1 must hold"
            )


def dataset_stats(cfg: DictConfig, options: Options) -> dict[str, Any]:
    """Count every split of the config's data set; writes what the options name, and the tables to standard output."""
    from mltrain.files import write_json
    from mltrain.report import label_stats

    splits = instantiate(cfg.dataset, "dataset", need_val=False)
    counted = {
        part: label_stats.count(labels, options.head_min, options.medium_min)
        for part, labels in splits._asdict().items()
        if labels is not None and len(labels)
    }
    groups = counted["train"].stats
    numbers = {part: label_stats.summary(split, groups, options.top) for part, split in counted.items()}
    text = label_stats.tables(numbers, counted, options.top)
    sys.stdout.write(text + "\n")
    if options.json:
        try:
            write_json(Path(options.json), numbers)
        except OSError as error:
            raise ConfigError(f"json={options.json}: cannot be written: {error.strerror or error}") from error
    if options.out:
        label_stats.write_folder(Path(options.out), numbers, counted, text, groups)
        logger.info("wrote %s", options.out)
    return numbers


COMMAND = Command(dataset_stats, about=__doc__, takes="dataset", options=Options)
