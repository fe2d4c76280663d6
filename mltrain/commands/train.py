"""Train an image classifier, multi-label or (task=single_label) single-label.

    mltrain train                                             the embedded default: drawn shapes, about a minute
    mltrain train dataset=coco loss=asl model=tresnet_l       COCO under data/coco
    mltrain train dataset=csv dataset.file=labels.csv         your own images, on a pretrained MobileNetV2
    mltrain train dataset=folder dataset.root=FOLDER          one label per image: FOLDER/{train,val}/CLASS/*.jpg
    mltrain train +experiment=coco_asl_tresnet_l              a whole recipe; later arguments change it
    mltrain train model=timm model.name=regnety_032 runner.epochs=20 optimizer.lr=2e-4
    mltrain train -m loss=bce,focal,asl head=gap,ml_decoder seed=0,1     a sweep
    mltrain train -m hydra/launcher=joblib|ray|slurm loss=bce,asl        with jobs side by side (docs/scale.md)
    torchrun --nproc_per_node=8 -m mltrain train dataset=coco            several GPUs

Repeating a command resumes an unfinished run and reports a finished one (rerun=true trains again), unless its data have
changed: then it says what has. Most used keys:
    runner.epochs  runner.batch_size (over all GPUs)  runner.amp  runner.device  data.num_workers  seed  name
    model.image_size  model.pretrained  model.checkpoint=FILE  optimizer.lr  paths.data  paths.runs
"""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mltrain.cli import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any] | None:
    """Train a config to its end; return the content of result.json on the main rank."""
    from mltrain.runs.train import train

    return train(cfg)


def check_data(configs: list[DictConfig]) -> bool:
    """Refuse jobs of a sweep whose runs are of other data; see `check_runs`."""
    from mltrain.runs.same_data import check_runs

    return check_runs(configs)


def compare_runs(folder: Path) -> None:
    """Write the page that compares the runs of a sweep; a failure is only logged, because the sweep has succeeded."""
    from mltrain.commands.report import report

    try:
        logger.info("comparison: %s", report([str(folder)]))
    except Exception as error:  # noqa: BLE001
        command = f"mltrain report {shlex.quote(str(folder))}"
        logger.warning("no comparison was written (%s: %s); try again: %s", type(error).__name__, error, command)


COMMAND = Command(run, about=__doc__, takes="config", before_sweep=check_data, after_sweep=compare_runs)
