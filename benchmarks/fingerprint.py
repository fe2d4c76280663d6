"""Measure what a run's memory of its data costs: fingerprint, file and comparison, beside `LabelSet.fingerprint`.

    python benchmarks/fingerprint.py                    1,000,000 images, 80 classes, 2.5 labels per image
    python benchmarks/fingerprint.py --images 9000000 --classes 9605

Figures are CPU seconds of one process (median of the rounds), so other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mltrain.datasets.fingerprint import Fingerprint, SplitFingerprint  # noqa: E402
from mltrain.datasets.splits import Splits  # noqa: E402
from mltrain.files import sha256_of  # noqa: E402
from mltrain.labels import LabelSet  # noqa: E402


def made_up(images: int, classes: int) -> LabelSet:
    """Return labels with long file names, 0 to 5 labels per image."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, min(6, classes), images)
    starts = np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(images), counts)
    step = np.arange(len(row)) - starts[row]
    columns = (rng.integers(0, classes, images)[row] + step) % classes
    files = [f"train2017/part-{i % 100:03d}/{i:012d}.jpg" for i in range(images)]
    names = [f"class {k}" for k in range(classes)]
    values = np.ones(len(row), dtype=np.int8)
    pairs = {"indptr": starts, "indices": columns, "values": values}
    return LabelSet(name="made/train", root="", files=files, class_names=names, **pairs)


def seconds(work: object, rounds: int) -> float:
    """Return the median CPU time of a call."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()  # type: ignore[operator]
        found.append(time.process_time() - start)
    return statistics.median(found)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    labels = made_up(given.images, given.classes)
    ours = seconds(lambda: SplitFingerprint.of(labels), given.rounds)
    plain = seconds(labels.fingerprint, given.rounds)
    print(
        f"{given.images:,} images: fingerprint {ours:.2f} s; LabelSet.fingerprint, which names nothing, {plain:.2f} s"
    )
    old = Fingerprint.of(Splits(labels, labels.select([])), {})
    fewer = labels.select(np.arange(1, len(labels)))
    new = Fingerprint.of(Splits(fewer, labels.select([])), {})
    same = seconds(lambda: old.differences(old, Splits(labels, labels.select([]))), given.rounds)
    other = seconds(lambda: old.differences(new, Splits(fewer, labels.select([]))), given.rounds)
    print(f"comparison: equal {same:.4f} s, one image gone {other:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.npz")
        content = old.to_arrays()
        np.savez(path, **(content | {"about": np.array(str(content["about"]))}))
        print(f"data.npz {path.stat().st_size / 1e6:.1f} MB")
        weights = Path(folder, "weights")
        weights.write_bytes(np.random.default_rng(0).bytes(100_000_000))
        print(f"a checkpoint file of 100 MB {seconds(lambda: sha256_of(weights), given.rounds):.2f} s")


if __name__ == "__main__":
    main()
