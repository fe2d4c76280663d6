"""Sections of a run's report that show images, and the view of each class: PR curve, best, worst and missed images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mltrain.report.html import analysis
from mltrain.report.html.gallery import COUNT, VIEWED, Gallery
from mltrain.report.html.page import Page, numbers
from mltrain.report.html.predicted import Predicted
from mltrain.report.intervals import prevalence


def add_pictures(page: Page, ready: Predicted, images: Path | None) -> None:
    """Append mistakes, missed labels and examples, and give each class its view.

    Args:
        page: page to append to.
        ready: predictions of the run.
        images: folder that the files of the predictions are relative to; None: cards have no picture.
    """
    gallery = Gallery(
        probability=ready.probability,
        targets=ready.saved.targets,
        predicted=ready.predicted,
        files=ready.saved.files,
        names=ready.saved.class_names,
        root=images,
    )
    parts = {
        "mistakes": (
            "Most confident mistakes",
            "Predicted with the highest probability, and not a label of the image. Labels that were forgotten in the "
            "annotation show up here too.",
            gallery.wrong(),
        ),
        "missed": (
            "Missed labels",
            "Labels of the image with the lowest probability, at most two of a class.",
            gallery.missed(),
        ),
        "examples": (
            "Examples",
            f"{min(COUNT, len(ready.saved.files))} images taken at random. Predicted: {ready.rule}.",
            gallery.examples(),
        ),
    }
    views = _views(ready, gallery)
    pictures = gallery.pictures()
    found = "their folder is not known" if images is None else f"they are not in {images}"
    missing = f" Without pictures: {found} (mltrain report RUN images=FOLDER names it)."
    why = "" if any(image["picture"] for image in pictures) else missing
    for name, (title, lead, cards) in parts.items():
        if not cards:
            none = {"mistakes": "every prediction is right", "missed": "no label is missed"}.get(name, "no image")
            page.leave_out(title, f"there are none: {none}")
            continue
        short = {"mistakes": "Mistakes", "missed": "Missed"}.get(name, "")
        page.add(name, title, "run_cards.html", lead=f"{lead}{why}", short=short, open=name == "mistakes")
        page.cards[name] = cards
    page.pictures = pictures
    page.classes = views


def _views(ready: Predicted, gallery: Gallery) -> dict[str, Any]:
    """Return what the views of classes show; `views` by class name.

    A view has recall and precision at the positives of the class (percent), those at its threshold, and its cards.
    """
    saved = ready.saved
    positives = (saved.targets == 1).sum(axis=0)
    shown = np.argsort(-positives, kind="stable")[:VIEWED]
    shown = np.sort(shown[positives[shown] > 0])
    scores = ready.probability if ready.single else saved.logits  # the sigmoid would make ties of high logits
    counts, chance, thresholds = ready.counts(), prevalence(saved.targets), ready.thresholds
    cards = gallery.of_classes(shown.tolist())
    views = {}
    most = 80 if len(shown) <= 200 else 30
    for k in shown.tolist():
        recall, precision = analysis.class_curve(scores[:, k], saved.targets[:, k], most=most)
        at = [] if counts["predicted"][k] == 0 else numbers([counts["recall"][k], counts["precision"][k]])
        views[saved.class_names[k]] = {
            "recall": numbers(100 * recall, 3),
            "precision": numbers(100 * precision, 3),
            "at": at,
            "threshold": None if ready.single else numbers([thresholds[k]], 3)[0],
            "chance": numbers([chance[k]], 3)[0],
            "cards": cards[k],
        }
    return {"views": views, "rule": ready.rule, "most": VIEWED}
