"""Find the thresholds of a run on its validation split: RUN/thresholds.json, which evaluate, predict and export use.

    python tools/tune_thresholds.py RUN                          the best F1 of each class
    python tools/tune_thresholds.py RUN per=all                  one threshold, the best F1 over all entries
    python tools/tune_thresholds.py RUN precision=0.9            the highest recall of each class at a precision of 0.9
    python tools/tune_thresholds.py RUN recall=0.8 per=all       the highest precision at a recall of 0.8

The figures shown are those of the test split; where the dataset has none, those of each fifth of the validation split
with what the other four gave. Never those of images that the thresholds were found on.
    min_positives=5       classes with fewer validation positives share the threshold that is best for all together
    folds=5               figures across folds also where there is a test split
    weights=best          best: those that validation chose; val: raw; ema

KEY=VALUE changes the config that the run folder holds (runner.device=cpu, dataset.root=/elsewhere ...).
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

    from mltrain.config.schema import TuneThresholds


def work(folder: Path, cfg: DictConfig, options: TuneThresholds) -> None:
    from mltrain.config.thresholds import tune_thresholds

    tune_thresholds(cfg, folder, options)


if __name__ == "__main__":
    cli.main_of_run(work, about=__doc__ or "", options="TuneThresholds")
