"""The command line of tools with options of their own: `dataset=... KEY=VALUE`; and those that only read labels.

The options are a dataclass, as the frame's sections are; the data set, or the whole of a training, is configured as for
tools/train.py.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from omegaconf import DictConfig, OmegaConf

from mltrain.config.build import instantiate
from mltrain.config.check import message
from mltrain.config.cli import help_text
from mltrain.config.compose import Source, load, tool_options
from mltrain.config.identity import component_name
from mltrain.config.schema import frame_options
from mltrain.config.task import SINGLE_LABEL
from mltrain.console import exit_on_error
from mltrain.errors import ConfigError, DataError
from mltrain.labels import LabelSet
from mltrain.longtail.options import LongTailOptions
from mltrain.longtail.split import separator_of
from mltrain.text import nearest

logger = logging.getLogger(__name__)

SECTIONS = ("dataset", "paths")


@dataclass(frozen=True)
class CreateLongtail(LongTailOptions):
    """Options of tools/create_longtail_dataset.py."""

    source: Literal["train", "trainval"] = "train"
    """images to choose from: the training split, or it with the validation split, in the order of their files"""
    name: str | None = None
    """of the split; None: from the options"""
    out: str | None = None
    """folder; None: appendix/<dataset.name>/<name>"""
    overwrite: bool = False
    """replace the split that is in the folder"""


@dataclass(frozen=True)
class DatasetStats:
    """Options of tools/dataset_stats.py."""

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


@dataclass(frozen=True)
class LabelEmbeddings:
    """Options of tools/build_label_embeddings.py."""

    vectors: str | None = None
    """file of word vectors"""
    classes: str | None = None
    """file of class names, one per line; None: those of the data set"""
    aliases: str | None = None
    """file of other words for some classes, one per line: class=words"""
    out: str | None = None
    """file to write; None: <paths.data>/embeddings/<dataset.name>.npz"""


def main(
    work: Callable[[DictConfig, Any], Any], options: type, *, about: str, config_dir: Path, whole: bool = False
) -> NoReturn:
    """Run `work(cfg, options)` for the command line and leave the process, as `mltrain.config.cli.main` does.

    `whole`: the tool takes every key of a training's config, else `SECTIONS` alone.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what is half written is cleared away
    with exit_on_error():
        parser = _Parser(options)
        parser.add_argument("words", nargs="*")
        parser.add_argument("-h", "--help", action="store_true")
        parser.add_argument("-c", "--cfg", choices=["job"])
        parser.add_argument("-cd", "--config-dir", action="append", default=[])
        given = parser.parse_intermixed_args(sys.argv[1:])
        source = Source(config_dir.resolve(), tuple(Path(folder) for folder in given.config_dir))
        if given.help and whole:
            sys.stdout.write(help_text(about, config_dir))
        elif given.help:
            names = textwrap.fill(
                ", ".join(source.options("dataset")), 110, initial_indent="    ", subsequent_indent="    "
            )
            sys.stdout.write(f"{about.strip()}\n\nData sets (dataset=NAME, options: dataset.KEY=VALUE)\n{names}\n")
        else:
            cfg, own = read(options, given.words, source, whole=whole)
            if given.cfg:
                sections: Sequence[str] = [str(key) for key in cfg] if whole else SECTIONS
                shown = OmegaConf.create({**asdict(own), **{key: cfg[key] for key in sections}})
                sys.stdout.write(OmegaConf.to_yaml(shown, resolve=True))
            else:
                work(cfg, own)
    sys.exit(0)


def read(
    options: type, words: Sequence[str], source: Source | None = None, *, whole: bool = False
) -> tuple[DictConfig, Any]:
    """The checked config and the tool's own options. Raises ConfigError."""
    known = [*frame_options(options), *SECTIONS]
    problems = []
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if not whole and "=" in word and key.split(".")[0] not in known:
            near = nearest(key, known)
            hint = f"; did you mean {near}?" if near else ""
            problems.append(f"{key}: there is no {key}{hint}\nallowed: {', '.join(known)}")
    if problems:
        raise ConfigError(message(problems))
    try:
        own, rest = tool_options(options, words)
    except ValueError as error:  # options that contradict each other
        raise ConfigError(message([str(error)])) from error
    return load(rest, source=source), own


def create_longtail(cfg: DictConfig, options: CreateLongtail) -> Path:
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


def dataset_stats(cfg: DictConfig, options: DatasetStats) -> dict[str, Any]:
    """Count every split of the config's data set; writes what the options name, and the tables to standard output."""
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
            label_stats.write_json(Path(options.json), numbers)
        except OSError as error:
            raise ConfigError(f"json={options.json}: cannot be written: {error.strerror or error}") from error
    if options.out:
        label_stats.write_folder(Path(options.out), numbers, counted, text, groups)
        logger.info("wrote %s", options.out)
    return numbers


def build_label_embeddings(cfg: DictConfig, options: LabelEmbeddings) -> Path:
    """Write a vector for each class name, made from a file of word vectors; returns the file written."""
    from mltrain.datasets.reading import read_class_names
    from mltrain.models.label_embeddings import label_embeddings, write_label_embeddings

    if options.vectors is None:
        raise ConfigError(
            "vectors: name a file of word vectors in text, e.g. vectors=glove.6B.300d.txt from "
            "https://nlp.stanford.edu/projects/glove/ or crawl-300d-2M.vec from https://fasttext.cc"
        )
    if options.classes:
        names = list(read_class_names(_existing(options.classes, "classes")))
    else:
        names = list(instantiate(cfg.dataset, "dataset", need_val=False).train.class_names)
    aliases = _read_aliases(_existing(options.aliases, "aliases")) if options.aliases else {}
    vectors = label_embeddings(options.vectors, names, aliases=aliases)
    name = component_name(cfg.dataset)
    path = Path(options.out) if options.out else Path(cfg.paths.data) / "embeddings" / f"{name}.npz"
    if path.suffix != ".npz":
        raise ConfigError(f"out={options.out}: the name must end in .npz")
    try:
        write_label_embeddings(path, names, vectors)
    except OSError as error:
        raise ConfigError(f"out: {path} cannot be written: {error.strerror or error}") from error
    logger.info("wrote %s: %d classes, vectors of %d numbers", path, *vectors.shape)
    return path


def _existing(file: str, key: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"{key}={file}: no such file")
    return path


def _read_aliases(path: Path) -> dict[str, str]:
    from mltrain.datasets.reading import read_lines

    aliases: dict[str, str] = {}
    for number, line in read_lines(path):
        name, mark, words = (part.strip() for part in line.partition("="))
        if not (name and mark and words):
            raise DataError(f"{path}, line {number}: expected class=words, found {line!r}")
        aliases[name] = words
    return aliases


class _Parser(argparse.ArgumentParser):
    def __init__(self, options: type) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.known = [*frame_options(options), "dataset"]

    def error(self, message: str) -> NoReturn:
        flags = [word.lstrip("-").split("=")[0] for word in sys.argv[1:] if word.startswith("-")]
        near = nearest(flags[-1].replace("-", "_"), self.known) if flags else None
        if not message.startswith("unrecognized"):
            raise ConfigError(f"{message} (--help)")
        hint = f"did you mean {near}=VALUE?" if near else "e.g. dataset=csv"
        raise ConfigError(f"{message}; options are written KEY=VALUE, without dashes: {hint} (--help)")
