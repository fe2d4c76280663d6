"""Published models by name: `zoo:NAME` in place of a run folder downloads, converts and compares (models.yaml)."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mltrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from mltrain.engine.evaluator import Evaluation

logger = logging.getLogger(__name__)

TABLE = Path(__file__).with_name("models.yaml")
PREFIX = "zoo:"
SOURCE_FILE = "source.json"
"""in a converted run folder: what it was made of"""
METRICS = {
    "plain": "average precision",
    "envelope": "average precision under the envelope of precision",
    "known": "average precision over the verified labels of each class",
}


@dataclass(frozen=True)
class ZooModel:
    """A row of models.yaml; its header says what the fields are."""

    about: str
    url: str | None
    file: str
    megabytes: int
    page: str
    options: list[str]
    published: dict[str, Any] | None
    sha256: str | None

    @property
    def dataset(self) -> str:
        """Option of the config group."""
        return next(word.partition("=")[2] for word in self.options if word.startswith("dataset="))


def models() -> dict[str, ZooModel]:
    """The table, by name."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {name: ZooModel(**row) for name, row in rows.items()}


def run_folder(word: str, words: Sequence[str] = ()) -> Path:
    """The run folder that a tool's argument names: a folder, or `zoo:NAME`, which is downloaded and converted once.

    Args:
        word: folder or zoo:NAME.
        words: the tool's KEY=VALUE; paths.data and paths.runs say where to download and convert to.

    Raises:
        ConfigError: no such name.
        DataError: the file cannot be downloaded, or has to be fetched by hand.
        CheckpointError: it is not what the table says.
    """
    if not word.startswith(PREFIX):
        return Path(word)
    name, table = word.removeprefix(PREFIX), models()
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise ConfigError(f"{word}: there is no such published model{hint}\nallowed: {', '.join(table)}")
    model = table[name]
    paths = {"data": "data", "runs": "runs"}
    for key in paths:
        paths[key] = next((w.partition("=")[2] for w in words if w.startswith(f"paths.{key}=")), paths[key])
    out = Path(paths["runs"]) / "zoo" / name
    source = read_source(out)
    if source is not None and source.get("zoo") == name:
        return out
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"{word}: get it with one process first: python tools/convert_checkpoint.py {word}")
    logger.info("%s: %s", word, model.about)
    file = _obtain(word, model, Path(paths["data"]) / "zoo")
    from mltrain.config.convert import convert  # torch, which a failing download does not wait for
    from mltrain.config.schema import Convert

    origin = {"zoo": name, "about": model.about, "url": model.url, "page": model.page, "published": model.published}
    return convert(file, Convert(out=str(out), overwrite=source is not None), model.options, origin=origin)


def read_source(folder: Path) -> dict[str, Any] | None:
    """source.json of a converted run; None of others."""
    try:
        content: dict[str, Any] = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / SOURCE_FILE}: cannot be read ({error}); convert the file again") from error
    return content


def _obtain(word: str, model: ZooModel, folder: Path) -> Path:
    """The file, downloaded where it is not there; its checksum is the table's, or that of the first download."""
    from mltrain.datasets.sources import MB, Source
    from mltrain.prepare.fetch import fetch

    file = folder / model.file
    if not file.is_file():
        if model.url is None:
            raise DataError(
                f"{word}: cannot be downloaded by a program. Get it from {model.page} and save it as {file.absolute()}"
            )
        # the name in the address is the file's, but for an address that ends in a query
        source = Source((model.url,), model.megabytes * MB, ((model.file, 1),))
        try:
            fetch(word, [source], folder)
        except DataError as error:
            raise DataError(str(error).replace("dataset.root=FOLDER", "paths.data=FOLDER")) from error
    if model.sha256 is not None:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != model.sha256:
            raise DataError(f"{file}: SHA-256 {found}, and {TABLE.name} has {model.sha256}; delete it to get it again")
    return file


# -- comparison ------------------------------------------------------------------------------------------------------


def needs_predictions(folder: Path) -> bool:
    """Whether the published figure of a run folder is of a metric that needs every logit."""
    published = _published(folder)
    return published is not None and published["published"]["metric"] == "envelope"


def compare(folder: Path, dataset: str, evaluation: Evaluation, images: int) -> dict[str, Any]:
    """Log ours beside the published figure, by its metric; returns {"compared": figures}, empty without such a figure.

    Args:
        folder: the run's.
        dataset: name of the data set that was evaluated.
        evaluation: of its validation split.
        images: of that split.
    """
    source = _published(folder)
    if source is None:
        return {}
    published, where = source["published"], models()[source["zoo"]].dataset
    ours = float(evaluation.summaries["val"].scalars["map"])
    if published["metric"] == "envelope":
        from mltrain.metrics.average_precision import envelope_average_precision

        predictions = evaluation.predictions
        assert predictions is not None, "needs_predictions asked for them"
        ours = 100 * float(envelope_average_precision(predictions.logits["val"], predictions.targets).nanmean())
    theirs, expected = float(published["map"]), published["images"]
    comparable = where == dataset and expected in (None, images)
    logger.info(
        "mAP (%s) %.2f over %s images of %s; published %g%s of %s (%s): %s",
        METRICS[published["metric"]],
        ours,
        f"{images:,}",
        dataset,
        theirs,
        f" over {expected:,}" if expected else "",
        where,
        source["page"],
        f"{ours - theirs:+.2f}" if comparable else "not comparable, these are other images",
    )
    return {"compared": {"map": ours, "images": images, "published": published, "comparable": comparable}}


def _published(folder: Path) -> dict[str, Any] | None:
    """source.json of a model of the table that has a published figure."""
    source = read_source(folder)
    return source if source and source.get("published") and source.get("zoo") in models() else None
