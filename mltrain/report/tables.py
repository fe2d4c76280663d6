"""Plain-text tables of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADLINE = ("map", "map_head", "map_medium", "map_tail", "OF1", "CF1")
TITLES = {"map": "mAP", "map_head": "head", "map_medium": "medium", "map_tail": "tail"}
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
    """mAP in total and per group, OF1 and CF1 (percent), one row per split and weights.

    Args:
        result: the content of result.json.
    """
    rows = []
    splits = {"val": {k: result[k] for k in WEIGHTS if k in result}, "test": result.get("test", {})}
    for split, by_weights in splits.items():
        for name, scalars in by_weights.items():
            label = f"{split} {WEIGHTS[name]}"
            best = result.get("best") or {}
            if split == "val" and name == best.get("weights") and len(by_weights) > 1:
                label += " *"
            rows.append([label, *(_percent(scalars.get(key)) for key in HEADLINE)])
    return text_table(["weights", *(TITLES.get(key, key) for key in HEADLINE)], rows)


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.2f}"
