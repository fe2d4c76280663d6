"""Train an image classifier, multi-label or (task=single_label) single-label.

    python tools/train.py                                             the embedded default: drawn shapes, about a minute
    python tools/train.py dataset=coco loss=asl model=tresnet_l       COCO under data/coco
    python tools/train.py dataset=csv dataset.file=labels.csv         your own images
    python tools/train.py dataset=folder dataset.root=FOLDER          one label an image: FOLDER/{train,val}/CLASS/*.jpg
    python tools/train.py +experiment=coco_asl_tresnet_l              a whole recipe; what follows it still wins
    python tools/train.py model=timm model.name=regnety_032 runner.epochs=20 optimizer.lr=2e-4
    python tools/train.py -m loss=bce,focal,asl head=gap,ml_decoder seed=0,1     a sweep
    python tools/train.py -m hydra/launcher=joblib|ray|slurm loss=bce,asl        with jobs side by side (docs/scale.md)
    torchrun --nproc_per_node=8 tools/train.py dataset=coco           several GPUs

    --cfg job            print every key with its value instead of training
    --config-dir DIR     look for configs in DIR too

Repeating a command resumes an unfinished run and reports a finished one (rerun=true trains again). Most used keys:
    runner.epochs  runner.batch_size (over all GPUs)  runner.amp  runner.device  data.num_workers  seed  name
    model.image_size  model.pretrained  model.checkpoint=FILE  optimizer.lr  paths.data  paths.runs
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mltrain.config import cli  # noqa: E402

if TYPE_CHECKING:
    from omegaconf import DictConfig


def work(cfg: DictConfig) -> dict[str, Any] | None:
    from mltrain.config.assemble import train

    return train(cfg)


if __name__ == "__main__":
    cli.main("train", work, about=__doc__ or "", config_dir=ROOT / "configs")
