"""Evaluate a run again, from its folder alone.

    python tools/evaluate.py runs/shapes/small-gap-asl/0a1b2c3d
    python tools/evaluate.py RUN runner.device=cpu runner.eval_batch_size=16     another device, a smaller batch
    python tools/evaluate.py RUN metrics.save_predictions=true                   write logits and targets
    python tools/evaluate.py RUN dataset.root=/elsewhere/coco                    the data have moved
    python tools/evaluate.py RUN dataset=coco2017                                another data set of the same classes
    python tools/evaluate.py zoo:mld_tresnet_m_coco dataset=coco                 a published model, against its figure
    python tools/evaluate.py RUN tune=thresholds           F1 with the best threshold of each class
    python tools/evaluate.py RUN tune=threshold            with one threshold
    python tools/evaluate.py RUN tune=logit_adjustment tune_metric=CF1           logits - tau * prior log-odds

KEY=VALUE changes the config that the run folder holds. What is tuned is found on the validation split and reported on
the test split; without one, tune_folds=5 reports each fifth of the validation split with what the others gave. It goes
to tuning.json in the run folder.
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

    from mltrain.config.schema import Tuning


def work(folder: Path, cfg: DictConfig, tuning: Tuning) -> None:
    from mltrain.config.evaluate import evaluate

    evaluate(cfg, folder, tuning)


if __name__ == "__main__":
    cli.main_of_run(work, about=__doc__ or "", options="Tuning")
