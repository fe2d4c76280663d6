"""Sections of a run's report that need its predictions: curves, calibration, co-occurrence, confusion, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from mltrain.engine.run_folder import CONFUSION, SPLITS, WEIGHTS, RunFolder
from mltrain.engine.saved_tables import SavedPredictions
from mltrain.errors import DataError
from mltrain.report.html import analysis, prediction_figures
from mltrain.report.html.gallery import COUNT, Card, Gallery
from mltrain.report.html.page import Column, Page, Table

SHOWN = 20
"""Classes in a map of co-occurrence or confusion."""
PAIRED = 300
"""Most frequent classes, whose pairs are compared."""
LISTED = 100
"""Pairs in a table."""

_NEEDED = ("Precision and recall", "Calibration and thresholds", "Mistakes, missed labels and examples")


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions with the probabilities and predicted classes that they mean."""

    saved: SavedPredictions
    probability: np.ndarray
    """fp32 (N, C)"""
    predicted: np.ndarray
    """bool (N, C)"""
    threshold: float | None
    """threshold of the sigmoid; None: the class with the highest logit is predicted"""
    groups: dict[str, np.ndarray]
    """class indices by name; empty without statistics of the training set"""

    @property
    def where(self) -> str:
        """Images and weights of the predictions, as text."""
        return f"{len(self.saved.files):,} {SPLITS[self.saved.split]} images, {WEIGHTS[self.saved.weights]} weights"


def add_predictions(page: Page, run: RunFolder, images: Mapping[str, Path]) -> None:
    """Append the sections, or note why they are missing if there are no predictions."""
    try:
        saved = run.predictions()
    except DataError as error:
        for title in _NEEDED:
            page.leave_out(title, str(error))
        if run.single_label:
            _add_confusion(page, run, None)
        else:
            page.leave_out("Co-occurrence", str(error))
        return
    ready = prepare(run, saved)
    _add_curves(page, run, ready)
    if run.single_label:
        _add_confusion(page, run, ready)
    else:
        _add_cooccurrence(page, ready)
    _add_pictures(page, ready, images.get(saved.split))


def prepare(run: RunFolder, saved: SavedPredictions) -> Predicted:
    """Compute probabilities and predicted classes by the run's task."""
    probability = analysis.probabilities(saved.logits, softmax=run.single_label)
    groups: dict[str, np.ndarray] = {}
    if run.stats is not None and run.stats.class_names == saved.class_names:
        groups = {name: index for name, index in run.stats.group_indices().items() if len(index)}
    if run.single_label:
        predicted = np.zeros(probability.shape, dtype=bool)
        predicted[np.arange(len(predicted)), saved.logits.argmax(axis=1)] = True
        return Predicted(saved, probability, predicted, None, groups)
    threshold = float(run.config.get("metrics", {}).get("threshold", 0.5))
    return Predicted(saved, probability, probability > threshold, threshold, groups)


def _add_curves(page: Page, run: RunFolder, ready: Predicted) -> None:
    bins = analysis.count_bins(ready.probability, ready.saved.targets)
    if not bins.positives.sum():
        page.leave_out("Precision and recall", "no label of the evaluated images is positive")
        return
    single = ready.threshold is None
    pooled = prediction_figures.pr_figure(bins, ready.groups, single_label=single)
    plots = {"pr": (pooled, "precision against recall, pooled over classes")}
    table = run.classes.get(ready.saved.split)
    ap = None if table is None else table.figure(ready.saved.weights, "ap")
    if ap is None or table is None or tuple(table.names) != ready.saved.class_names:
        ap = class_ap(ready)
    by_class = prediction_figures.class_pr_figure(ready.probability, ready.saved.targets, ap, ready.saved.class_names)
    if by_class is not None:
        plots["pr_classes"] = by_class, "precision against recall of single classes"
    lead = f"{ready.where}. All entries pooled (micro), and single classes with their AP."
    page.add_plots("pr", "Precision and recall", plots, lead=lead, short="Precision, recall")

    if ready.threshold is None:
        known = (ready.saved.targets == 1).any(axis=1)
        confidence = ready.probability.max(axis=1)[known]
        correct = (ready.predicted & (ready.saved.targets == 1)).any(axis=1)[known]
        parts = {"all images": analysis.confidence_reliability(confidence, correct)}
        curve = prediction_figures.coverage_figure(confidence, correct), "accuracy against coverage"
        lead = "How often the model is right at each confidence, and on the images where its confidence is highest."
    else:
        parts = {"all classes": analysis.reliability(bins)}
        for name, index in ready.groups.items():
            if bins.known[index].sum():
                parts[name] = analysis.reliability(bins, index)
        label = "F1, precision and recall against the threshold"
        curve = prediction_figures.threshold_figure(bins, ready.threshold), label
        lead = _threshold_lead(bins, ready.threshold)
    error = next(iter(parts.values())).error
    calibration = prediction_figures.calibration_figure(parts, single_label=single)
    page.add_plots(
        "calibration",
        "Calibration and thresholds" if not single else "Calibration",
        {"calibration": (calibration, "observed frequency against predicted probability"), "threshold": curve},
        short="Calibration",
        lead=f"{lead} Expected calibration error {100 * error:.1f} %.",
    )


