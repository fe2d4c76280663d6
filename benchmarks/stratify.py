"""Measure how long folds take to draw, and how even they are, beside a random draw of the same sizes.

    python benchmarks/stratify.py                       1,000,000 images, 80 classes, 5 folds
    python benchmarks/stratify.py --images 100000 --classes 5000

Time is CPU seconds of one process. "off" is the mean over labels and folds of how far a count is from its share.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mltrain.datasets.stratify import stratify  # noqa: E402
from mltrain.labels import LabelSet, compress  # noqa: E402


def long_tailed(images: int, classes: int) -> LabelSet:
    """Return labels whose frequencies fall as 1 / rank, about 2 per image."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, classes + 1)
    drawn = rng.choice(classes, 2 * images, p=share / share.sum())
    pairs = np.unique(np.repeat(np.arange(images), 2) * classes + drawn)
    rows, columns = np.divmod(pairs, classes)
    made = compress(rows, columns, np.ones(len(rows), dtype=np.int8), images)
    names = [f"class {k}" for k in range(classes)]
    return LabelSet(name="made/train", root="", files=[f"{i}.jpg" for i in range(images)], class_names=names, **made)


def off(labels: LabelSet, part: np.ndarray, folds: int) -> float:
    """Return the mean difference of a label's count in a fold from its share."""
    rows, columns = labels.positive_pairs()
    counts = np.zeros((folds, labels.num_classes))
    np.add.at(counts, (part[rows], columns), 1)
    return float(np.abs(counts - counts.sum(axis=0) / folds).mean())


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    labels = long_tailed(given.images, given.classes)
    start = time.process_time()
    part = stratify(labels, [1 / given.folds] * given.folds, seed=0)
    spent = time.process_time() - start
    random = np.random.default_rng(0).permutation(np.arange(given.images) % given.folds)
    sizes = np.bincount(part, minlength=given.folds)
    print(f"{given.images:,} images, {given.classes:,} classes, {given.folds} folds: {spent:.1f} s")
    print(f"sizes {sizes.min():,} to {sizes.max():,}; off {off(labels, part, given.folds):.2f} images, "
          f"random {off(labels, random, given.folds):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
