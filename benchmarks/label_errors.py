"""Precision of the labels that `mltrain find_label_errors` ranks first, where the wrong ones are known.

    python benchmarks/label_errors.py --data corel5k --checkpoint mobilenetv2_100_imagenet1k.safetensors --out FOLDER

Of the training labels of Corel-5K a share of the positives is removed (missing labels), and as many negatives become
positives (wrong labels), by a seed. Five folds are trained on the flipped labels, each a linear layer on a frozen
MobileNetV2, and their held-out predictions rank all labels. Printed is the precision among as many candidates as there
are flips, beside that of chance. A repeat of the command finds the finished runs.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np

from mltrain.datasets.csv import csv_file
from mltrain.labels import LabelSet
from mltrain.report.label_errors import GIVEN, Kind, find_candidates, join
from mltrain.report.predictions import load_predictions

FOLDS = 5


def read(data: Path, images: int | None) -> LabelSet:
    """Return the training labels, of the first `images` images in a random order if given."""
    labels = csv_file(file=str(data / "labels.csv"), classes=str(data / "words.txt"), val_split="test").train
    if images is None:
        return labels
    return labels.select(np.sort(np.random.default_rng(0).permutation(len(labels))[:images]))


def flip(targets: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the flipped targets, int8 (N, C), and which were flipped, bool (N, C)."""
    rng = np.random.default_rng(seed)
    flipped = np.zeros(targets.shape, dtype=bool)
    count = round(share * int((targets == 1).sum()))
    for value in (1, 0):
        places = np.flatnonzero(targets == value)
        flipped.reshape(-1)[rng.choice(places, count, replace=False)] = True
    return np.where(flipped, 1 - targets, targets).astype(np.int8), flipped


def train(labels: LabelSet, targets: np.ndarray, data: Path, checkpoint: Path, out: Path, epochs: int) -> list[Path]:
    """Train the folds on the flipped labels, and return their run folders."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels", "split"])
        for i, row in enumerate(targets):
            names = [labels.class_names[k] for k in np.flatnonzero(row == 1)]
            writer.writerow([labels.file(i), ";".join(names), "train"])
    command = [sys.executable, "-m", "mltrain", "train", "-m", "+experiment=corel5k_longtail", "loss=bce"]
    command += [f"dataset.file={out / 'labels.csv'}", f"dataset.classes={data / 'words.txt'}", f"dataset.root={data}"]
    command += [f"dataset.folds={FOLDS}", f"dataset.fold={','.join(map(str, range(FOLDS)))}", "dataset.val_split=val"]
    command += [f"model.checkpoint={checkpoint}", "model.freeze_stages=-1", "model.freeze_norm=true", "ema=none"]
    command += ["augment=standard", "head.prior=0.01", "data.cache=true", f"data.cache_dir={out / 'cache'}"]
    command += [f"runner.epochs={epochs}", f"runner.evaluate_every={epochs}", "runner.amp=bf16", "optimizer.lr=1e-4"]
    command += ["data.num_workers=0", "logger.tensorboard=false", "logger.report=false", f"paths.runs={out / 'runs'}"]
    subprocess.run(command, check=True)
    return sorted(path.parent for path in (out / "runs").glob("*/*/*/result.json"))


def measure(labels: LabelSet, flipped: np.ndarray, runs: list[Path]) -> None:
    """Print the precision among as many candidates as there are flips, and that of the list of confident learning."""
    held_out = join([(str(run), load_predictions(run, split="val")) for run in runs])
    place = {file: i for i, file in enumerate(labels.files)}
    rows = [place[file] for file in held_out.files]
    columns = [labels.class_names.index(name) for name in held_out.class_names]
    is_flip = flipped[rows][:, columns]
    print(f"{len(runs)} folds, {len(rows):,} images, {len(columns)} classes")
    print("| kind | labels | flipped | precision at that number | chance | listed | precision | recall |")
    print("|---|---|---|---|---|---|---|---|")
    sets: dict[str, list[Kind]] = {"missing": ["missing"], "wrong": ["wrong"], "both": ["missing", "wrong"]}
    for name, kinds in sets.items():
        of_kind = np.isin(held_out.targets, [GIVEN[kind] for kind in kinds])
        count, total = int((is_flip & of_kind).sum()), int(of_kind.sum())
        first = find_candidates(held_out, kinds, count=count)
        listed = find_candidates(held_out, kinds)
        found = is_flip[listed.rows, listed.columns]
        cells = [name, f"{total:,}", f"{count:,}", f"{100 * is_flip[first.rows, first.columns].mean():.1f}"]
        cells += [f"{100 * count / total:.2f}", f"{len(listed):,}", f"{100 * found.mean():.1f}"]
        print(f"| {' | '.join([*cells, f'{100 * found.sum() / count:.1f}'])} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, help="use so many images only")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    originals = read(given.data, given.images)
    targets, flips = flip(originals.dense(), given.share, given.seed)
    places = (given.data.absolute(), given.checkpoint.absolute(), given.out.absolute())
    measure(originals, flips, train(originals, targets, *places, given.epochs))