def class_ap(ready: Predicted) -> np.ndarray:
    """Compute the exact AP of each class in percent, ties included; float64 (C,), NaN without a positive."""
    targets = ready.saved.targets
    # The sigmoid would make ties of high logits in fp32; the softmax does not keep the order of the logits.
    scores = ready.saved.logits if ready.threshold is not None else ready.probability
    result = np.full(targets.shape[1], np.nan)
    for k in np.flatnonzero((targets == 1).any(axis=0)):
        _, precision = analysis.class_curve(scores[:, k], targets[:, k], most=len(targets))
        result[k] = 100 * precision.mean()
    return result


def _threshold_lead(bins: analysis.Bins, threshold: float) -> str:
    pooled, macro = bins.pooled(), bins.macro_f1()
    used, best, best_macro = pooled.at(threshold), pooled.best, int(np.argmax(macro))
    return (
        f"At the threshold {threshold:g} OF1 is {100 * pooled.f1[used]:.1f} and macro F1 {100 * macro[used]:.1f}; the "
        f"best on these very images are {100 * pooled.f1[best]:.1f} at {pooled.thresholds[best]:.2f} and "
        f"{100 * macro[best_macro]:.1f} at {pooled.thresholds[best_macro]:.2f}."
    )


def _add_cooccurrence(page: Page, ready: Predicted) -> None:
    labels = ready.saved.targets == 1
    frequency = labels.sum(axis=0)
    order = np.argsort(-frequency, kind="stable")
    order = order[frequency[order] > 0]
    if len(order) < 2:
        page.leave_out("Co-occurrence", "fewer than two classes have a label in the evaluated images")
        return
    shown = order[:SHOWN]
    names = [ready.saved.class_names[k] for k in shown]
    views = {
        "labels": 100 * analysis.given(labels[:, shown]),
        "predictions": 100 * analysis.given(ready.predicted[:, shown]),
    }
    hover = "with %{customdata[0]}, also %{customdata[1]}: %{z:.0f} %"
    figure = prediction_figures.heat_figure(
        views, names, hover=hover, rows="of the images with …", columns="… so many have also"
    )
    page.add(
        "cooccurrence",
        "Co-occurrence",
        "run_pairs.html",
        lead=f"Which labels come together in the images, and in the predictions above the threshold; the {len(shown)} "
        "most frequent classes. The table has the pairs that the model joins too often or too seldom.",
        figures={"cooccurrence": figure},
        label="co-occurrence of labels and of predictions",
        table=_pair_table(ready, order[:PAIRED]),
        side=len(shown),
    )


def _pair_table(ready: Predicted, classes: np.ndarray) -> Table:
    """List the pairs whose number of images with both predicted is farthest from that with both labels."""
    names = ready.saved.class_names
    marks = [part[:, classes].astype(np.float32) for part in (ready.saved.targets == 1, ready.predicted)]
    true, guessed = (np.rint(part.T @ part).astype(np.int64) for part in marks)
    rows, columns = np.triu_indices(len(classes), k=1)
    off = guessed[rows, columns] - true[rows, columns]
    # In standard deviations of a count: 2 instead of 10 is odder than 102 instead of 110.
    oddness = np.abs(off) / np.sqrt(np.maximum(true[rows, columns], 1))
    best = np.argsort(-oddness, kind="stable")[:LISTED]
    best = best[off[best] != 0]
    a, b = rows[best], columns[best]
    return Table(
        [
            Column(
                "classes", [f"{names[classes[i]]} + {names[classes[j]]}" for i, j in zip(a, b, strict=True)], "text"
            ),
            Column("images", true[a, b].tolist(), digits=0, hint="images with both labels"),
            Column("predicted", guessed[a, b].tolist(), digits=0, hint="images with both predicted"),
            Column("difference", off[best].tolist(), digits=0),
        ],
        search="search a class",
        page=10,
    )


