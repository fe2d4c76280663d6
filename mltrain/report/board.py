"""TensorBoard events besides scalars: PR curves, predictions, and the hyper-parameters that a sweep is compared by.

Pictures show a few validation images, the same ones each time. They are drawn after the first evaluation, the second,
the fourth, the eighth ... and the last, so that their number stays small however long the run is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mltrain.engine.run_folder import WEIGHTS
from mltrain.engine.tensorboard import THRESHOLDS, TensorBoard, add_jpeg, add_pr_curve, final_events
from mltrain.labels import GROUP_NAMES, LabelSet, LabelStats
from mltrain.metrics.curves import counts_by_threshold
from mltrain.pipeline.batch import Transform
from mltrain.pipeline.decode import read_image
from mltrain.report.pictures import Line, captioned, jpeg
from mltrain.report.tables import HEADLINES, title
from mltrain.text import spell

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from mltrain.engine.evaluator import Evaluation

_LINES = 8
_WIDTH = 224


@dataclass(eq=False)
class Board:
    """Recorder of each evaluation of the validation split; see the module."""

    writer: TensorBoard
    labels: LabelSet
    """the validation split"""
    resize: Transform
    """transform of evaluation"""
    stats: LabelStats
    """statistics of the training labels"""
    curves: bool = True
    """record PR curves"""
    images: int = 8
    """how many images are shown with their predictions; 0: none"""
    best_by: str = "map"
    """figure that chooses the weights whose predictions are shown"""
    every: int = 1
    """epochs from one evaluation to the next"""
    threshold: float = 0.5
    """probability from which a class is predicted"""
    single_label: bool = False
    """probabilities are a softmax, and the highest is predicted"""

    def __post_init__(self) -> None:
        self.shown = sample_images(self.labels, self.stats, self.images)
        self._pixels: list[np.ndarray] = []

    def __call__(self, epoch: int, step: int, evaluation: Evaluation, *, last: bool) -> None:
        """Record an evaluation after epoch `epoch` (from 1) and optimizer step `step`."""
        if epoch <= self.every:
            # A tag of a chart is a regular expression that may match anywhere in a tag: val/map would also draw
            # val/map_head, val/map@3 ...
            charts = {
                title: ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]
                for title, tags in self._layout(evaluation).items()
            }
            self.writer.events.add_custom_scalars({"average precision": charts})
        if self.curves:
            self._add_curves(evaluation, step)
        number = epoch // self.every
        if len(self.shown) and (last or (epoch % self.every == 0 and number & (number - 1) == 0)):
            caption = f"epoch {epoch}"
            self._add_pictures(
                self.writer.events, evaluation, evaluation.best(self.best_by), caption, "predictions", step
            )

    def finish(
        self, step: int, hyperparameters: Mapping[str, Any], result: Mapping[str, Any], evaluation: Evaluation
    ) -> None:
        """Record, once, the row of the HParams tab, and the predictions of the best weights.

        Args:
            step: the last optimizer step of the run.
            hyperparameters: flat, see `flattened`.
            result: the content of result.json.
            evaluation: evaluation of the best epoch.
        """
        best = result["best"]
        with final_events(self.writer.folder, step, hyperparameters, final_metrics(result)) as events:
            if len(self.shown):
                caption = f"best, epoch {best['epoch']}"
                self._add_pictures(events, evaluation, best["weights"], caption, "best", step + 1)

    def _layout(self, evaluation: Evaluation) -> dict[str, list[str]]:
        """Return the charts of the custom-scalars tab: title -> tags of its lines."""
        figure, name_of_figure = self.best_by, title(self.best_by)
        weights = list(evaluation.summaries)
        both = " and ".join(WEIGHTS[name] for name in weights)
        layout = {f"{name_of_figure}: {both}": [f"{name}/{figure}" for name in weights]}
        for name in weights:
            found = [f"{name}/{figure}_{group}" for group in GROUP_NAMES]
            layout[f"{name_of_figure} of groups, {WEIGHTS[name]}"] = [
                tag for tag in found if tag.partition("/")[2] in evaluation.summaries[name].scalars
            ]
        return {chart: tags for chart, tags in layout.items() if tags}

    def _add_curves(self, evaluation: Evaluation, step: int) -> None:
        groups = {name: index for name, index in self.stats.group_indices().items() if len(index)}
        options: Any = {"groups": groups, "thresholds": THRESHOLDS, "softmax": self.single_label}
        for weights, entries in evaluation.entries().items():
            for name, counts in counts_by_threshold(*entries, **options).items():
                add_pr_curve(self.writer.events, f"{weights}/pr_{name}", counts, step)

    def _add_pictures(
        self, events: SummaryWriter, evaluation: Evaluation, weights: str, caption: str, tag: str, step: int
    ) -> None:
        if not self._pixels:  # kept: a few small images
            paths = [self.labels.path(int(i)) for i in self.shown]
            self._pixels = [self.resize(read_image(path)).permute(1, 2, 0).numpy() for path in paths]
        for k, (index, pixels) in enumerate(zip(self.shown.tolist(), self._pixels, strict=True)):
            classes, probabilities, targets = self._predicted(evaluation, weights, k)
            lines = prediction_lines(
                [self.stats.class_names[c] for c in classes],
                probabilities,
                targets,
                threshold=self.threshold,
                best_only=self.single_label,
            )
            head = f"{caption}, {WEIGHTS[weights]}: {Path(self.labels.file(index)).name}"
            drawn = captioned(pixels, [("title", head), *lines], width=_WIDTH, rows=_LINES + 1)
            add_jpeg(events, f"{tag}/{k:02d}", jpeg(drawn), drawn.size, step)

    def _predicted(self, evaluation: Evaluation, weights: str, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return classes of the k-th shown image, probabilities and targets; only known ones if no others are kept."""
        targets = self.labels.targets(int(self.shown[k]))
        if evaluation.predictions is not None:
            logits = evaluation.predictions.logits[weights][int(self.shown[k])].float()
            probabilities = logits.softmax(0) if self.single_label else logits.sigmoid()
            return np.arange(len(targets)), probabilities.numpy(), targets
        assert evaluation.known is not None
        known = np.flatnonzero(targets >= 0)
        part = slice(self._known_before[k], self._known_before[k] + len(known))
        entries = evaluation.known[weights]  # image by image, the classes of each in ascending order
        assert np.array_equal(entries.columns[part].numpy(), known)
        return known, entries.logits[part].sigmoid().numpy(), targets[known]

    @functools.cached_property
    def _known_before(self) -> list[int]:
        """Number of known entries before each shown image."""
        rows = np.concatenate([self.labels.pairs(value)[0] for value in (0, 1)])
        return [int((rows < index).sum()) for index in self.shown]


