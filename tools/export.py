"""Write the model of a run as one file that runs without mltrain: ONNX, or torch.export's .pt2.

    python tools/export.py runs/coco/tresnet_l-gap-asl/0a1b2c3d            RUN/model.onnx
    python tools/export.py RUN out=model.pt2                               torch.export, for PyTorch alone
    python tools/export.py RUN input=normalised                            the program that uses it normalises
    python tools/export.py RUN images=photos                               checked on real images

The file takes a batch of any size and gives logits and probabilities; class names, thresholds, image size and the way
of resizing are in its metadata. It is read back and compared with PyTorch at batch sizes 1, 2 and 5; where they differ,
nothing is written.

    out=FILE              .onnx or .pt2; default RUN/model.onnx
    input=uint8           images of 0..255, normalised inside; float: the same as float32; normalised: normalised before
    weights=best          raw or EMA, whichever validation chose; val: raw, ema: EMA
    images=PATH           image or folder of images to compare with; default: drawn ones

KEY=VALUE changes the run's config, e.g. model.image_size=448. ONNX needs `pip install 'mltrain[export]'`.
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

    from mltrain.config.schema import Export


def work(folder: Path, cfg: DictConfig, options: Export) -> None:
    from mltrain.config.export import export

    export(cfg, folder, options)


if __name__ == "__main__":
    cli.main_of_run(work, about=__doc__ or "", options="Export")
