"""Estimate how frequent each class is where labels are unknown, for loss=csl.

    python tools/train.py dataset=openimages loss=csl loss.mode=ignore       first a run on the known labels alone
    python tools/class_prior.py RUN                                          its mean probabilities: RUN/class_prior.csv
    python tools/train.py dataset=openimages loss=csl loss.prior=RUN/class_prior.csv

The best weights of the run go over the training images once, resized as for evaluation. KEY=VALUE changes the config
that the run folder holds (runner.device=cpu, dataset.root=/elsewhere ...); torchrun spreads the images over processes.
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
    from mltrain.config.prior import class_prior

    class_prior(cfg, folder)


if __name__ == "__main__":
    cli.main_of_run(work, about=__doc__ or "")
