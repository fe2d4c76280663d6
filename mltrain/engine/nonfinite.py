"""Record of a step whose loss or gradient was not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mltrain.engine.run_folder import NONFINITE
from mltrain.errors import NonFiniteError
from mltrain.files import write_json
from mltrain.pipeline.batch import Batch


def dump_step(error: NonFiniteError, run: Any, group: Sequence[Batch]) -> NonFiniteError:
    """Write what one needs to analyse the step, and return the error with the name of the file.

    Args:
        error: what was not finite.
        run: the `Runner`.
        group: micro-batches of the step.
    """
    file = run.folder / NONFINITE.format(rank=run.dist.rank)
    images = [run.train_labels.path(int(i)) for batch in group for i in batch.indices]
    lrs = {g.get("name", str(k)): g["lr"] for k, g in enumerate(run.train_step.optimizer.param_groups)}
    write_json(file, {"error": str(error), "step": run.step, "lr": lrs, "images": images, "config": run.config})
    hint = "Try a lower optimizer.lr, runner.clip_grad_norm=1 or runner.amp=off"
    return NonFiniteError(f"{error}. Images, LR and config of the step: {file}. {hint}.")
