"""The dump of a step whose loss or gradient was not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mltrain.errors import NonFiniteError
from mltrain.files import write_json

HINT = "Try a lower optimizer.lr, runner.clip_grad_norm=1 or runner.amp=off"


def dumped(
    error: NonFiniteError,
    file: Path,
    step: int,
    optimizer: torch.optim.Optimizer,
    images: Sequence[str],
    config: Mapping[str, Any],
) -> NonFiniteError:
    """Write images, learning rates and config of the step to `file`; return the error with the file in its message."""
    lrs = {group.get("name", str(k)): group["lr"] for k, group in enumerate(optimizer.param_groups)}
    write_json(file, {"error": str(error), "step": step, "lr": lrs, "images": images, "config": config})
    return NonFiniteError(f"{error}. Images, LR and config of the step: {file}. {HINT}.")
