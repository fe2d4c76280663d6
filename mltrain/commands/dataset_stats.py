"""Count images, labels, groups, imbalance and co-occurrence of a data set. Only annotation files are read; image
files are not opened, and missing ones are counted.

    mltrain dataset_stats dataset=auto dataset.path=FOLDER    your own
    mltrain dataset_stats dataset=coco2017                    COCO under data/coco
    mltrain dataset_stats dataset=csv dataset.file=labels.csv json=stats.json
    mltrain dataset_stats dataset=voc2007 out=stats/voc2007   with plots

The tables are written to standard output.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mltrain import console
from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.config.schema import number
from mltrain.files import write_json
from mltrain.runs.outputs import writing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the data set's."""

    head_min: int = number(100, least=1)
    """a class with at least this many training images is a head class"""
    medium_min: int = number(20, least=1)
    """a class with fewer is a medium class down to this many training images, and a tail class below"""
    top: int = number(10, least=1)
    """number of co-occurring pairs, and of classes at each end of the table"""
    json: str | None = None
    """file for all numbers as JSON"""
    out: str | None = None
    """folder for stats.json, stats.txt, classes.csv and plots of each split"""

    def __post_init__(self) -> None:
        if self.medium_min > self.head_min:
            raise ValueError(f"medium_min={self.medium_min} must not be above head_min={self.head_min}")


def dataset_stats(cfg: DictConfig, options: Options) -> dict[str, Any]:
    """Count every split of the config's data set, write the tables to standard output, and return the numbers.

    Raises:
        ConfigError: `json` cannot be written.
        DataError: the data set cannot be read, or `out` cannot be written.
    """
    from mltrain.datasets.image_files import warn_of_files
    from mltrain.report import label_stats

    splits = instantiate(cfg.dataset, "dataset", need_val=False)
    for labels in splits:
        if labels is not None:
            warn_of_files(labels)
    counted = {
        part: label_stats.count(labels, options.head_min, options.medium_min)
        for part, labels in splits._asdict().items()
        if labels is not None and len(labels)
    }
    groups = counted["train"].stats
    numbers = {part: label_stats.summary(split, groups, options.top) for part, split in counted.items()}
    text = label_stats.tables(numbers, counted, options.top)
    console.write(text + "\n")
    if options.json:
        with writing(Path(options.json), "json") as file:
            write_json(file, numbers)
    if options.out:
        label_stats.write_folder(Path(options.out), numbers, counted, text, groups)
        logger.info("wrote %s", options.out)
    return numbers


COMMAND = Command(dataset_stats, about=__doc__, takes="dataset", options=Options, unnamed_data="say")
