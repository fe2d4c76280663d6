"""mltrain: training of multi-label image classifiers, long-tailed label distributions included."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

# Names that are imported when they are first used: the parts work without each other's dependencies.
_LATER = {"Predictor": "mltrain.runs.predictor", "load_finished": "mltrain.runs.folder", "train": "mltrain.runs.api"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
