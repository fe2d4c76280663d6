"""Sections of a run's report that need its predictions: curves, calibration, co-occurrence, confusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from mltrain.engine.run_folder import CONFUSION, RunFolder
from mltrain.report.html import analysis, prediction_figures
from mltrain.report.html.page import Column, Page, Table
from mltrain.report.html.predicted import Predicted

SHOWN = 20
"""Classes in a map of co-occurrence or confusion."""
PAIRED = 300
"""Most frequent classes, whose pairs are compared."""
LISTED = 100
"""Pairs in a table."""

_NEEDED = ("Precision and recall", "Calibration", "Mistakes, missed labels and examples", "Views of classes")


def add_predictions(page: Page, run: RunFolder, ready: Predicted | None, why: str) -> None:
    """Append the sections, or note why they are missing if there are no predictions: `why`."""
    if ready is None:
        for title in _NEEDED:
            page.leave_out(title, why)
        if run.single_label:
            _add_confusion(page, run, None)
        else:
            page.leave_out("Co-occurrence", why)
        return
    _add_curves(page, ready)
    if ready.single:
        _add_confusion(page, run, ready)
    else:
        _add_cooccurrence(page, ready)


def _add_curves(page: Page, ready: Predicted) -> None:
    bins = analysis.count_bins(ready.probability, ready.saved.targets)
    if not bins.positives.sum():
        page.leave_out("Precision and recall", "no label of the evaluated images is positive")
        return
    pooled = prediction_figures.pr_figure(bins, ready.groups, single_label=ready.single)
    if ready.single:
        known = (ready.saved.targets == 1).any(axis=1)
        confidence = ready.probability.max(axis=1)[known]
        correct = (ready.predicted & (ready.saved.targets == 1)).any(axis=1)[known]
        parts = {"all images": analysis.confidence_reliability(confidence, correct)}
        curve = prediction_figures.coverage_figure(confidence, correct), "accuracy against coverage"
        lead = "How often the model is right where its confidence is highest."
    else:
        parts = {"all classes": analysis.reliability(bins)}
        for name, index in ready.groups.items():
            if bins.known[index].sum():
                parts[name] = analysis.reliability(bins, index)
        label = "F1, precision and recall against the threshold"
        curve = prediction_figures.threshold_figure(bins, ready.threshold or 0.5), label
        lead = _threshold_lead(bins, ready)
    plots = {"pr": (pooled, "precision against recall, pooled over classes"), "threshold": curve}
    lead = f"{ready.where}, all pairs of image and class pooled. {lead} The curve of a class is in its view (Classes)."
    page.add_plots("pr", "Precision and recall", plots, lead=lead, short="Precision, recall", open=False)

    error = next(iter(parts.values())).error
    calibration = prediction_figures.calibration_figure(parts, single_label=ready.single)
    page.add_plots(
        "calibration",
        "Calibration",
        {"calibration": (calibration, "observed frequency against predicted probability")},
        lead=f"Expected calibration error {100 * error:.1f} %: the mean distance of the predicted probability and the "
        "observed frequency.",
        open=False,
    )


def _threshold_lead(bins: analysis.Bins, ready: Predicted) -> str:
    pooled, macro = bins.pooled(), bins.macro_f1()
    threshold = ready.threshold or 0.5
    used, best, best_macro = pooled.at(threshold), pooled.best, int(np.argmax(macro))
    return (
        f"At the threshold {threshold:g} for all classes OF1 is {100 * pooled.f1[used]:.1f} and macro F1 "
        f"{100 * macro[used]:.1f}; the best on these very images are {100 * pooled.f1[best]:.1f} at "
        f"{pooled.thresholds[best]:.2f} and {100 * macro[best_macro]:.1f} at {pooled.thresholds[best_macro]:.2f}."
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
        lead=f"Which labels come together in the images, and in the predictions ({ready.rule}); the {len(shown)} most "
        "frequent classes. The table has the pairs that the model joins too often or too seldom.",
        open=False,
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
        open=False,
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
