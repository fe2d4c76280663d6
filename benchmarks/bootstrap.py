"""Speed of the bootstrap of mAP over test images, beside computing mAP anew; and how often its intervals hold.

    python benchmarks/bootstrap.py [--images 5000] [--classes 80] [--resamples 1000]
    python benchmarks/bootstrap.py --coverage [--images 500] [--classes 260] [--rounds 200]

Speed: the other way (`mltrain.metrics.average_precision` of the drawn images) is timed on 20 resamples, whose figures
must agree to 1e-9. Coverage: so many made-up test sets with long-tailed labels, two models whose logits share what is
hard in an image; counted is in how many the interval of the difference holds its mean over all test sets. The same for
the mAP of one model, with the interval that pages show (`centred_interval`) and with plain percentiles.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from mltrain.metrics import average_precision
from mltrain.report.bootstrap import centred_interval, percentile_interval, resample, resampled_figures


def draw(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, and logits of a model and of a slightly better one."""
    random = np.random.default_rng(seed)
    rates = np.clip(0.25 * np.arange(1, classes + 1) ** -1.1, 0.003, 1)
    targets = (random.random((images, classes)) < rates).astype(np.int8)
    hard = random.normal(size=targets.shape)
    one, other = (hard + 0.7 * random.normal(size=targets.shape) + gain * targets for gain in (1.8, 2.1))
    return targets, one.astype(np.float32), other.astype(np.float32)


def speed(images: int, classes: int, resamples: int) -> None:
    targets, logits, _ = draw(images, classes, 0)
    start = time.perf_counter()
    weights = resample(images, resamples)
    found = resampled_figures(logits, targets, weights, {})["map"]
    ours = time.perf_counter() - start
    start, few = time.perf_counter(), min(20, resamples)
    for k in range(few):
        drawn = np.repeat(np.arange(images), weights[k])
        ap = average_precision(torch.from_numpy(logits[drawn]), torch.from_numpy(targets[drawn])).numpy()
        assert abs(100 * np.nanmean(ap) - found[k]) < 1e-9
    anew = (time.perf_counter() - start) * resamples / few
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{images:,} x {classes}, {resamples} resamples: {ours:.2f} s; anew {anew:.1f} s ({anew / ours:.0f}x)")
    print(f"peak memory of the process {peak:.0f} MB")


def coverage(images: int, classes: int, rounds: int, resamples: int) -> None:
    differences, levels = [], []
    for k in range(rounds):
        targets, one, other = draw(images, classes, k)
        whole = np.ones((1, images), dtype=np.int64)
        weights = resample(images, resamples, seed=k)
        level, better = (
            [resampled_figures(logits, targets, w, {})["map"] for w in (whole, weights)] for logits in (one, other)
        )
        differences.append([percentile_interval(better[0][0] - level[0][0], better[1] - level[1])])
        levels.append([kind(level[0][0], level[1]) for kind in (centred_interval, percentile_interval)])
    for name, rows in (("difference", differences), ("mAP", levels)):
        values = [row[0].value for row in rows]
        mean = float(np.mean(values))
        held = [np.mean([each.low <= mean <= each.high for each in kind]) for kind in zip(*rows, strict=True)]
        shares = ", ".join(f"{100 * share:.1f} %" for share in held)
        print(f"{images:,} x {classes}, {rounds} test sets: {name} {mean:.2f} ± {np.std(values):.2f}")
        print(f"95 % intervals that hold it: {shares}" + (" (with plain percentiles)" if len(held) > 1 else ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--resamples", type=int)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--coverage", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.coverage:
        coverage(given.images or 500, given.classes or 260, given.rounds, given.resamples or 300)
    else:
        speed(given.images or 5000, given.classes or 80, given.resamples or 1000)
