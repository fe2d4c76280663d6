"""What single elementwise kernels cost on the CPU, which bounds what a loss made of them can reach.

    python benchmarks/kernels.py [--entries 131072] [--rounds 200]

By default one piece of the fused pass over the labels, which stays in the caches. Printed: the median of each kernel in
nanoseconds an entry, with one thread and with two (NumPy's have one).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

Kernel = Callable[[], object]


def kernels(entries: int) -> dict[str, Kernel]:
    x, out = torch.randn(entries), torch.empty(entries)
    weight, targets = torch.rand(entries), torch.zeros(entries, dtype=torch.int8)
    a, b = x.numpy(), out.numpy()
    positive = np.abs(a)
    return {
        "exp (NumPy)": lambda: np.exp(a, out=b),
        "log1p (NumPy)": lambda: np.log1p(positive, out=b),
        "log (NumPy)": lambda: np.log(positive, out=b),
        "exp": lambda: torch.exp(x, out=out),
        "log1p": lambda: torch.log1p(weight, out=out),
        "softplus": lambda: torch.ops.aten.softplus.out(x, 1, 50.0, out=out),
        "sigmoid": lambda: torch.sigmoid(x, out=out),
        "reciprocal": lambda: torch.reciprocal(weight, out=out),
        "add": lambda: torch.add(x, weight, out=out),
        "mul": lambda: torch.mul(x, weight, out=out),
        "square": lambda: torch.square(x, out=out),
        "lerp": lambda: torch.lerp(x, weight, weight, out=out),
        "sum": x.sum,
        "copy": lambda: out.copy_(x),
        "search of int8 targets": lambda: np.flatnonzero(targets.numpy().view(np.int64)),
    }


def nanoseconds(kernel: Kernel, entries: int, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        kernel()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=131_072)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    print(f"{'kernel':24}{'1 thread':>10}{'2 threads':>11}   ns an entry, {given.entries} entries")
    for name, kernel in kernels(given.entries).items():
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            nanoseconds(kernel, given.entries, 10)
            found.append(nanoseconds(kernel, given.entries, given.rounds))
        print(f"{name:24}{found[0]:10.3f}{found[1]:11.3f}")


if __name__ == "__main__":
    main()
