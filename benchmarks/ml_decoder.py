"""ML-Decoder head, forward and backward on the CPU, against the published formulation.

    python benchmarks/ml_decoder.py [--threads 2] [--repeats 7] [--tokens 49] [--batch 32]

The published formulation is restated here with torch's own modules: a decoder layer around nn.MultiheadAttention,
queries expanded over the batch, a Python loop over the groups that writes into a buffer of zeros. Both run in turn in
one process, in training mode with the published dropout; a line gives the medians, their ratio (and the median of the
ratios of neighbouring steps), and the bytes allocated in one step.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mltrain.models.heads import MLDecoder


class PublishedLayer(nn.Module):
    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop, self.drop1 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.drop2, self.drop3 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.multihead_attn = nn.MultiheadAttention(dim, 8, dropout=dropout)
        self.linear1, self.linear2 = nn.Linear(dim, 2048), nn.Linear(2048, dim)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = self.norm1(x + self.drop1(x))
        x = self.norm2(x + self.drop2(self.multihead_attn(x, memory, memory)[0]))
        return self.norm3(x + self.drop3(self.linear2(self.drop(F.relu(self.linear1(x))))))


class Published(nn.Module):
    """Sequence-first, as published; `groups` is min(100, C) by default there too."""

    def __init__(self, in_features: int, num_classes: int, groups: int, dropout: float = 0.1, dim: int = 768) -> None:
        super().__init__()
        self.num_classes, self.groups, self.factor = num_classes, groups, -(-num_classes // groups)
        self.embed = nn.Linear(in_features, dim)
        self.queries = nn.Embedding(groups, dim)
        self.queries.requires_grad_(False)
        self.layer = PublishedLayer(dim, dropout)
        self.weight = nn.Parameter(torch.empty(groups, dim, self.factor))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        nn.init.xavier_normal_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        memory = F.relu(self.embed(tokens), inplace=True)
        queries = self.queries.weight.unsqueeze(1).expand(-1, len(memory), -1)
        h = self.layer(queries, memory.transpose(0, 1)).transpose(0, 1)
        out = torch.zeros(len(h), self.groups, self.factor, device=h.device, dtype=h.dtype)
        for i in range(self.groups):
            out[:, i, :] = torch.matmul(h[:, i, :], self.weight[i])
        logits = out.flatten(1)[:, : self.num_classes]
        logits += self.bias
        return logits


def step(head: nn.Module, tokens: Tensor, weight: Tensor) -> None:
    head.zero_grad(set_to_none=True)
    tokens.grad = None
    head(tokens).backward(weight)


def seconds(head: nn.Module, tokens: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()
    step(head, tokens, weight)
    return time.perf_counter() - start


def allocated(head: nn.Module, tokens: Tensor, weight: Tensor) -> int:
    """Bytes of all allocations in one step, freed or not."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step(head, tokens, weight)
    # events named "[memory]" are one allocation (positive) or release (negative) each
    events = record.profiler.kineto_results.events()
    return sum(max(e.nbytes(), 0) for e in events if e.name() == "[memory]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=49)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--in-features", type=int, default=2048)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--classes", type=int, nargs="+", default=[80, 1006, 9605])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {args.threads} threads, {args.batch} x {args.tokens} x {args.in_features} tokens"
    )
    for num_classes in args.classes:
        for groups in (min(100, num_classes), 200) if num_classes > 5000 else (min(100, num_classes),):
            tokens = torch.randn(args.batch, args.tokens, args.in_features, requires_grad=True)
            weight = torch.randn(args.batch, num_classes)
            heads = [
                Published(args.in_features, num_classes, groups, args.dropout),
                MLDecoder(args.in_features, num_classes, groups=groups, dropout=args.dropout),
            ]
            times: list[list[float]] = [[], []]
            for head in heads:
                step(head, tokens, weight)
            for _ in range(args.repeats):
                for head, measured in zip(heads, times, strict=True):
                    measured.append(seconds(head, tokens, weight))
            published, ours = (statistics.median(t) for t in times)
            paired = statistics.median(a / b for a, b in zip(*times, strict=True))
            bytes_published, bytes_ours = (allocated(head, tokens, weight) for head in heads)
            print(
                f"{num_classes:>5} classes, {groups:>3} groups: published {published * 1e3:7.1f} ms, "
                f"ours {ours * 1e3:7.1f} ms, ratio {published / ours:.2f} (paired {paired:.2f}); "
                f"allocated {bytes_published / 2**20:.0f} and {bytes_ours / 2**20:.0f} MiB, "
                f"ratio {bytes_published / bytes_ours:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
