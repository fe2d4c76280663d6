"""Name the labels of images with a finished run.

    python tools/predict.py RUN photo.jpg photos/ 'more/*.png'         files, folders (with all below them), patterns
    find . -name '*.jpg' | python tools/predict.py RUN -               a list of files on standard input, one a line
    python tools/predict.py RUN photos/ format=csv out=labels.csv      table (default), csv or jsonl
    python tools/predict.py RUN photos/ annotated=seen                 copies of the images with their labels, in seen/

Which labels an image gets:
    (default)             classes above the thresholds that tools/tune_thresholds.py left in the run folder, else
                          above metrics.threshold; of a run with one label an image the most probable one
    threshold=0.7         above this, all classes alike
    thresholds=FILE       above those of another file
    topk=3                the three best whatever their scores; with threshold=0.2 those of them above it
    weights=best          best: those that validation chose; val: raw; ema

KEY=VALUE also changes the config that the run folder holds: runner.device=cpu, runner.eval_batch_size=16,
data.num_workers=4, runner.amp=off, model.image_size=640. Images that cannot be read are reported and left out; the exit
code is then 2.
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

    from mltrain.config.schema import Predict


def work(folder: Path, cfg: DictConfig, options: Predict, images: list[str]) -> None:
    from mltrain.config.predict_tool import predict

    predict(cfg, folder, options, images)


if __name__ == "__main__":
    cli.main_of_run(work, about=__doc__ or "", options="Predict", inputs="images")
