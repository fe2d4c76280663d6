"""Names of figures, and tables as plain text, Markdown and CSV."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mltrain.engine.run_folder import WEIGHTS
from mltrain.files import atomic_write
from mltrain.labels import GROUP_NAMES
from mltrain.text import csv_cell, printable

HEADLINES = (
    ("map", "map_head", "map_medium", "map_tail", "OF1", "CF1"),
    (
        *("accuracy", "accuracy_head", "accuracy_medium", "accuracy_tail"),
        *("balanced_accuracy", "macro_F1", "g_mean", "mauc"),
    ),
)
"""columns of a text table: the first tuple of whose first figure there is a value"""
PAGE_HEADLINES = {
    "multi_label": ("map", "map_head", "map_medium", "map_tail", "map_unseen", "OF1", "CF1", "macro_F1"),
    "single_label": (
        *("accuracy", "accuracy_head", "accuracy_medium", "accuracy_tail", "accuracy@5", "balanced_accuracy"),
        *("macro_F1", "g_mean", "mauc"),
    ),
}
"""figures on the page of a run, by task; the most important first"""
TITLES = {
    "map": "mAP",
    "map_weighted": "weighted mAP",
    "micro_ap": "micro AP",
    "accuracy@5": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_F1": "macro F1",
    "weighted_F1": "weighted F1",
    "g_mean": "G-mean",
    "mauc": "MAUC",
}

MEANINGS = {
    "map": "mean of the average precision (AP) of the classes: how well the images are ranked, without a threshold",
    "map_weighted": "mean of the AP of the classes, weighted by their positive images",
    "micro_ap": "AP of all pairs of image and class as one ranking",
    "OP": "overall precision: the share of all predicted labels that are right",
    "OR": "overall recall: the share of all true labels that are predicted",
    "OF1": "harmonic mean of OP and OR (micro F1): frequent classes weigh most",
    "CP": "mean of the precision of the classes",
    "CR": "mean of the recall of the classes",
    "CF1": "harmonic mean of CP and CR: all classes weigh the same",
    "macro_F1": "mean of the F1 of the classes",
    "hamming_accuracy": "mean over classes of the share of known entries that are predicted right",
    "lrap": "label-ranking average precision: how high the true labels of an image rank among its classes",
    "ranking_loss": "share of the pairs of a true and a false label of an image that are in the wrong order",
    "coverage_error": "how many of the highest labels of an image it takes to have all its true ones",
    "words_P": "precision of the words, if each image is given the same number of them (annotation protocol)",
    "words_R": "recall of the words in this protocol",
    "words_F1": "harmonic mean of words P and words R",
    "words_N+": "number of words that are found at least once (N+)",
    "accuracy": "share of the images whose label has the highest logit",
    "accuracy@5": "share of the images whose label is among the five highest logits",
    "balanced_accuracy": "mean of the recall of the classes",
    "macro_P": "mean of the precision of the classes",
    "macro_R": "mean of the recall of the classes",
    "weighted_P": "mean of the precision of the classes, weighted by their images",
    "weighted_R": "mean of the recall of the classes, weighted by their images: the accuracy",
    "weighted_F1": "mean of the F1 of the classes, weighted by their images",
    "macro_specificity": "mean over classes of the share of images of other classes that are not taken for the class",
    "weighted_specificity": "mean of the specificity of the classes, weighted by their images",
    "macro_iba": "mean of the index of balanced accuracy of the classes (Garcia et al., 2009)",
    "weighted_iba": "mean of the index of balanced accuracy of the classes, weighted by their images",
    "g_mean": "geometric mean of the recalls of the classes",
    "mauc": "mean over pairs of classes of the area under the ROC curve (Hand and Till, 2001)",
    "classes_without_positives": "classes without a positive image here; metrics.absent says whether they count",
    "classes_without_images": "classes without an image here",
    "classes_below_support": "classes with too few images for the means (metrics.min_positives, min_negatives)",
}


def meaning(key: str) -> str:
    """Return one line that says what a figure is; empty for one that is not known."""
    name, at, k = key.partition("@")
    if key in MEANINGS:
        return MEANINGS[key]
    if at:
        found = meaning(name)
        return f"{found}; predicted are the {k} highest of each image, at most" if found else ""
    group = "seen" if key.endswith("_seen") else group_of(key)
    found = meaning(key.removesuffix(f"_{group}")) if group else ""
    return f"{found}; {group} classes" if found else ""


def group_of(key: str) -> str:
    """Return the group of classes that a figure is of, as "tail" of `map_tail`; empty where it is of all."""
    group = key.rpartition("_")[2]
    return group if group in GROUP_NAMES else ""


def title(key: str, form: str = "{group} {name}") -> str:
    """Return the name of a figure: `mAP`, and `tail mAP` for `map_tail`."""
    group = group_of(key)
    name = key.removesuffix(f"_{group}")
    name = TITLES.get(name, name)
    return form.format(group=group, name=name) if group else name


def short_title(key: str) -> str:
    """Return the name of a figure for a column beside that of all classes: `mAP`, and `tail` for `map_tail`."""
    return group_of(key) if key.startswith(("map_", "accuracy_")) and group_of(key) else title(key)


def percent(value: float | None) -> str:
    """Return a figure with two decimals, or "-" where there is none."""
    return "-" if value is None or value != value else f"{value:.2f}"


def abridged(rows: Sequence[Sequence[str]], most: int) -> list[Sequence[str]]:
    """Return the first and last `most` rows, with a row between them that tells how many are left out."""
    hidden = len(rows) - 2 * most
    if hidden <= 0:
        return list(rows)
    return [*rows[:most], [f"... {hidden} more", *[""] * (len(rows[0]) - 1)], *rows[len(rows) - most :]]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> str:
    """Lay out columns padded to their widest cell, aligned to the left (those in `left`) or to the right."""
    header, rows = [*map(printable, header)], [[*map(printable, row)] for row in rows]
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    lines = [
        "  ".join(row[k].ljust(w) if k in left else row[k].rjust(w) for k, w in enumerate(widths)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: Collection[int]) -> str:
    """Lay out a Markdown table; the columns `left` are aligned to the left, the others to the right."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "|".join("---" if k in left else "---:" for k in range(len(header))) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def write_csv(path: Path, rows: Iterable[Iterable[Any]], *, line_end: str = "\r\n") -> None:
    """Write the rows of a CSV file, the header first, atomically; `csv_text` reads text back."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file, lineterminator=line_end).writerows(map(csv_cell, row) for row in rows)


def metrics_table(result: Mapping[str, Any]) -> str:
    """Lay out the main figures of the task, in total and per group (percent), one row per split and weights.

    Args:
        result: the content of result.json.
    """
    rows = []
    headline = next((keys for keys in HEADLINES if keys[0] in result.get("val", {})), HEADLINES[0])
    if "map_unseen" in result.get("val", {}):
        headline = (*headline[:4], "map_unseen", *headline[4:])
    splits = {"val": {k: result[k] for k in WEIGHTS if k in result}, "test": result.get("test", {})}
    best = (result.get("best") or {}).get("weights")
    for split, by_weights in splits.items():
        for name, scalars in by_weights.items():
            mark = " *" if split == "val" and name == best and len(by_weights) > 1 else ""
            cells = [percent(scalars.get(key)) for key in headline]
            rows.append([f"{split} {WEIGHTS[name]}{mark}", *cells])
    return text_table(["weights", *map(short_title, headline)], rows)
