"""Prepare a data set: download what has a public address, unpack it where its reader looks, verify and shrink it.

    mltrain prepare_data dataset=voc2007
    mltrain prepare_data dataset=coco dataset.root=/data/coco keep_archives=false
    mltrain prepare_data dataset=coco shrink=512               and a copy of smaller images in data/coco_512
    mltrain prepare_data dataset=csv dataset.file=labels.csv   your own: does every file exist, is none in two splits?

Interrupt the command at any time: repeated, it goes on from there, and does nothing twice. For data that cannot be
downloaded (NUS-WIDE, VG500, the images of Open Images, the splits of VOC-MLT and COCO-MLT) it prints where to get them.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.config.check import permission_of
from mltrain.config.identity import component_name
from mltrain.config.schema import number
from mltrain.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the data set's."""

    download: bool = True
    """download missing files; false: only check the files that exist"""
    again: bool = False
    """unpack existing files again, and download their archives if these are gone"""
    keep_archives: bool = True
    """keep archives in <dataset.root>/downloads; false: delete each once it is unpacked and its files are counted"""
    shrink: int | None = number(None, least=1)
    """also make a copy with images whose shorter side has at most this many pixels, under the same names"""
    out: str | None = None
    """folder of the smaller copy; null: <dataset.root>_<shrink>"""
    quality: int = number(90, least=1, most=100)
    """JPEG quality of the smaller copy"""
    workers: int = number(0, least=0)
    """threads that make the smaller copy; 0: one per core"""

    def __post_init__(self) -> None:
        if self.out is not None and self.shrink is None:
            raise ValueError("out=DIR is the folder of the shrunk copy: add shrink=SIZE, e.g. shrink=512")
        if self.again and not self.download:
            raise ValueError("again=true downloads, download=false does not: choose one")


def prepare_data(cfg: DictConfig, options: Options) -> None:
    """Download, unpack and verify the config's data set, and make a copy of smaller images if asked to.

    Raises:
        ConfigError: an option does not fit the data set.
        DataError: data cannot be downloaded, are incomplete, or are damaged.
    """
    from mltrain.datasets.sources import retrieval
    from mltrain.prepare.fetch import STORE, fetch, is_interrupted, is_there, remove_archives, verify

    cfg = _as_the_files_divide(cfg)
    section: dict[str, Any] = OmegaConf.to_container(cfg.dataset, resolve=True)  # type: ignore[assignment]
    name = component_name(cfg.dataset)
    wanted = retrieval(section["_target_"], section)
    splits = None
    missing = list(wanted.files)
    if not options.again:
        missing = [remote for remote in wanted.files if not is_there(remote, Path(section["root"]))]
    interrupted = any(is_interrupted(remote, Path(section["root"])) for remote in missing)
    if missing and not options.again and not interrupted:
        with contextlib.suppress(DataError):  # the reader may know another layout of the same files
            splits = instantiate(cfg.dataset, "dataset", need_val=False)
            verify(splits, wanted.counts)
            missing = []
    if missing and options.download:
        if wanted.by_hand:
            logger.info("%s: you must get a part of it yourself. %s", name, wanted.by_hand)
        with _resumable():
            fetch(name, missing, Path(section["root"]), keep_archives=options.keep_archives)
        splits = None
    try:
        splits = splits or instantiate(cfg.dataset, "dataset", need_val=False)
        verify(splits, wanted.counts)
    except DataError as error:
        hint = "" if not wanted.by_hand or wanted.by_hand in str(error) else f"\n{wanted.by_hand}"
        raise DataError(f"{error}{hint}") from error
    if not options.keep_archives:
        remove_archives(wanted.files, Path(section["root"]))
    found = ", ".join(f"{part} {len(labels):,}" for part, labels in splits._asdict().items() if labels is not None)
    counted = ", as published" if wanted.counts is not None else ""
    logger.info("%s is complete: %s images%s, every file exists", name, found, counted)
    if options.shrink is not None:
        _shrink(cfg, options, splits, leave=(STORE,))


def _as_the_files_divide(cfg: DictConfig) -> DictConfig:
    """Return the config without splits that are drawn: published counts are of those that the files have."""
    from mltrain.config.targets import component_signature
    from mltrain.datasets.division import Division

    cfg = cfg.copy()
    added = component_signature(cfg.dataset._target_, "dataset", permission_of(cfg)).added
    with open_dict(cfg):
        for key in added & cfg.dataset.keys():
            cfg.dataset[key] = getattr(Division, key)
    return cfg


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Tell a user who interrupts the block that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        logger.info("everything done so far is kept; repeat the command to go on")
        raise


def _shrink(cfg: DictConfig, options: Options, splits: Any, leave: Sequence[str]) -> None:
    """Write the smaller copy, with all other files except `leave`, and check that its labels are the same."""
    from mltrain.datasets.splits import check_files
    from mltrain.prepare.shrink import carry, shrink

    if "root" not in cfg.dataset or "{split}" in str(cfg.dataset.get("file")):
        why = "has no option root" if "root" not in cfg.dataset else "has one label file per split"
        raise ConfigError(
            f"shrink={options.shrink}: dataset={component_name(cfg.dataset)} {why}; write its labels as one csv file "
            "with mltrain convert_labels and the same options, and shrink with the options that it prints"
        )
    sets = [labels for labels in splits if labels is not None and len(labels)]
    base = Path(cfg.dataset.root or splits.train.root).absolute()
    out = Path(options.out or f"{base}_{options.shrink}").absolute()
    if out == base:
        raise ConfigError(f"out={options.out}: this is the folder of the originals; choose another")
    assert options.shrink is not None
    with _resumable():
        shrink(sets, base, out, size=options.shrink, quality=options.quality, workers=options.workers)
    if cfg.dataset.get("file") is None:  # otherwise the labels stay in their file
        logger.info("%s: %d other files linked or copied", out, carry(base, out, leave=leave))
    copy = instantiate(OmegaConf.merge(cfg, {"dataset": {"root": str(out)}}).dataset, "dataset", need_val=False)
    for labels, original in zip(copy, splits, strict=True):
        if labels is None:
            continue
        check_files(labels)
        if labels.fingerprint() != original.fingerprint():
            raise DataError(f"{out}: its labels are not those of {base}; delete it and repeat the command")
    logger.info("train on it: add %s", shlex.quote(f"dataset.root={out}"))


COMMAND = Command(prepare_data, about=__doc__, takes="dataset", options=Options)
