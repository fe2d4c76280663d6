"""The work of tools/prepare_data.py: the config's data set, downloaded, verified and shrunk (`mltrain.prepare`)."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mltrain.config.build import instantiate
from mltrain.config.identity import component_name
from mltrain.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareData:
    """Options of tools/prepare_data.py."""

    download: bool = True
    """get what is missing; false: only check what is there"""
    again: bool = False
    """download (or take from downloads/) and unpack also what is there"""
    keep_archives: bool = True
    """false: delete each archive once it is unpacked and its files are counted"""
    shrink: int | None = None
    """make a copy with images whose shorter side has at most so many pixels"""
    out: str | None = None
    """folder of that copy; None: <dataset.root>_<shrink>"""
    quality: int = 90
    """of its JPEG files, 1 to 100"""
    workers: int = 0
    """threads that make it; 0: one for each core"""

    def __post_init__(self) -> None:
        if (self.shrink is not None and self.shrink < 1) or not 1 <= self.quality <= 100 or self.workers < 0:
            raise ValueError(
                f"shrink={self.shrink} >= 1, quality={self.quality} from 1 to 100 and workers={self.workers} >= 0 must "
                "hold"
            )
        if self.out is not None and self.shrink is None:
            raise ValueError("out=DIR is the folder of the shrunk copy: add shrink=SIZE, e.g. shrink=512")
        if self.again and not self.download:
            raise ValueError("again=true downloads, download=false does not: choose one")


def prepare_data(cfg: DictConfig, options: PrepareData) -> None:
    """Download, unpack and verify the config's data set, and make a copy of smaller images if asked to."""
    from mltrain.datasets.sources import retrieval
    from mltrain.prepare.fetch import STORE, fetch, is_there, verify

    section: dict[str, Any] = OmegaConf.to_container(cfg.dataset, resolve=True)  # type: ignore[assignment]
    name = component_name(cfg.dataset)
    wanted = retrieval(section["_target_"], section)
    splits = None
    missing = list(wanted.files)
    if not options.again:
        missing = [remote for remote in wanted.files if not is_there(remote, Path(section["root"]))]
    if missing and not options.again:
        with contextlib.suppress(DataError):  # a copy that is laid out in another way that its reader knows
            splits = instantiate(cfg.dataset, "dataset", need_val=False)
            verify(splits, wanted.counts)
            missing = []
    if missing and options.download:
        if wanted.by_hand:
            logger.info("%s: a part of it has to be fetched by hand. %s", name, wanted.by_hand)
        with _resumable():
            fetch(name, missing, Path(section["root"]), keep_archives=options.keep_archives)
        splits = None
    try:
        splits = splits or instantiate(cfg.dataset, "dataset", need_val=False)
        verify(splits, wanted.counts)
    except DataError as error:
        hint = "" if not wanted.by_hand or wanted.by_hand in str(error) else f"\n{wanted.by_hand}"
        raise DataError(f"{error}{hint}") from error
    found = ", ".join(f"{part} {len(labels):,}" for part, labels in splits._asdict().items() if labels is not None)
    counted = ", as published" if wanted.counts is not None else ""
    logger.info("%s is complete: %s images%s, every file is there", name, found, counted)
    if options.shrink is not None:
        _shrink(cfg, options, splits, leave=(STORE,))


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        logger.info("what is done is kept: the same command goes on from there")
        raise


def _shrink(cfg: DictConfig, options: PrepareData, splits: Any, leave: Sequence[str]) -> None:
    from mltrain.datasets.splits import check_files
    from mltrain.prepare.shrink import carry, shrink

    if "root" not in cfg.dataset:
        raise ConfigError(f"shrink={options.shrink}: dataset={component_name(cfg.dataset)} has no option root")
    sets = [labels for labels in splits if labels is not None and len(labels)]
    base = Path(cfg.dataset.root or splits.train.root).absolute()
    out = Path(options.out or f"{base}_{options.shrink}").absolute()
    if out == base:
        raise ConfigError(f"out={options.out}: is the folder of the originals; choose another")
    assert options.shrink is not None
    with _resumable():
        shrink(sets, base, out, size=options.shrink, quality=options.quality, workers=options.workers)
    if cfg.dataset.get("file") is None:  # else the labels stay where they are
        logger.info("%s: %d other files linked or copied", out, carry(base, out, leave=leave))
    copy = instantiate(OmegaConf.merge(cfg, {"dataset": {"root": str(out)}}).dataset, "dataset", need_val=False)
    for labels, original in zip(copy, splits, strict=True):
        if labels is None:
            continue
        check_files(labels)
        if labels.fingerprint() != original.fingerprint():
            raise DataError(f"{out}: its labels are not those of {base}; delete it and repeat the command")
    logger.info("train on it: add %s", shlex.quote(f"dataset.root={out}"))
