"""Plain-text tables of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mltrain.labels import GROUP_NAMES

# Columns of the table; the first row of which a result has the first figure.
HEADLINES = (
    ("map", "map_head", "map_medium", "map_tail", "OF1", "CF1"),
    (
        "accuracy",
        "accuracy_head",
        "accuracy_medium",
        "accuracy_tail",
        "balanced_accuracy",
        "macro_F1",
        "g_mean",
        "mauc",
    ),
)
WEIGHTS = {"val": "raw", "ema": "EMA"}


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def metrics_table(result: Mapping[str, Any]) -> str:
    """The main figures of the task, in total and per group (percent), one row per split and weights.

    Args:
        result: the content of result.json.
    """
    rows = []
    headline = next((keys for keys in HEADLINES if keys[0] in result.get("val", {})), HEADLINES[0])
    if "map_unseen" in result.get("val", {}):
        headline = (*headline[:4], "map_unseen", *headline[4:])
    splits = {"val": {k: result[k] for k in WEIGHTS if k in result}, "test": result.get("test", {})}
    for split, by_weights in splits.items():
        for name, scalars in by_weights.items():
            label = f"{split} {WEIGHTS[name]}"
            best = result.get("best") or {}
            if split == "val" and name == best.get("weights") and len(by_weights) > 1:
                label += " *"
            rows.append([label, *(_percent(scalars.get(key)) for key in headline)])
    return text_table(["weights", *(_title(key) for key in headline)], rows)


def _title(key: str) -> str:
    from mltrain.metrics.summary import TITLES  # imports torch, which tools that only make tables do without

    group = key.rpartition("_")[2]
    return group if group in GROUP_NAMES else TITLES.get(key, key)


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.2f}"
