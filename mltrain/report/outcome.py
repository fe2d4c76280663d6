"""CSV files of a finished run or of an evaluation: figures of each class, and the confusion matrix."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mltrain.engine.run_folder import WEIGHTS
from mltrain.labels import GROUP_NAMES, LabelStats
from mltrain.report.tables import write_csv

if TYPE_CHECKING:
    from mltrain.engine.evaluator import Evaluation

logger = logging.getLogger(__name__)

MOST_CONFUSED = 2000
"""Most classes that a confusion matrix is written for."""


def write_per_class(path: Path, evaluation: Evaluation, stats: LabelStats) -> None:
    """Write one row per class: training frequency, group, and per weights the per-class metrics (percent).

    Beside `<name>.csv` goes `<name>_ap.png`, AP against training frequency, or, with single labels,
    `<name>_recall.png`. Without a training set there are no groups and no picture.
    """
    write_csv(path, per_class_rows(evaluation, stats))
    if not stats.num_images:
        return
    from mltrain.report.plots import per_class_ap_plot  # matplotlib, which only the end of a run needs

    figure = next(iter(next(iter(evaluation.summaries.values())).per_class))
    values = {WEIGHTS.get(name, name): summary.per_class[figure] for name, summary in evaluation.summaries.items()}
    per_class_ap_plot(path.with_name(f"{path.stem}_{figure}.png"), values, stats, figure=figure)


def per_class_rows(evaluation: Evaluation, stats: LabelStats) -> list[Sequence[Any]]:
    """Return the header and a row per class, as `write_per_class` writes them."""
    columns: dict[str, Sequence[Any]] = {
        "class": stats.class_names,
        "group": [GROUP_NAMES[g] if stats.num_images else "" for g in stats.groups],
        "train_positives": stats.positives.tolist(),
    }
    for name, summary in evaluation.summaries.items():
        columns |= {f"{name}_{key}": list(map(_cell, values)) for key, values in summary.per_class.items()}
    return [list(columns), *zip(*columns.values(), strict=True)]


def write_confusion(path: Path, evaluation: Evaluation, weights: str, class_names: Sequence[str]) -> None:
    """Write the confusion matrix of the `weights`, if the evaluation has one: images by true and predicted class.

    With more than `MOST_CONFUSED` classes nothing is written, only logged: `metrics.save_predictions` keeps everything.
    """
    confusion = evaluation.summaries[weights].confusion
    if confusion is None:
        return
    if len(class_names) > MOST_CONFUSED:
        logger.info("no confusion matrix: %d classes are more than %d", len(class_names), MOST_CONFUSED)
        return
    rows = ([name, *row] for name, row in zip(class_names, confusion.toarray().tolist(), strict=True))
    write_csv(path, [["true \\ predicted", *class_names], *rows])


def _cell(value: Any) -> Any:
    """Return a number as the file has it: four decimals, empty where the class has none."""
    value = value.item()
    if not isinstance(value, float):
        return value
    return "" if value != value else round(value, 4)
