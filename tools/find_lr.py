"""Find a learning rate: train for a moment while the rate climbs from far too low to far too high, and plot the loss.

    python tools/find_lr.py                                                  the embedded default
    python tools/find_lr.py dataset=coco loss=asl model=tresnet_m optimizer=adam
    python tools/find_lr.py +experiment=corel5k dataset.file=labels.csv runner.batch_size=64

Takes every key of tools/train.py: data, model, loss, optimizer, precision, accumulation and augmentation are those of
the training. No run folder is made or changed. Prints a line to add to the training's command: optimizer.lr=...
The rate is the smaller of two: where the smoothed loss falls fastest, and a tenth of where it is lowest.

    start=1e-6 end=10     first and last rate; a test that diverges stops before
    steps=120             optimizer steps
    out=find_lr.png       the plot

    --cfg job             print every option instead of running
    --config-dir DIR      look for configs in DIR too
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import dataset_tools, find_lr  # noqa: E402

if __name__ == "__main__":
    dataset_tools.main(find_lr.find_lr, find_lr.FindLr, about=__doc__ or "", config_dir=ROOT / "configs", whole=True)
