"""DB-Focal forward+backward against the textbook formula: `python benchmarks/db.py [--device cuda] [--compile]`.

The textbook is the published formula as written, kernel by kernel with autograd. Both run in turns in one process.
Printed: medians, their ratio, and the peak of what each allocates beyond its inputs, the gradient included, in units of
one fp32 (B, C) tensor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from asl import HEADER, Loss, arguments, compare

from mltrain.labels import LabelStats
from mltrain.losses import DistributionBalancedLoss


def long_tail(classes: int, images: int) -> LabelStats:
    """Counts that fall from half the images to one, exponentially."""
    positives = np.exp(np.linspace(np.log(images / 2), 0, classes)).astype(np.int64)
    names = tuple(map(str, range(classes)))
    nothing = np.zeros(classes, dtype=np.int64)
    pairs = sparse.csr_matrix(np.diag(positives)) if classes < 100 else sparse.csr_matrix((classes, classes))
    return LabelStats(names, images, positives, images - positives, nothing, pairs)


def textbook(stats: LabelStats, device: str, *, mu: float = 0.2) -> Loss:
    counts = torch.tensor(stats.positives, dtype=torch.float32, device=device)
    inverse = 1 / counts
    bias = -torch.log(stats.num_images / counts - 1) * 0.05 / 2

    def loss(x: Tensor, y: Tensor) -> Tensor:
        y = y.float()
        rate = (y * inverse).sum(1, keepdim=True)
        weight = torch.sigmoid(10 * (inverse / rate - mu)) + 0.1
        x = x + bias
        x = x * (1 - y) * 2 + x * y
        weight = weight / 2 * (1 - y) + weight * y
        pt = torch.exp(-F.binary_cross_entropy_with_logits(x, y, reduction="none"))
        entropy = F.binary_cross_entropy_with_logits(x, y, weight=weight, reduction="none")
        return (2 * (1 - pt) ** 2 * entropy).mean()

    return loss


def main() -> None:
    args = arguments(__doc__)
    print(f"{'shape':10}{'targets':>9}{HEADER}{'difference':>12}")
    for shape in args.shapes:
        rows, classes = map(int, shape.split("x"))
        stats = long_tail(classes, images=100_000)
        slow = textbook(stats, args.device)
        if args.compile_textbook:
            slow = torch.compile(slow)
        fast = DistributionBalancedLoss(stats=stats, mu=0.2).to(args.device)
        if args.compile:
            fast.compile()
        x = (torch.randn(rows, classes) * 2 - 2).to(args.device).requires_grad_()
        for dtype in (torch.float32, torch.int8):
            drawn = torch.rand(rows, classes) < 3 / classes
            drawn[:, 0] = True  # every image has a positive: the textbook is NaN without
            y = drawn.to(args.device, dtype)
            gradients = [torch.autograd.grad(loss(x, y), x)[0] for loss in (slow, fast)]
            difference = ((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max()).item()
            print(
                f"{shape:10}{str(dtype)[6:]:>9}{compare(slow, fast, x, y, args.rounds, args.calls)}{difference:12.1e}"
            )


if __name__ == "__main__":
    main()
