"""The thresholds of a run, thresholds.json: reading the file, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mltrain.errors import ConfigError
from mltrain.text import counted


def read_thresholds(path: Path) -> dict[str, Any]:
    """Return the content of thresholds.json; `thresholds` is a float64 array (C,) of probabilities.

    Raises:
        ConfigError: the file cannot be read, or holds no thresholds.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values, names = np.asarray(found["thresholds"], dtype=np.float64), found["class_names"]
        wrong = _wrong(values, names)
        keys: Sequence[str] = [key for key in ("weights", "best", "chosen_by", "tuned_on") if key not in found]
        if wrong or keys:
            raise ValueError(wrong or f"has no {', '.join(keys)}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: no file of thresholds ({error}); `mltrain tune_thresholds` writes one") from error
    return found | {"thresholds": values}


def best_identity(best: Mapping[str, Any]) -> dict[str, Any]:
    """Return epoch and step of the best weights; empty for weights that were trained elsewhere."""
    return {key: best[key] for key in ("epoch", "step") if key in best}


def _wrong(values: np.ndarray, names: Sequence[str]) -> str:
    if values.shape != (len(names),):
        return f"{counted(values.size, 'threshold')} for {counted(len(names), 'class')}"
    return "" if ((values >= 0) & (values <= 1)).all() else "a threshold is no probability"
