"""Write the model of a run as a folder to give away, with a model card, and upload it where you want it.

    python tools/push.py runs/coco/tresnet_l-gap-asl/0a1b2c3d license=apache-2.0      RUN/hub
    python tools/push.py RUN out=published license=cc-by-nc-4.0 data_license='CC BY 4.0'
    python tools/push.py RUN license=mit repo=me/tresnet-l-coco                       also to the Hugging Face hub

The folder has the weights (model.safetensors), config.yaml, classes.txt, config.json for other programs, results, and
the model card, README.md. evaluate, predict, export and push take it in place of a run folder.

    out=DIR               default RUN/hub; other files in it stay, .onnx and .pt2 are uploaded too
    weights=best          raw or EMA, whichever validation chose; val: raw, ema: EMA
    license=NAME          of the weights, as the hub names it (mit, apache-2.0, cc-by-nc-4.0 ...), or in words
    data_license=TEXT     of the training images
    repo=OWNER/NAME       upload, logged in with `hf auth login` or HF_TOKEN; private=true: a new one is private
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

    from mltrain.config.schema import Push


def work(folder: Path, cfg: DictConfig, options: Push) -> None:
    from mltrain.config.push import push

    push(cfg, folder, options)


if __name__ == "__main__":
    cli.main_of_run(work, about=__doc__ or "", options="Push")
