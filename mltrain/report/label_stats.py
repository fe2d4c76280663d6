"""Statistics of a labelled data set: counts, groups, labels per image, co-occurrence; as table, JSON, CSV and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from mltrain.errors import DataError
from mltrain.files import write_json, write_text
from mltrain.labels import GROUP_NAMES, LabelSet, LabelStats
from mltrain.report.tables import abridged, text_table, write_csv


@dataclass(frozen=True, eq=False)
class SplitStats:
    """A split with its counts."""

    labels: LabelSet
    stats: LabelStats
    sizes: np.ndarray
    """int64; sizes[k] images have k positives"""


def count(labels: LabelSet, head_min: int = 100, medium_min: int = 20) -> SplitStats:
    """Count a LabelSet; no image is opened."""
    per_image = np.bincount(labels.positive_pairs()[0], minlength=len(labels))
    return SplitStats(labels, LabelStats.from_labels(labels, head_min, medium_min), np.bincount(per_image, minlength=1))


def summary(split: SplitStats, groups: LabelStats, top: int = 10) -> dict[str, Any]:
    """Return the numbers of one split as a JSON object.

    Args:
        split: the counted split.
        groups: statistics of the training split, which define head, medium and tail.
        top: number of co-occurring pairs.
    """
    stats, n, c = split.stats, len(split.labels), split.labels.num_classes
    positives = stats.positives
    present = positives[positives > 0]
    labels, unknown = int(positives.sum()), int(stats.unknowns.sum())
    return {
        "name": split.labels.name,
        "images": n,
        "classes": c,
        "labels": labels,
        "labels_per_image": {
            "mean": labels / n if n else None,
            "median": float(np.median(np.repeat(np.arange(len(split.sizes)), split.sizes))) if n else None,
            "max": len(split.sizes) - 1,
            "histogram": split.sizes.tolist(),
        },
        "images_without_positive": int(split.sizes[0]),
        "unknown_targets": unknown,
        "unknown_share": unknown / (n * c) if n else None,
        "images_per_class": {
            "largest": int(positives.max(initial=0)),
            "median": float(np.median(positives)) if c else None,
            "smallest": int(positives.min()) if c else None,
        },
        "classes_without_positive": [split.labels.class_names[k] for k in np.flatnonzero(positives == 0)],
        "imbalance_ratio": float(present.max() / present.min()) if len(present) else None,
        "gini": _gini(positives),
        "groups": {
            name: {"classes": len(index), "labels": int(positives[index].sum())}
            for name, index in groups.group_indices().items()
        },
        "top_pairs": top_pairs(stats, top),
        "fingerprint": split.labels.fingerprint(),
    }


def top_pairs(stats: LabelStats, top: int = 10) -> list[dict[str, Any]]:
    """Return the pairs of classes that most images share, with P(b|a), P(a|b) and the lift P(a,b) / (P(a) P(b))."""
    upper = sparse.triu(stats.cooccurrence, k=1).tocoo()
    order = np.lexsort((upper.col, upper.row, -upper.data))[:top]
    pairs = []
    for a, b, both in zip(upper.row[order], upper.col[order], upper.data[order], strict=True):
        first, second = int(stats.positives[a]), int(stats.positives[b])
        pairs.append(
            {
                "classes": [stats.class_names[a], stats.class_names[b]],
                "images": int(both),
                "p_second_given_first": both / first,
                "p_first_given_second": both / second,
                "lift": both * stats.num_images / (first * second),
            }
        )
    return pairs


def tables(summaries: Mapping[str, Mapping[str, Any]], splits: Mapping[str, SplitStats], rows: int = 10) -> str:
    """Lay out three tables: the splits side by side, the most and least frequent classes, the top pairs of train."""
    parts = list(summaries)
    lines = [[title, *(_cell(summaries[part], path) for part in parts)] for title, path in _ROWS]
    for name in summaries[parts[0]]["groups"]:
        lines.append([f"{name} classes", *(str(summaries[part]["groups"][name]["classes"]) for part in parts)])
        lines.append([f"{name} labels", *(f"{summaries[part]['groups'][name]['labels']:,}" for part in parts)])
    blocks = [text_table(["", *parts], lines), _class_table(splits, rows)]
    pairs = summaries[parts[0]]["top_pairs"]
    if pairs:
        given = [
            [
                " + ".join(pair["classes"]),
                f"{pair['images']:,}",
                f"{pair['p_second_given_first']:.2f}",
                f"{pair['p_first_given_second']:.2f}",
                f"{pair['lift']:.1f}",
            ]
            for pair in pairs
        ]
        blocks.append(text_table([f"pairs in {parts[0]} (a + b)", "images", "P(b|a)", "P(a|b)", "lift"], given))
    return "\n\n".join(blocks)


_ROWS = (
    ("images", ("images",)),
    ("labels", ("labels",)),
    ("labels per image, mean", ("labels_per_image", "mean")),
    ("labels per image, median", ("labels_per_image", "median")),
    ("labels per image, most", ("labels_per_image", "max")),
    ("images without a label", ("images_without_positive",)),
    ("unknown targets", ("unknown_targets",)),
    ("classes", ("classes",)),
    ("classes without an image", ("classes_without_positive",)),
    ("images per class, most", ("images_per_class", "largest")),
    ("images per class, median", ("images_per_class", "median")),
    ("images per class, fewest", ("images_per_class", "smallest")),
    ("imbalance (most / fewest > 0)", ("imbalance_ratio",)),
    ("Gini of images per class", ("gini",)),
)


def write_class_csv(path: Path, splits: Mapping[str, SplitStats]) -> None:
    """Write one row per class: its group, and positives, negatives and unknowns in each split."""
    first = next(iter(splits.values())).stats
    keys = ("positives", "negatives", "unknowns")
    header = ["class", "group", *(f"{part}_{key}" for part in splits for key in keys)]
    columns = [getattr(split.stats, key).tolist() for split in splits.values() for key in keys]
    groups = [GROUP_NAMES[group] for group in first.groups]
    write_csv(path, [header, *zip(first.class_names, groups, *columns, strict=True)], line_end="\n")


def write_folder(
    folder: Path, summaries: Mapping[str, Any], splits: Mapping[str, SplitStats], text: str, groups: LabelStats
) -> None:
    """Write stats.json, stats.txt, classes.csv and, per split, plots of counts, labels per image and co-occurrence,
    as PNG and SVG files.

    Raises:
        DataError: the folder cannot be written.
    """
    from mltrain.report import plots

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "stats.json", summaries)
        write_text(folder / "stats.txt", text + "\n")
        write_class_csv(folder / "classes.csv", splits)
        for part, split in splits.items():
            title = f"{split.labels.name}: {len(split.labels):,} images"
            plots.class_counts_plot(
                folder / f"{part}_class_counts.png",
                split.stats,
                title=f"{title}, images per class",
                group_of=groups.groups,
                svg=True,
            )
            plots.labels_per_image_plot(folder / f"{part}_labels_per_image.png", split.sizes, title=title, svg=True)
            plots.cooccurrence_plot(folder / f"{part}_cooccurrence.png", split.stats, title=title, svg=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}; choose another out") from error


def _class_table(splits: Mapping[str, SplitStats], rows: int) -> str:
    first = next(iter(splits.values())).stats
    order = np.argsort(-first.positives, kind="stable")
    counts = [[f"{count:,}" for count in split.stats.positives[order].tolist()] for split in splits.values()]
    names, groups = ([values[k] for k in order] for values in (first.class_names, np.array(GROUP_NAMES)[first.groups]))
    lines = list(zip(names, groups, *counts, strict=True))
    return text_table(["class", "group", *splits], abridged(lines, rows))


def _cell(content: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value: Any = content
    for key in path:
        value = value[key]
    if value is None:
        return "-"
    if isinstance(value, list):
        return str(len(value))
    if path == ("unknown_targets",) and value:
        return f"{value:,} ({content['unknown_share']:.1%})"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}".removesuffix(".00")


def _gini(counts: np.ndarray) -> float | None:
    """Return the Gini coefficient: 0 if all classes have equally many images, towards 1 if one class has them all."""
    total, c = int(counts.sum()), len(counts)
    if total == 0:
        return None
    ranks = np.arange(1, c + 1)
    return float((2 * ranks - c - 1) @ np.sort(counts) / (c * total))
