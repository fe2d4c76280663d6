"""Training images/s of a head on a frozen backbone: from stored features (data.cache=features) against from images.

    python benchmarks/features.py [--images 1024] [--epochs 3] [--rounds 3] [KEY=VALUE ...]

Both trainings are whole runs of mltrain with the same settings: MobileNetV2 at 224 px, all frozen, not augmented.
Rounds are interleaved; figures are medians. By default images are made up, so the mAP only shows that both learn
the same; with `dataset=csv dataset.file=FILE ... model.checkpoint=FILE` it is one of real images. The features are
stored before the first step, and that takes as long as one epoch on images; its seconds are printed too.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mltrain.config.build import load
from mltrain.config.identity import run_folder
from mltrain.runs.train import train

COMMON = (
    "model=mobilenetv2_100",
    "model.pretrained=false",
    "model.image_size=224",
    "model.freeze_stages=-1",
    "head=gap",
    "loss=asl",
    "augment=none",
    "mix=none",
    "optimizer=adam",
    "optimizer.lr=1e-3",
    "runner.batch_size=64",
    "runner.device=cpu",
    "logger.tensorboard=false",
    "logger.report=false",
    "logger.progress=off",
)
CLASSES = 80


def made_up(folder: Path, count: int) -> list[str]:
    """Write JPEGs of 320 x 240 smooth colours with random labels; return the overrides of the data set."""
    generator = np.random.default_rng(0)
    rows = ["image,labels,split"]
    for k in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{k}.jpg", quality=90)
        labels = generator.choice(CLASSES, 3, replace=False)
        rows.append(f"{k}.jpg,{';'.join(f'c{c}' for c in sorted(labels))},{'val' if k % 8 == 0 else 'train'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return ["dataset=csv", f"dataset.file={folder}/labels.csv"]


def run(overrides: list[str]) -> tuple[float, float, float]:
    """Train; return images/s of the training steps, mAP in per cent, and seconds in all."""
    cfg = load(overrides)
    start = time.perf_counter()
    train(cfg)
    seconds = time.perf_counter() - start
    result = json.loads((run_folder(cfg) / "result.json").read_text(encoding="utf-8"))
    return result["images_per_second"], result["val"]["map"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="KEY=VALUE for both trainings")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = any(item.startswith("dataset=") for item in options.overrides)
        data = [] if given else made_up(folder, options.images)
        shared = [*COMMON, *data, f"runner.epochs={options.epochs}", f"paths.data={folder}/data", *options.overrides]
        found: dict[str, list[tuple[float, float, float]]] = {"images": [], "features": []}
        first = 0.0
        for round_ in range(options.rounds):
            for kind, rates in found.items():
                cache = ["data.cache=features"] if kind == "features" else []
                rates.append(run([*shared, *cache, f"paths.runs={folder}/runs{round_}"]))
                if kind == "features" and not round_:
                    first = rates[0][2]
    rate = {kind: statistics.median(row[0] for row in rows) for kind, rows in found.items()}
    seconds = {kind: statistics.median(row[2] for row in rows) for kind, rows in found.items()}
    print(f"{torch.get_num_threads()} threads, {options.epochs} epochs, {options.rounds} rounds, medians")
    for kind, rows in found.items():
        print(f"{kind:8}  {rate[kind]:8.0f} img/s  run {seconds[kind]:6.1f} s  mAP {rows[-1][1]:.3f}")
    print(f"{rate['features'] / rate['images']:.1f}x img/s; the first run on features stores them: {first:.1f} s")


if __name__ == "__main__":
    main()
