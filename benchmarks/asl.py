"""ASL forward+backward against the textbook eager formula: `python benchmarks/asl.py [--device cuda] [--compile]`.

The textbook is the published formula as written, 44 kernels with autograd. Both run in turns in one process.
Printed: medians, their ratio, and the peak of what each allocates beyond its inputs, the gradient included, in units of
one fp32 (B, C) tensor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mltrain.losses import AsymmetricLoss

Loss = Callable[[Tensor, Tensor], Tensor]


def textbook(x: Tensor, y: Tensor) -> Tensor:
    gamma_neg, gamma_pos, clip, eps = 4, 0, 0.05, 1e-8
    p = torch.sigmoid(x)
    q = 1 - p
    q = (q + clip).clamp(max=1)
    loss = y * torch.log(p.clamp(min=eps)) + (1 - y) * torch.log(q.clamp(min=eps))
    with torch.no_grad():
        pt = p * y + q * (1 - y)
        gamma = gamma_pos * y + gamma_neg * (1 - y)
        weight = torch.pow(1 - pt, gamma)
    return -(loss * weight).sum()


def step(loss: Loss, x: Tensor, y: Tensor) -> None:
    x.grad = None
    loss(x, y).backward()


def timed(loss: Loss, x: Tensor, y: Tensor, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        step(loss, x, y)
    if x.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def peak_bytes(loss: Loss, x: Tensor, y: Tensor) -> int:
    """Most memory allocated at once during one forward+backward, what stays in x.grad included."""
    x.grad = None
    if x.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, x, y)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step(loss, x, y)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="ours compiled, as runner.compile=auto has it here")
    parser.add_argument("--compile-textbook", action="store_true", help="the textbook with torch.compile")
    parser.add_argument("--calls", type=int, help="in a turn; default: 1, more for small shapes")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--shapes", nargs="+", default=["128x9605", "128x1006", "128x80"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


HEADER = f"{'textbook us':>13}{'ours us':>9}{'ratio':>7}{'peak textbook':>15}{'peak ours':>11}"


def compare(slow: Loss, fast: Loss, x: Tensor, y: Tensor, rounds: int, calls: int | None) -> str:
    """Both in turns of some calls; what stands below `HEADER`."""
    calls = calls or max(1, 400_000 // x.numel())
    runs: dict[Loss, list[float]] = {slow: [], fast: []}
    for _ in range(3):
        timed(slow, x, y, calls), timed(fast, x, y, calls)
    for _ in range(rounds):
        for loss in runs:
            runs[loss].append(timed(loss, x, y, calls))
    medians = [statistics.median(runs[loss]) * 1e6 for loss in (slow, fast)]
    peak = [peak_bytes(loss, x, y) / (4 * x.numel()) for loss in (slow, fast)]
    return f"{medians[0]:13.0f}{medians[1]:9.0f}{medians[0] / medians[1]:7.1f}{peak[0]:15.2f}{peak[1]:11.2f}"


def main() -> None:
    args = arguments(__doc__)
    ours = AsymmetricLoss()
    if args.compile:
        ours.compile()
    slow = torch.compile(textbook) if args.compile_textbook else textbook
    print(f"{'shape':10}{'targets':>9}{HEADER}")
    for shape in args.shapes:
        rows, classes = map(int, shape.split("x"))
        x = (torch.randn(rows, classes) * 2 - 2).to(args.device).requires_grad_()
        for dtype in (torch.float32, torch.int8):
            y = (torch.rand(rows, classes) < 3 / classes).to(args.device, dtype)
            print(f"{shape:10}{str(dtype)[6:]:>9}{compare(slow, ours, x, y, args.rounds, args.calls)}")


if __name__ == "__main__":
    main()
