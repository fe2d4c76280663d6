"""Published figures beside those of runs, with their known differences.

The file (docs/published.yaml) holds `sources`, each with a name, a link and the known properties of its metric, and
`figures`, each with its source, data set, model, resolution and figures in percent. Only figures that were read at
their source belong there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mltrain.errors import DataError
from mltrain.report.compare import Comparison
from mltrain.report.runs import RunRecord, spelled

SOURCE_KEYS = {"name", "url", "absent", "metric", "chosen_on"}
FIGURE_KEYS = {
    *("source", "datasets", "data", "method", "model", "resolution", "pretraining", "partial", "note"),
    *("map", "map_head", "map_medium", "map_tail", "map_unseen"),
}
NEEDED = ("source", "datasets", "method", "model")


@dataclass(frozen=True)
class Published:
    """One published figure, or those of one model."""

    method: str
    model: str
    datasets: tuple[str, ...]
    """our names (`dataset.name`) of the data sets that it may stand beside; the first is the same data set"""
    figures: Mapping[str, float]
    mark: str
    """key of the source in the file"""
    source: str
    """its name and link"""
    data: str = ""
    resolution: int | None = None
    pretraining: str = ""
    partial: str = "none"
    """labels withheld in training, as in our config group `partial`"""
    absent: str | None = None
    """handling of classes without positives, as in our `metrics.absent`; None: not known"""
    metric: str = ""
    """other differences of its metric"""
    chosen_on_test: bool = False
    note: str = ""
    differences: tuple[str, ...] = ()
    """to a comparison of runs (`beside`): in data, model, resolution, pretraining"""
    metric_differences: tuple[str, ...] = ()
    """likewise in the metric, the same for every figure of a source"""

    @property
    def label(self) -> str:
        """Method, model and resolution."""
        return f"{self.method}, {self.model}" + (f", {self.resolution} px" if self.resolution else "")


def read_published(path: Path) -> list[Published]:
    """Read a file of the form of docs/published.yaml.

    Raises:
        DataError: the file cannot be read, or an entry is wrong; the message names it.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(tree, dict) or set(tree) != {"sources", "figures"}:
        raise DataError(f"{path}: must hold `sources` and `figures`, as docs/published.yaml does")
    sources: dict[str, dict[str, Any]] = tree["sources"]
    for key, source in sources.items():
        if not isinstance(source, dict) or set(source) - SOURCE_KEYS or not {"name", "url"} <= set(source):
            raise DataError(f"{path}: source {key}: needs name and url; allowed: {', '.join(sorted(SOURCE_KEYS))}")
    return [_entry(path, k, entry, sources) for k, entry in enumerate(tree["figures"], start=1)]


def _entry(path: Path, number: int, entry: Any, sources: Mapping[str, Mapping[str, Any]]) -> Published:
    where = f"{path}: figure {number}"
    if not isinstance(entry, dict):
        raise DataError(f"{where}: holds no keys")
    unknown, missing = set(entry) - FIGURE_KEYS, [key for key in NEEDED if key not in entry]
    if unknown or missing:
        wrong = f"unknown: {', '.join(sorted(map(str, unknown)))}; " if unknown else ""
        wrong += f"missing: {', '.join(missing)}; " if missing else ""
        raise DataError(f"{where}: {wrong}allowed: {', '.join(sorted(FIGURE_KEYS))}")
    if entry["source"] not in sources:
        raise DataError(f"{where}: there is no source {entry['source']!r}")
    figures = {key: value for key, value in entry.items() if key.startswith("map")}
    if not figures or not all(isinstance(v, int | float) and 0 <= v <= 100 for v in figures.values()):
        raise DataError(f"{where}: needs figures from 0 to 100: map, map_head ...")
    mark = entry["source"]
    source = sources[mark]
    return Published(
        **{key: value for key, value in entry.items() if key not in (*figures, "source", "datasets")},
        datasets=tuple(entry["datasets"]),
        figures=figures,
        mark=mark,
        source=f"{source['name']}, {source['url']}",
        absent=source.get("absent"),
        metric=source.get("metric", ""),
        chosen_on_test=source.get("chosen_on") == "test",
    )


def beside(table: Comparison, published: Sequence[Published]) -> list[Published]:
    """Choose the figures with the data set and withheld labels of a comparison, the best first; note differences."""
    runs = table.records
    partial = {str(run.settings.get("partial", "none")) for run in runs} or {"none"}
    chosen = [item for item in published if table.dataset in item.datasets and item.partial in partial]
    chosen.sort(key=lambda item: -next(iter(item.figures.values())))
    return [
        replace(
            item,
            differences=tuple(_differences(item, table, runs)),
            metric_differences=tuple(_metric_differences(item, table, runs)),
        )
        for item in chosen
    ]


def _differences(item: Published, table: Comparison, runs: Sequence[RunRecord]) -> list[str]:
    found = []
    if item.datasets[0] != table.dataset:
        found.append(f"data: {item.data or item.datasets[0]} (here {table.dataset})")
    models = _values(runs, "model.name")
    if models and any(_letters(model) != _letters(item.model) for model in models):
        found.append(f"model: {item.model} (here {', '.join(models)})")
    sizes = _values(runs, "model.image_size")
    if item.resolution is not None and sizes and sizes != [str(item.resolution)]:
        found.append(f"resolution: {item.resolution} (here {', '.join(sizes)})")
    if item.pretraining:
        found.append(f"pretraining: {item.pretraining}")
    if item.note:
        found.append(item.note)
    return found


def _metric_differences(item: Published, table: Comparison, runs: Sequence[RunRecord]) -> list[str]:
    found = []
    absent = _values(runs, "metrics.absent")
    handling = {"zero": "count 0", "exclude": "are left out"}
    if item.absent in handling and absent and absent != [item.absent]:
        found.append(f"classes without positives {handling[item.absent]}")
    if item.metric:
        found.append(item.metric)
    if item.chosen_on_test and table.split == "test":
        found.append("epoch chosen on the reported images")
    return found


def _values(runs: Sequence[RunRecord], key: str) -> list[str]:
    """Return the values that the runs have for a key, each once."""
    section, _, option = key.partition(".")
    values = [run.config[section].get(option) for run in runs if isinstance(run.config.get(section), Mapping)]
    return sorted({spelled(value) for value in values if value is not None})


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
