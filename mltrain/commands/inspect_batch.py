"""Show what enters the model: one batch of training as a picture, its tensors and targets as tables.

    mltrain inspect_batch                                            the embedded default
    mltrain inspect_batch dataset=csv dataset.file=labels.csv augment=standard mix=cutmix
    mltrain inspect_batch +experiment=coco_mlt_db dataset.root=/data/coco epoch=3 step=10

The command takes every key of `mltrain train`, and shows, bit for bit, the batch of that training: images after
augmentation and mixing, the names of their classes (with values of soft targets and counts of unknown ones), type,
shape, layout and range of the tensors before and after normalisation, and how often the sampler shows each class in an
epoch, compared with its count in the data. No weights are loaded, no run folder is made.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mltrain import console
from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.config.rules import FEATURES
from mltrain.config.schema import number
from mltrain.errors import ConfigError
from mltrain.runs.offline import offline
from mltrain.runs.outputs import check_suffix, writing
from mltrain.text import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the config's."""

    epoch: int = number(0, least=0)
    """epoch of the batch, counted from 0"""
    step: int = number(0, least=0)
    """optimizer step in that epoch, counted from 0; of several micro-batches the first is shown"""
    images: int = number(32, least=1)
    """greatest number of images in the picture and in the tables"""
    top: int = number(10, least=1)
    """number of classes at each end of the sampler's table"""
    out: str = "batch.png"
    """picture to write"""

    def __post_init__(self) -> None:
        check_suffix(self.out, ".png")


def inspect_batch(cfg: DictConfig, options: Options) -> str | None:
    """Write the picture of a batch, and tables of its tensors, its targets and the sampler to standard output.

    The batch is bit for bit that of training: order, augmentation and mixing are functions of seed, epoch and step. No
    weights are loaded, because only input size and normalisation of the model matter.

    Returns:
        The tables on the main rank, None on others.

    Raises:
        ConfigError: the epoch has no such step, or the picture cannot be written.
    """
    import torch
    from torch import nn

    from mltrain.engine import distributed
    from mltrain.engine.step import mix_generator
    from mltrain.models.classifier import Classifier
    from mltrain.report.batch import batch_picture, sampler_table, target_table, tensor_table
    from mltrain.report.pictures import write_picture
    from mltrain.runs.assemble import Parts, build_data, build_train_loader

    if cfg.data.cache == FEATURES:
        raise ConfigError(
            "data.cache=features: its batches hold no images; data.cache=false shows those of other trainings"
        )
    cfg = offline(cfg)
    cfg.data.num_workers = 0
    with distributed.start(cfg.runner.device) as dist:
        splits, stats = build_data(cfg, dist)
        model = Classifier(instantiate(cfg.model, "model"), nn.Identity()).to(dist.device)
        loader = build_train_loader(cfg, dist, Parts(splits, stats, model))
        if options.step >= loader.steps_per_epoch:
            raise ConfigError(
                f"step={options.step}: an epoch has {counted(loader.steps_per_epoch, 'step')}, counted from 0"
            )
        batch = next(loader.epoch(options.epoch, options.step))
        loader.close()
        if not dist.is_main:
            return None
        memory_format = torch.channels_last if cfg.runner.channels_last else torch.contiguous_format
        images = batch.images.to(dist.device, memory_format=memory_format)
        targets = batch.targets.to(dist.device)
        tensors = {"images, as loaded": images, "targets, as loaded": targets}
        mix = instantiate(cfg.mix, "mix")
        if mix is not None:
            number = options.epoch * loader.steps_per_epoch + options.step
            images, targets = mix(images, targets, mix_generator(cfg.seed, number, rank=dist.rank))
            tensors |= {"images, mixed": images, "targets, mixed": targets}
        tensors["images, normalised"] = model.normalize(images)
        sampler = instantiate(cfg.sampler, "sampler", labels=splits.train, stats=stats, seed=cfg.seed)
    files = [splits.train.file(int(i)) for i in batch.indices[: options.images]]
    rows = targets.cpu().numpy()[: options.images]
    used = loader.steps_per_epoch * min(cfg.runner.batch_size * cfg.runner.accumulate, len(sampler))
    blocks = [
        f"{splits.train.name}: epoch {options.epoch}, step {options.step} of {loader.steps_per_epoch}"
        + (f", the first of {cfg.runner.accumulate} micro-batches" if cfg.runner.accumulate > 1 else ""),
        tensor_table(tensors),
        target_table(rows, files, stats.class_names),
        sampler_table(splits.train, stats, sampler.order(options.epoch)[:used], top=options.top),
    ]
    if mix is not None:
        blocks.insert(2, "each image is mixed with another of the batch; its own file is named")
    if batch.corrupt:
        blocks.insert(1, "\n".join(["left out, because they cannot be decoded:", *batch.corrupt]))
    with writing(Path(options.out)) as out:
        write_picture(out, batch_picture(images, rows, files, stats.class_names, most=options.images))
    text = "\n\n".join(blocks)
    console.write(text + "\n")
    logger.info("picture: %s", out)
    return text


COMMAND = Command(inspect_batch, about=__doc__, takes="config", options=Options)
