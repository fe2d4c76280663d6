"""Published models by name (models.yaml): commands take `zoo:NAME` instead of a run folder."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mltrain.errors import ConfigError

if TYPE_CHECKING:
    from mltrain.engine.evaluator import Evaluation

logger = logging.getLogger(__name__)

TABLE = Path(__file__).with_name("models.yaml")
SOURCE_FILE = "source.json"
"""in a converted run folder: what it was made of"""
METRICS = {
    "plain": "average precision",
    "envelope": "average precision under the envelope of precision",
    "known": "average precision over the verified labels of each class",
}


@dataclass(frozen=True)
class ZooModel:
    """A row of models.yaml; the file's header explains the fields."""

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
        """Option of the config group dataset."""
        return next(word.partition("=")[2] for word in self.options if word.startswith("dataset="))


def models() -> dict[str, ZooModel]:
    """Return the published models by name."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {name: ZooModel(**row) for name, row in rows.items()}


def read_source(folder: Path) -> dict[str, Any] | None:
    """Return the content of source.json of a converted run; None for other runs."""
    try:
        content: dict[str, Any] = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / SOURCE_FILE}: cannot be read ({error}); convert the file again") from error
    return content


# -- comparison ------------------------------------------------------------------------------------------------------


def needs_predictions(folder: Path) -> bool:
    """Return whether the published figure of a run folder is of a metric that needs every logit."""
    published = _published(folder)
    return published is not None and published["published"]["metric"] == "envelope"


def compare(folder: Path, dataset: str, evaluation: Evaluation, images: int) -> dict[str, Any]:
    """Log our figure beside the published one; return {"compared": figures}, or nothing without a published figure.

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
    """Return source.json of a model that has a published figure in the table, or None."""
    source = read_source(folder)
    return source if source and source.get("published") and source.get("zoo") in models() else None
