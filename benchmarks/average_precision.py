"""Speed and exactness of average precision beside scikit-learn and torchmetrics.

    python benchmarks/average_precision.py [--rounds 5] [--threads 2] [--quick] [--wide]

Scores are normal with positives one standard deviation up; targets int8, as an evaluation has them. The rivals take
turns (so a busy machine disturbs all alike) and medians are compared; torchmetrics, by far the slowest, runs once.
`--wide` adds 125,436 x 9,605, alone: 6 GB of input.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from mltrain.metrics import average_precision, micro_average_precision


def draw(images: int, classes: int, *, long_tailed: bool) -> tuple[Tensor, Tensor]:
    """About 3% positives in every class, or a power law from 40% down to 0.02%."""
    generator = torch.Generator().manual_seed(0)
    rates = torch.full((classes,), 0.03)
    if long_tailed:
        rates = (0.4 * torch.arange(1, classes + 1) ** -1.2).clamp(min=2e-4)
    targets = (torch.rand(images, classes, generator=generator) < rates).to(torch.int8)
    return torch.randn(images, classes, generator=generator).add_(targets), targets


def by_scikit_learn(logits: Tensor, targets: Tensor) -> np.ndarray:
    scores, labels = logits.numpy(), targets.numpy()
    return np.array([average_precision_score(labels[:, i], scores[:, i]) for i in range(scores.shape[1])])


def torchmetrics_contestant() -> Callable[[Tensor, Tensor], np.ndarray] | None:
    try:
        from torchmetrics.functional.classification import multilabel_average_precision
    except ImportError:
        return None

    def by_torchmetrics(logits: Tensor, targets: Tensor) -> np.ndarray:
        classes = logits.shape[1]
        return multilabel_average_precision(logits, targets.long(), classes, average=None, thresholds=None).numpy()

    return by_torchmetrics


def compare(contestants: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, tuple[float, np.ndarray]]:
    """Median seconds and result of each, in turns. The first round warms up; torchmetrics runs in it alone."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results = {}
    for turn in range(rounds + 1):
        for name, contestant in contestants.items():
            if turn and name == "torchmetrics":
                continue
            start = time.perf_counter()
            results[name] = contestant()
            if turn or name == "torchmetrics":
                seconds[name].append(time.perf_counter() - start)
    return {name: (statistics.median(seconds[name]), results[name]) for name in contestants}


def show(title: str, outcome: dict[str, tuple[float, np.ndarray]]) -> None:
    own_seconds, own = outcome["mltrain"]
    row = f"{title:32s} {1e3 * own_seconds:9.1f}"
    for name in ("scikit-learn", "torchmetrics"):
        if name not in outcome:
            row += " " * 33
            continue
        seconds, result = outcome[name]
        row += f" {1e3 * seconds:11.1f} {seconds / own_seconds:8.1f}x {np.nanmax(np.abs(result - own)):10.1e}"
    print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    parser.add_argument("--wide", action="store_true", help="also 125,436 x 9,605, without a rival")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="No positive")
    by_torchmetrics = torchmetrics_contestant()

    print(f"{'':32s} {'mltrain':>9s} {'scikit-learn':>32s} {'torchmetrics':>32s}")
    print(f"{'images x classes':32s} {'ms':>9s}" + f" {'ms':>11s} {'ratio':>9s} {'max diff':>10s}" * 2)
    for images, classes in ((5000, 80), (41000, 80), (25000, 480)):
        images = images // 10 if options.quick else images
        for long_tailed in (False, True):
            logits, targets = draw(images, classes, long_tailed=long_tailed)
            contestants = {
                "mltrain": lambda x=logits, y=targets: average_precision(x, y).numpy(),
                "scikit-learn": lambda x=logits, y=targets: by_scikit_learn(x, y),
            }
            if by_torchmetrics is not None:
                contestants["torchmetrics"] = lambda x=logits, y=targets: by_torchmetrics(x, y)
            title = f"{images} x {classes}{' long-tailed' if long_tailed else ''}"
            show(title, compare(contestants, options.rounds))
    images = 4100 if options.quick else 41000
    logits, targets = draw(images, 80, long_tailed=False)
    outcome = compare(
        {
            "mltrain": lambda: np.array(micro_average_precision(logits, targets)),
            "scikit-learn": lambda: np.array(
                average_precision_score(targets.flatten().numpy(), logits.flatten().numpy())
            ),
        },
        options.rounds,
    )
    show(f"{images} x 80 micro", outcome)

    if options.wide:
        logits, targets = torch.randn(125_436, 9_605), torch.zeros(125_436, 9_605, dtype=torch.int8)
        targets[torch.rand(125_436) < 0.003] = 1
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        average_precision(logits, targets)
        seconds = time.perf_counter() - start
        extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"125436 x 9605: {seconds:.1f} s, {extra:.0f} MiB above the input")


if __name__ == "__main__":
    main()
