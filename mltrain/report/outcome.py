"""Files of a finished run or of an evaluation: result.json, per_class.csv, confusion.csv."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mltrain.labels import GROUP_NAMES, LabelStats
from mltrain.report.tables import WEIGHTS

if TYPE_CHECKING:
    from mltrain.engine.runner import Evaluation

logger = logging.getLogger(__name__)

MOST_CONFUSED = 2000
"""Classes of which a confusion matrix is written."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write in whole or not at all; NaN becomes null."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def write_per_class(path: Path, evaluation: Evaluation, stats: LabelStats) -> None:
    """One row per class: training frequency, group, and per weights the per-class metrics (percent).

    Beside `<name>.csv` goes `<name>_ap.png`, AP against training frequency, or, of single labels, `<name>_recall.png`.
    """
    columns: dict[str, Any] = {
        "class": stats.class_names,
        "group": [GROUP_NAMES[g] for g in stats.groups],
        "train_positives": stats.positives.tolist(),
    }
    for name, summary in evaluation.summaries.items():
        columns |= {f"{name}_{key}": values.tolist() for key, values in summary.per_class.items()}
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow(["" if isinstance(v, float) and v != v else _short(v) for v in row])
    temporary.replace(path)
    from mltrain.report.plots import per_class_ap_plot  # matplotlib, which only the end of a run needs

    figure = next(iter(next(iter(evaluation.summaries.values())).per_class))
    values = {WEIGHTS.get(name, name): summary.per_class[figure] for name, summary in evaluation.summaries.items()}
    per_class_ap_plot(path.with_name(f"{path.stem}_{figure}.png"), values, stats, figure=figure)


def write_confusion(path: Path, evaluation: Evaluation, weights: str, class_names: Sequence[str]) -> None:
    """Confusion matrix of the `weights`, where the evaluation has one: a row for each true class, in numbers of images.

    Of more than `MOST_CONFUSED` classes nothing is written, only logged: `metrics.save_predictions` keeps everything.
    """
    confusion = evaluation.summaries[weights].confusion
    if confusion is None:
        return
    if len(class_names) > MOST_CONFUSED:
        logger.info("no confusion matrix: %d classes are more than %d", len(class_names), MOST_CONFUSED)
        return
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *class_names])
        writer.writerows([name, *row] for name, row in zip(class_names, confusion.toarray().tolist(), strict=True))
    temporary.replace(path)


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
