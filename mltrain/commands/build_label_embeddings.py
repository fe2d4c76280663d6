"""Make the label embeddings that head=zero_shot reads, from a file of word vectors (word2vec, GloVe or fastText text).

    mltrain build_label_embeddings dataset=nuswide_zsl vectors=crawl-300d-2M.vec
    mltrain build_label_embeddings dataset=coco vectors=glove.6B.300d.txt aliases=aliases.txt
    mltrain build_label_embeddings classes=classes.txt vectors=glove.6B.300d.txt out=embeddings.npz

The file, which may end in .gz, is read once, line by line, and only the needed words are kept. If it has the whole name
of a class as one word, the class has the vector of that word, otherwise the mean of the vectors of its words.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from mltrain.cli import Command
from mltrain.config.build import instantiate
from mltrain.config.identity import component_name
from mltrain.errors import ConfigError, DataError
from mltrain.runs.outputs import check_suffix, writing
from mltrain.text import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of the command itself, beside the data set's."""

    vectors: str | None = None
    """file of word vectors; always needed"""
    classes: str | None = None
    """file of class names, one per line; null: the classes of the data set"""
    aliases: str | None = None
    """file of other words for some classes, one per line: class=words"""
    out: str | None = None
    """file to write; null: <paths.data>/embeddings/<dataset.name>.npz, where head=zero_shot looks for it"""

    def __post_init__(self) -> None:
        if self.out is not None:
            check_suffix(self.out, ".npz")


def build_label_embeddings(cfg: DictConfig, options: Options) -> Path:
    """Write a vector for each class name, made from a file of word vectors, and return the written file.

    Raises:
        ConfigError: `vectors` is missing, a file does not exist, or `out` cannot be written.
        DataError: a file cannot be read, or has no vector for a class.
    """
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
    default = Path(cfg.paths.data) / "embeddings" / f"{component_name(cfg.dataset)}.npz"
    with writing(Path(options.out) if options.out else default) as path:
        write_label_embeddings(path, names, vectors)
    logger.info("wrote %s: %s, vectors of %d numbers", path, counted(len(vectors), "class"), vectors.shape[1])
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


COMMAND = Command(build_label_embeddings, about=__doc__, takes="dataset", options=Options)