def sample_images(labels: LabelSet, stats: LabelStats, count: int) -> np.ndarray:
    """Choose `count` images whose rarest labels span all frequencies; int64 indices in ascending order."""
    rows, columns = labels.positive_pairs()
    rarest = np.full(len(labels), np.iinfo(np.int64).max)
    np.minimum.at(rarest, rows, stats.positives[columns])
    order = np.argsort(rarest, kind="stable")[: len(np.unique(rows))]  # images without a label come last
    if not len(order):
        order = np.arange(len(labels))
    places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64)
    return np.sort(order[places])


def prediction_lines(
    names: list[str], probabilities: np.ndarray, targets: np.ndarray, *, threshold: float, best_only: bool = False
) -> list[Line]:
    """Return lines for the true labels, found or missed, then for other predicted classes, the most probable first.

    Args:
        names, probabilities, targets: (k,) of one image; targets 1, 0, -1.
        threshold: probability from which a class is predicted.
        best_only: predict the most probable class alone.
    """
    best = np.arange(len(names)) == (int(probabilities.argmax()) if len(names) else -1)
    predicted = best if best_only else probabilities >= threshold
    order = np.argsort(-probabilities, kind="stable")
    true = [k for k in order if targets[k] == 1]
    others = [k for k in order if predicted[k] and targets[k] != 1]
    lines: list[Line] = [
        ("hit" if predicted[k] else "missed", f"{'✓' if predicted[k] else '✗'} {probabilities[k]:.2f} {names[k]}")
        for k in true
    ]
    lines += [
        (
            "wrong" if targets[k] == 0 else "unknown",
            f"{'+' if targets[k] == 0 else '?'} {probabilities[k]:.2f} {names[k]}",
        )
        for k in others
    ]
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], ("text", f"… and {len(lines) - _LINES + 1} more")]
    return lines or [("text", "no label, and none predicted")]


def final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of the best weights, under keys that do not name the weights: `best/map`, `best_test/OF1`.

    The HParams tab shows the first five tags in the order of the alphabet: mAP and those of groups come first, and
    other figures are under `final` and `final_test`.
    """
    weights = result["best"]["weights"]
    splits = {"val": result[weights], "test": result.get("test", {}).get(weights, {})}
    keys = [*dict.fromkeys(key for keys in HEADLINES for key in keys), "micro_ap", "map_unseen"]
    found = {}
    for split, scalars in splits.items():
        on = "" if split == "val" else f"_{split}"
        for key in keys:
            if key in scalars:
                first = key in ("map", "accuracy") or key.startswith(("map_", "accuracy_"))
                found[f"{'best' if first else 'final'}{on}/{key}"] = scalars[key]
    return {**found, "final/seconds": float(result["seconds"]), "final/epoch": float(result["best"]["epoch"])}


def flattened(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as the HParams tab shows it: dotted keys, a component under the name of its module."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            flat[key] = value
            continue
        for inner, leaf in flattened(value).items():
            if inner == "_target_":
                flat[key] = "none" if leaf == "null" else _short(str(leaf))
            else:
                flat[f"{key}.{inner}"] = leaf
    return {k: v if isinstance(v, str | int | float) and not isinstance(v, bool) else spell(v) for k, v in flat.items()}


def _short(target: str) -> str:
    return target.split(".")[-2 if target.startswith("mltrain.") else -1]
