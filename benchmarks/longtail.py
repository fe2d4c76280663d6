"""Building long-tailed subsets at size: seconds to choose, to write and to read, and how near the curve they come.

    python benchmarks/longtail.py                          1 M images x 1,000 classes
    python benchmarks/longtail.py 4000000 9605 2.25        9 M labels

Labels are drawn with Zipf-like frequencies and a common theme per image, so that classes occur together.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mltrain.labels import LabelSet  # noqa: E402
from mltrain.longtail import LongTail, LongTailOptions, build_longtail, read_split  # noqa: E402


def make(images: int, classes: int, labels_per_image: float, themes: int = 50) -> LabelSet:
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(2, classes + 2) ** 0.8
    theme_of_class = rng.permutation(classes) % themes
    theme = rng.integers(themes, size=images)
    sizes = 1 + rng.poisson(labels_per_image - 1, size=images)
    rows = np.repeat(np.arange(images), sizes)
    cols = rng.choice(classes, size=len(rows), p=frequency / frequency.sum())
    by_theme = [np.flatnonzero(theme_of_class == k) for k in range(themes)]
    themed = rng.random(len(rows)) < 0.5  # half of the labels are of the image's theme
    for k, members in enumerate(by_theme):
        at = np.flatnonzero(themed & (theme[rows] == k))
        weights = frequency[members] / frequency[members].sum()
        cols[at] = rng.choice(members, size=len(at), p=weights)
    keys = np.unique(rows * classes + cols)
    rows, cols = keys // classes, keys % classes
    return LabelSet(
        name=f"synthetic_{images}x{classes}",
        root="data",
        files=np.char.mod(b"train/%08d.jpg", np.arange(images)),
        class_names=[f"class{c:05d}" for c in range(classes)],
        indptr=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=images))]),
        indices=cols,
        values=np.ones(len(cols), dtype=np.int8),
    )


def main() -> None:
    given = sys.argv[1:]
    images, classes = (int(given[0]), int(given[1])) if len(given) > 1 else (1_000_000, 1_000)
    source = make(images, classes, float(given[2]) if len(given) > 2 else 3.0)
    counts = np.bincount(source.positive_pairs()[1], minlength=classes)
    print(
        f"{images:,} images x {classes:,} classes, {counts.sum():,} labels, classes {counts.max():,}..{counts.min():,}"
    )
    for title, options in {
        "pareto": LongTailOptions(max=int(counts.max() // 2), min=5, shortage="clip"),
        "exponential": LongTailOptions(curve="exponential", max=int(counts.max() // 2), min=5, shortage="clip"),
        "published": LongTailOptions(method="published", max=int(counts.max() // 2), min=5, shortage="clip"),
    }.items():
        start = time.perf_counter()
        longtail = build_longtail(source, options)
        chosen = time.perf_counter() - start
        print(f"{title:<12} choose {chosen:6.1f} s   {report(longtail)}")
        if title == "exponential":
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                longtail.write(Path(folder) / "split")
                written = time.perf_counter() - start
                start = time.perf_counter()
                read_split(Path(folder) / "split")
                print(f"{'':<12} write {written:6.1f} s, read {time.perf_counter() - start:6.1f} s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def report(longtail: LongTail) -> str:
    counts, targets = longtail.stats.positives, longtail.targets
    off = np.abs(counts - targets) / np.maximum(targets, 1)
    return (
        f"{len(longtail.train):,} images; {np.mean(off == 0):.1%} of the classes exactly on target, "
        f"{off.mean():.2%} off on average, {off.max():.1%} at most"
    )


if __name__ == "__main__":
    main()
