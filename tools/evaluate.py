"""Evaluate a run again, from its folder alone.

    python tools/evaluate.py runs/shapes/small-gap-asl/0a1b2c3d
    python tools/evaluate.py RUN runner.device=cpu runner.eval_batch_size=16     another device, a smaller batch
    python tools/evaluate.py RUN metrics.save_predictions=true                   write logits and targets
    python tools/evaluate.py RUN dataset.root=/elsewhere/coco                    the data have moved

KEY=VALUE changes the config that the run folder holds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import cli  # noqa: E402

if TYPE_CHECKING:
    from omegaconf import DictConfig


def work(folder: Path, cfg: DictConfig) -> None:
    from mltrain.config.assemble import evaluate

    evaluate(cfg, folder)


if __name__ == "__main__":
    cli.main_of_run(work, about=__doc__ or "")
