"""Memory and time of a training step with and without gradient checkpointing.

    python benchmarks/grad_checkpointing.py [--models vit_base_patch16_224,resnet50] [--batch 16] [--rounds 3]
        [--device cpu]

Each case runs in a process of its own: forward, backward and AdamW step of a classifier of 80 classes with random
weights. Memory is the peak of the process (on a GPU: of torch's allocator) over weights, gradients and optimizer.
Seconds are CPU time of all threads, the least of the steps; on a GPU the time of the clock. The two cases take turns
for `--rounds`, and the figures are medians, with the range of the ratios over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from mltrain.losses import AsymmetricLoss
from mltrain.models import create_classifier
from mltrain.optim import adamw


class Peak:
    """The highest resident memory of this process while the block runs, read every 2 ms; MB."""

    def __enter__(self) -> Peak:
        self.mb, self._done = self.now(), False
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done = True
        self._thread.join()

    def _watch(self) -> None:
        while not self._done:
            self.mb = max(self.mb, self.now())
            time.sleep(0.002)

    @staticmethod
    def now() -> float:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096 / 1e6


def measure(name: str, checkpointing: bool, batch: int, steps: int, device: str) -> dict[str, float]:
    """Return seconds a step and MB over those of the weights, in this process."""
    torch.manual_seed(0)
    options = {"grad_checkpointing": checkpointing}
    model = create_classifier(name=name, num_classes=80, backbone_options=options).to(device).train()
    loss, optimizer = AsymmetricLoss(), adamw(model)
    side = model.backbone.image_size
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    targets = (torch.rand(batch, 80, device=device) < 0.03).to(torch.int8)

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            logits = model(images)
        loss(logits, targets).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = (
        torch.cuda.memory_allocated() / 1e6
        if device == "cuda"
        else sum(
            t.numel() * t.element_size()
            for p in model.parameters()
            for t in (p, p.grad, *optimizer.state[p].values())
            if isinstance(t, torch.Tensor)
        )
        / 1e6
        + BASE
    )
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    with Peak() as peak:
        for _ in range(steps):
            start = clock()
            step()
            seconds.append(clock() - start)
    most = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak.mb
    return {"seconds": min(seconds), "mb": most - before}


BASE = Peak.now()  # of the imports
COLUMNS = ("model", "batch", "MB without", "MB with", "ratio", "s without", "s with", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vit_base_patch16_224,resnet50")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        name, checkpointing = given.case.split(",")
        print(json.dumps(measure(name, checkpointing == "1", given.batch, given.steps, given.device)))
        return
    print(("{:<24}{:>6}" + 3 * "{:>12}" + 3 * "{:>11}").format(*COLUMNS))
    for name in given.models.split(","):
        options = ["--batch", str(given.batch), "--steps", str(given.steps), "--device", given.device]
        rounds = [[case(name, flag, options) for flag in "01"] for _ in range(given.rounds)]
        figures, ranges = [], []
        for key in ("mb", "seconds"):
            ratios = [with_it[key] / without[key] for without, with_it in rounds]
            middle = [statistics.median(results[flag][key] for results in rounds) for flag in (0, 1)]
            figures += [*middle, statistics.median(ratios)]
            ranges.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
        row = "{:<24}{:>6}{:>12.0f}{:>12.0f}{:>12.2f}" + 3 * "{:>11.2f}"
        print(row.format(name, given.batch, *figures), f"  (ratios {' and '.join(ranges)})", flush=True)


def case(name: str, flag: str, options: list[str]) -> dict[str, float]:
    """Return what `measure` finds in a process of its own."""
    command = [sys.executable, __file__, "--case", f"{name},{flag}", *options]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


if __name__ == "__main__":
    main()