def _add_confusion(page: Page, run: RunFolder, ready: Predicted | None) -> None:
    found = _confusion(run, ready)
    if found is None:
        page.leave_out(
            "Confusion", f"there is no {CONFUSION[run.split]} (runs of very many classes have none) and no predictions"
        )
        return
    matrix, names = found
    images = np.asarray(matrix.sum(axis=1)).ravel()
    off = matrix.copy()
    off.setdiag(0)
    off.eliminate_zeros()
    trouble = np.asarray(off.sum(axis=0)).ravel() + np.asarray(off.sum(axis=1)).ravel()
    order = np.argsort(-trouble, kind="stable")[:SHOWN]
    shown = np.sort(order) if len(names) > SHOWN else np.arange(len(names))
    share = 100 * matrix[shown][:, shown].toarray() / np.maximum(images[shown], 1)[:, None]
    share[images[shown] == 0] = np.nan
    hover = "%{customdata[0]}: %{z:.1f} % taken for %{customdata[1]}"
    figure = prediction_figures.heat_figure(
        {"": share}, [names[k] for k in shown], hover=hover, rows="true", columns="predicted"
    )
    pairs = off.tocoo()
    best = np.argsort(-pairs.data, kind="stable")[:LISTED]
    i, j = pairs.row[best], pairs.col[best]
    table = Table(
        [
            Column("true", [names[k] for k in i], "text"),
            Column("taken for", [names[k] for k in j], "text"),
            Column("images", pairs.data[best].tolist(), digits=0),
            Column("of the class, %", 100 * pairs.data[best] / np.maximum(images[i], 1)),
        ],
        search="search a class",
        page=10,
    )
    some = f" The {len(shown)} classes with the most mistakes." if len(shown) < len(names) else ""
    page.add(
        "confusion",
        "Confusion",
        "run_pairs.html",
        lead=f"Share of the images of the row's class that were taken for the column's.{some}",
        figures={"confusion": figure},
        label="confusion matrix",
        table=table,
        side=len(shown),
    )


def _confusion(run: RunFolder, ready: Predicted | None) -> tuple[sparse.csr_matrix, Sequence[str]] | None:
    if ready is not None:
        true = ready.saved.targets.argmax(axis=1)
        known = (ready.saved.targets == 1).any(axis=1)
        c = ready.saved.targets.shape[1]
        places = (true[known], ready.predicted.argmax(axis=1)[known])
        return sparse.csr_matrix((np.ones(len(places[0]), np.int64), places), shape=(c, c)), ready.saved.class_names
    found = run.confusion(run.split)
    return None if found is None else (sparse.csr_matrix(found[0]), found[1])


def _add_pictures(page: Page, ready: Predicted, images: Path | None) -> None:
    gallery = Gallery(
        probability=ready.probability,
        targets=ready.saved.targets,
        predicted=ready.predicted,
        files=ready.saved.files,
        names=ready.saved.class_names,
        root=images,
    )
    single = ready.threshold is None
    parts: list[tuple[str, str, str, list[Card]]] = [
        (
            "mistakes",
            "Most confident mistakes",
            "Predicted with the highest probability, and not a label of the image. Labels that were forgotten in the "
            "annotation show up here too.",
            gallery.wrong(),
        ),
        (
            "missed",
            "Missed labels",
            "Labels of the image with the lowest probability, at most two of a class.",
            gallery.missed(),
        ),
        ("examples", "Examples", f"{min(COUNT, len(ready.saved.files))} images taken at random.", gallery.examples()),
    ]
    found = "their folder is not known" if images is None else f"they are not in {images}"
    missing = f" Without pictures: {found} (mltrain report RUN images=FOLDER names it)."
    why = "" if gallery.pictures else missing
    rule = "the most probable class" if single else f"classes above {ready.threshold:g}"
    for name, title, lead, cards in parts:
        if not cards:
            page.leave_out(
                title,
                "there are none: " + ("every prediction is right" if name == "mistakes" else "no label is missed"),
            )
            continue
        more = f" Predicted: {rule}." if name == "examples" else ""
        short = {"mistakes": "Mistakes", "missed": "Missed"}.get(name, "")
        page.add(name, title, "run_cards.html", lead=f"{lead}{more}{why}", cards=cards, short=short)
